"""Measurement noise. A deepinv operator's own noise_model is not used: its scale depends on the range."""

from __future__ import annotations

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError


class MeasurementNoise:
    """Adds noise to one clean measurement.

    Attributes:
        sigma_y: standard deviation on the [0, 1] scale, where it is one number; else 0.
    """

    sigma_y: float = 0.0

    def __call__(self, y: Tensor, scale: float, generator: torch.Generator) -> Tensor:
        """The noisy measurement.

        Args:
            y: clean measurement of one image, float32, on the CPU.
            scale: what one unit of [0, 1] is in y's range (2 on [-1, 1] data).
            generator: the sample's own stream.
        """
        raise NotImplementedError


class NoNoise(MeasurementNoise):
    """The measurement as it is."""

    def __call__(self, y: Tensor, scale: float, generator: torch.Generator) -> Tensor:
        return y


class GaussianNoise(MeasurementNoise):
    """White Gaussian noise.

    Args:
        sigma_y: standard deviation on the [0, 1] scale: 0.05 adds 0.1 N(0, 1) to [-1, 1] data.
    """

    def __init__(self, sigma_y: float = 0.05) -> None:
        if not sigma_y >= 0:
            raise ConfigError(f"model.noise.init_args.sigma_y: must not be negative, got {sigma_y}")
        self.sigma_y = sigma_y

    def __call__(self, y: Tensor, scale: float, generator: torch.Generator) -> Tensor:
        return y + scale * self.sigma_y * torch.randn(y.shape, generator=generator)


class PoissonNoise(MeasurementNoise):
    """Photon noise: gain * Poisson(u / gain) on the [0, 1] scale, with u = y there, clamped at 0.

    Args:
        gain: brightness of one photon, on the [0, 1] scale.
    """

    def __init__(self, gain: float = 0.01) -> None:
        if not gain > 0:
            raise ConfigError(f"model.noise.init_args.gain: must be positive, got {gain}")
        self.gain = gain

    def __call__(self, y: Tensor, scale: float, generator: torch.Generator) -> Tensor:
        offset = scale - 1  # [-1, 1] data are 2u - 1, [0, 1] data are u
        unit = ((y + offset) / scale).clamp(min=0)
        return scale * self.gain * torch.poisson(unit / self.gain, generator=generator) - offset
