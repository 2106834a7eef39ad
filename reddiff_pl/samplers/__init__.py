"""Samplers: from a measurement and a prior to an image. No input or output, no device names."""

from reddiff_pl.errors import Stopped
from reddiff_pl.samplers.base import Sampler, State, run
from reddiff_pl.samplers.ddim import DDIM
from reddiff_pl.samplers.ddrm import DDRM
from reddiff_pl.samplers.diffpir import DiffPIR
from reddiff_pl.samplers.dps import DPS
from reddiff_pl.samplers.noise import Noise, ReplayedNoise, SeededNoise
from reddiff_pl.samplers.pigdm import PiGDM
from reddiff_pl.samplers.proximal import ProximalREDDiff
from reddiff_pl.samplers.reddiff import REDDiff
from reddiff_pl.samplers.sequence import Sequence

__all__ = [
    "DDIM",
    "DDRM",
    "DPS",
    "DiffPIR",
    "Noise",
    "PiGDM",
    "ProximalREDDiff",
    "REDDiff",
    "ReplayedNoise",
    "Sampler",
    "SeededNoise",
    "Sequence",
    "State",
    "Stopped",
    "run",
]
