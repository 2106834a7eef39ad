"""Exact means and covariances of samplers that are affine in their noise, as they are under a Gaussian prior."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from reddiff_pl.priors import Gaussian


class Silent:
    """No noise: with it an affine sampler returns its mean."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def normal(
        self, name: str, shape: Sequence[int], dtype: torch.dtype, step: int = 0, k: int = 0
    ) -> Tensor:
        return torch.zeros(self.batch, *shape, dtype=dtype)


class Impulses:
    """Image (j, i) of the batch gets a 1 at pixel i of draw j and nothing else; draw 0 is "init", j + 1 step j's.

    The sum over the batch of outer products of (x - mean) is the covariance of a sampler's result.
    """

    def __init__(self, draws: int, shape: Sequence[int], pixels: Sequence[int] | None = None) -> None:
        size = torch.Size(shape).numel()
        self.pixels = list(range(size)) if pixels is None else list(pixels)
        self.draws, self.batch = draws, draws * len(self.pixels)

    def normal(
        self, name: str, shape: Sequence[int], dtype: torch.dtype, step: int = 0, k: int = 0
    ) -> Tensor:
        draws = torch.zeros(self.draws, len(self.pixels), torch.Size(shape).numel(), dtype=dtype)
        row = 0 if name == "init" else step + 1
        for i, pixel in enumerate(self.pixels):
            draws[row, i, pixel] = 1
        return draws.reshape(-1, *shape)


def abar(t: int) -> float:
    return 1.0 if t < 0 else math.prod(1 - (1e-4 + (0.02 - 1e-4) * s / 999) for s in range(t + 1))


def levels(steps: int) -> list[tuple[float, float]]:
    """abar of each timestep of the uniform grid and of the next one."""
    times = [*range(0, 1000, 1000 // steps)][::-1]
    return [(abar(t), abar(s)) for t, s in zip(times, [*times[1:], -1], strict=True)]


def spectrum(n: int) -> Tensor:
    """Eigenvalues of the covariance of an n x n field of `Gaussian`'s defaults, one a Fourier mode, (n, n)."""
    k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    powers = (1 + k[:, None] ** 2 + k[None, :] ** 2) ** -1.25
    return powers * 0.25 / powers.mean()


def in_modes(x: Tensor, gain: Tensor) -> Tensor:
    return torch.fft.ifft2(torch.fft.fft2(x) * gain).real


def white(shape: tuple[int, int, int]) -> Gaussian:
    """The standard normal prior."""
    return Gaussian(shape, variance=1.0, exponent=0.0)
