"""A stationary Gaussian field as a prior: every quantity has a closed form, so samplers can be checked.

x0 ~ N(m, C) with C diagonal in the 2-D Fourier basis; then with a = abar_t

    eps(x_t, t) = sqrt(1-a) (a C + (1-a) I)^-1 (x_t - sqrt(a) m).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from reddiff_pl.priors.base import Prior, linear_abar, per_image


class Gaussian(Prior):
    """Gaussian random fields with power-law spectrum (1 + k^2)^-exponent, independent channels.

    Args:
        shape: (C, H, W) of the images.
        variance: variance of a pixel, on the [-1, 1] scale.
        exponent: decay of the spectrum; k counts whole periods over the image.
        mean: mean of every pixel.
        T: number of timesteps of the linear beta schedule.
    """

    spectrum: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 32, 32),
        variance: float = 0.25,
        exponent: float = 1.25,
        mean: float = 0.0,
        T: int = 1000,
    ) -> None:
        super().__init__()
        self.shape, self.mean = tuple(shape), mean  # type: ignore[assignment]
        self.register_buffer("abar", linear_abar(T))
        _, height, width = self.shape
        ky = torch.fft.fftfreq(height, 1 / height, dtype=torch.float64)[:, None]
        kx = torch.fft.rfftfreq(width, 1 / width, dtype=torch.float64)[None, :]
        spectrum = (1 + ky**2 + kx**2) ** -exponent
        # eigenvalues of C; their mean over the full plane is the variance of a pixel
        full = (
            1 + ky**2 + torch.fft.fftfreq(width, 1 / width, dtype=torch.float64)[None, :] ** 2
        ) ** -exponent
        self.register_buffer("spectrum", spectrum * variance / full.mean())

    def settings(self) -> str:
        return f"mean {self.mean}"

    def filter(self, x: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
        """gain(C) x for a function of the covariance C, (B, C, H, W) -> the same."""
        spectrum = gain(self.spectrum.to(x.dtype))
        return torch.fft.irfft2(torch.fft.rfft2(x) * spectrum, s=x.shape[-2:])

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        a = per_image(self.abar[t].to(x_t.dtype), x_t)
        return (1 - a).sqrt() * self.filter(x_t - a.sqrt() * self.mean, lambda c: 1 / (a * c + 1 - a))

    def sample(self, normal: Tensor) -> Tensor:
        """Images of this prior from standard normal draws, (B, C, H, W)."""
        return self.mean + self.filter(normal, torch.sqrt)

    def covariance(self) -> Tensor:
        """C of one image, dense, float64 (D, D) with D = C H W. Small images only."""
        identity = torch.eye(torch.Size(self.shape).numel(), dtype=torch.float64).reshape(-1, *self.shape)
        return self.filter(identity, lambda c: c).flatten(1)

    def posterior(self, y: Tensor, physics: LinearPhysics, noise_std: float) -> tuple[Tensor, Tensor]:
        """Mean (B, C, H, W) and covariance (D, D) of x0 given y = A x0 + noise_std n, dense, float64.

        Args:
            y: measurements, (B, ...), of one operator for all (no per-image parameters).
            physics: a linear operator.
            noise_std: standard deviation of the noise, on the measurement's scale.
        """
        C = self.covariance()
        A = dense_matrix(physics, self.shape)
        mean = torch.full((len(C),), self.mean, dtype=torch.float64)
        gain = torch.linalg.solve(
            A @ C @ A.T + noise_std**2 * torch.eye(len(A), dtype=torch.float64), A @ C
        ).T
        residual = y.double().flatten(1) - mean @ A.T
        return (mean + residual @ gain.T).reshape(-1, *self.shape), C - gain @ A @ C


def dense_matrix(physics: LinearPhysics, shape: tuple[int, int, int]) -> Tensor:
    """The matrix of a linear operator with no per-image parameters, float64 (M, D)."""
    identity = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).reshape(-1, *shape)
    return physics.A(identity).flatten(1).T
