"""Operators and measurement noise: what deepinv lacks or is slow at, as subclasses of its Physics."""

from reddiff_pl.physics.bicubic import BicubicSuperResolution
from reddiff_pl.physics.binding import bind
from reddiff_pl.physics.blur import GaussianDeblurring
from reddiff_pl.physics.box_blur import UniformDeblurring
from reddiff_pl.physics.compose import Compose
from reddiff_pl.physics.compressed import CompressedSensing
from reddiff_pl.physics.convolution import KernelDeblurring
from reddiff_pl.physics.decomposable import Decomposable
from reddiff_pl.physics.degrade import Degradation
from reddiff_pl.physics.denoising import Colorization, Denoising
from reddiff_pl.physics.inpainting import Inpainting
from reddiff_pl.physics.jpeg import JPEG
from reddiff_pl.physics.kernels import AnisotropicGaussianKernel, MotionKernel
from reddiff_pl.physics.masks import BoxMask, FreeFormMask, RandomMask
from reddiff_pl.physics.noise import GaussianNoise, MeasurementNoise, NoNoise, PoissonNoise
from reddiff_pl.physics.nonlinear_blur import NonlinearBlur
from reddiff_pl.physics.phase_retrieval import PhaseRetrieval
from reddiff_pl.physics.pointwise import HDR, Quantization
from reddiff_pl.physics.separable import Separable
from reddiff_pl.physics.superresolution import SuperResolution
from reddiff_pl.physics.unit_range import UnitRange

__all__ = [
    "HDR",
    "JPEG",
    "AnisotropicGaussianKernel",
    "BicubicSuperResolution",
    "BoxMask",
    "Colorization",
    "Compose",
    "CompressedSensing",
    "Decomposable",
    "Degradation",
    "Denoising",
    "FreeFormMask",
    "GaussianDeblurring",
    "GaussianNoise",
    "Inpainting",
    "KernelDeblurring",
    "MeasurementNoise",
    "MotionKernel",
    "NoNoise",
    "NonlinearBlur",
    "PhaseRetrieval",
    "PoissonNoise",
    "Quantization",
    "RandomMask",
    "Separable",
    "SuperResolution",
    "UniformDeblurring",
    "UnitRange",
    "bind",
]
