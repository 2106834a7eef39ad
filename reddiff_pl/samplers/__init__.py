"""Samplers: from a measurement and a prior to an image. No input or output, no device names."""

from reddiff_pl.errors import Stopped
from reddiff_pl.samplers.base import Sampler, State, run
from reddiff_pl.samplers.noise import Noise, ReplayedNoise, SeededNoise
from reddiff_pl.samplers.reddiff import REDDiff

__all__ = ["Noise", "REDDiff", "ReplayedNoise", "Sampler", "SeededNoise", "State", "Stopped", "run"]
