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

    def std(self, y: Tensor, scale: float) -> float:
        """Standard deviation of the noise in y's units; where it varies over y, its root mean square.

        Args:
            y: measurement of one image, noisy or clean.
            scale: what one unit of [0, 1] is in y's range.
        """
        return scale * self.sigma_y


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

    def std(self, y: Tensor, scale: float) -> float:
        offset = scale - 1
        unit = ((y + offset) / scale).clamp(min=0)
        return scale * float((self.gain * unit.mean()).sqrt())


def estimate_noise_std(y: Tensor, measured: Tensor) -> float:
    """Standard deviation of white noise in one measurement, from the measurement alone, in its units.

    The median of |d| / 0.6745 over the diagonal details d = (a - b - c + e) / 2 of all 2x2 squares that are measured
    whole: smooth regions and straight edges leave only the noise there. Texture adds to it, so it is an upper bound.
    Where masks leave too few squares, over the differences (a - b) / sqrt(2) of neighbours; where they leave too few of
    these, or y is no image, over those of values that follow each other.

    Args:
        y: measurement, (C, H, W) or any other shape, real or complex.
        measured: where the image has a say in it, bool, like y.

    Returns:
        the estimate; 0 where fewer than 16 differences are left.

    References:
        Ideal spatial adaptation by wavelet shrinkage | https://doi.org/10.1093/biomet/81.3.425
    """
    if y.is_complex():  # noise of real and imaginary part
        y, measured = torch.cat([y.real, y.imag]), torch.cat([measured, measured])
    found = [_squares, _neighbours] if y.ndim == 3 else []
    for differences in [*found, _followers]:
        values = differences(y, measured)
        if values.numel() >= (64 if differences is not _followers else 16):
            return float(values.abs().median() / 0.6745)
    return 0.0


def _squares(y: Tensor, measured: Tensor) -> Tensor:
    corners = [(slice(i, y.shape[1] - 1 + i), slice(j, y.shape[2] - 1 + j)) for i in (0, 1) for j in (0, 1)]
    a, b, c, e = (y[:, rows, columns] for rows, columns in corners)
    whole = torch.stack([measured[:, rows, columns] for rows, columns in corners]).all(0)
    return (a - b - c + e)[whole] / 2


def _neighbours(y: Tensor, measured: Tensor) -> Tensor:
    across = (y[..., 1:] - y[..., :-1])[measured[..., 1:] & measured[..., :-1]]
    down = (y[..., 1:, :] - y[..., :-1, :])[measured[..., 1:, :] & measured[..., :-1, :]]
    return torch.cat([across, down]) / 2**0.5


def _followers(y: Tensor, measured: Tensor) -> Tensor:
    values = y[measured]
    return (values[1:] - values[:-1]) / 2**0.5
