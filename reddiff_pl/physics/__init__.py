"""Operators and measurement noise: what deepinv lacks or is slow at, as subclasses of its Physics."""

from reddiff_pl.physics.binding import bind
from reddiff_pl.physics.blur import GaussianDeblurring
from reddiff_pl.physics.decomposable import Decomposable
from reddiff_pl.physics.degrade import Degradation
from reddiff_pl.physics.inpainting import Inpainting
from reddiff_pl.physics.masks import BoxMask, FreeFormMask, RandomMask
from reddiff_pl.physics.noise import GaussianNoise, MeasurementNoise, NoNoise, PoissonNoise
from reddiff_pl.physics.separable import Separable
from reddiff_pl.physics.superresolution import SuperResolution
from reddiff_pl.physics.unit_range import UnitRange

__all__ = [
    "BoxMask",
    "Decomposable",
    "Degradation",
    "FreeFormMask",
    "GaussianDeblurring",
    "GaussianNoise",
    "Inpainting",
    "MeasurementNoise",
    "NoNoise",
    "PoissonNoise",
    "RandomMask",
    "Separable",
    "SuperResolution",
    "UnitRange",
    "bind",
]
