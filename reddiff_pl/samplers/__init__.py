"""Samplers: from a measurement and a prior to an image. No input or output, no device names."""

from reddiff_pl.errors import Stopped
from reddiff_pl.samplers.base import Problem, Sampler, State, run
from reddiff_pl.samplers.daps import DAPS
from reddiff_pl.samplers.ddim import DDIM
from reddiff_pl.samplers.ddnm import DDNM
from reddiff_pl.samplers.ddrm import DDRM
from reddiff_pl.samplers.diffpir import DiffPIR
from reddiff_pl.samplers.dps import DPS
from reddiff_pl.samplers.noise import Noise, ReplayedNoise, SeededNoise
from reddiff_pl.samplers.perception import Renoise
from reddiff_pl.samplers.pigdm import PiGDM
from reddiff_pl.samplers.pnpdm import PnPDM
from reddiff_pl.samplers.proximal import ProximalREDDiff
from reddiff_pl.samplers.reddiff import REDDiff
from reddiff_pl.samplers.sequence import Sequence

__all__ = [
    "DAPS",
    "DDIM",
    "DDNM",
    "DDRM",
    "DPS",
    "DiffPIR",
    "Noise",
    "PiGDM",
    "PnPDM",
    "Problem",
    "ProximalREDDiff",
    "REDDiff",
    "Renoise",
    "ReplayedNoise",
    "Sampler",
    "SeededNoise",
    "Sequence",
    "State",
    "Stopped",
    "run",
]
