"""The orthonormal discrete cosine transform (DCT-II) of images of any size, on any device."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

# points; beyond that a Fourier transform takes less time. On CUDA it needs a plan for each length, as long to make as a
# hundred products
MATRICES_UP_TO = {"cpu": 1024, "cuda": 2048}
BASES_KEPT = 16


@functools.lru_cache(maxsize=BASES_KEPT)
def _basis(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    k = torch.arange(n, dtype=torch.float64, device=device)
    basis = torch.cos(math.pi * k[:, None] * (k + 0.5) / n) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis.to(dtype)


def cosine_basis(n: int, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
    """The transform of n points as a matrix (n, n); its first row is constant. Kept: not to be written to."""
    return _basis(n, dtype, torch.device(device))


def to_cosines(x: Tensor) -> Tensor:
    """Coefficients (..., H, W) of images (..., H, W)."""
    return _forward(_forward(x).mT).mT


def from_cosines(c: Tensor) -> Tensor:
    """Images (..., H, W) of coefficients (..., H, W): the inverse, and the adjoint."""
    return _inverse(_inverse(c).mT).mT


def _forward(x: Tensor) -> Tensor:
    """Along the last dimension.

    The Fourier transform V of (x0, x2, x4, ..., x5, x3, x1), turned by w_k = exp(-i pi k / 2n), holds the coefficients
    k and n - k as its real and its negative imaginary part.

    References:
        A fast cosine transform in one and two dimensions | https://doi.org/10.1109/TASSP.1980.1163351
    """
    n = x.shape[-1]
    if n <= MATRICES_UP_TO.get(x.device.type, 1024):
        return x @ cosine_basis(n, x.dtype, x.device).mT
    turned = torch.fft.rfft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1)) * _turn(n, x)
    c = torch.cat([turned.real, -turned.imag[..., 1 : (n + 1) // 2].flip(-1)], -1) * math.sqrt(2 / n)
    c[..., 0] /= math.sqrt(2)
    return c


def _inverse(c: Tensor) -> Tensor:
    n = c.shape[-1]
    if n <= MATRICES_UP_TO.get(c.device.type, 1024):
        return c @ cosine_basis(n, c.dtype, c.device)
    c = c * math.sqrt(n / 2)
    c[..., 0] *= math.sqrt(2)
    half = n // 2 + 1
    mirrored = torch.cat([torch.zeros_like(c[..., :1]), c[..., n - half + 1 :].flip(-1)], -1)
    values = torch.fft.irfft(torch.complex(c[..., :half], -mirrored) * _turn(n, c).conj(), n=n)
    x = torch.empty_like(c)
    x[..., ::2] = values[..., : (n + 1) // 2]
    x[..., 1::2] = values[..., (n + 1) // 2 :].flip(-1)
    return x


def _turn(n: int, like: Tensor) -> Tensor:
    """w_k for the half spectrum of n points, complex."""
    angle = torch.arange(n // 2 + 1, dtype=torch.float64, device=like.device) * (-math.pi / (2 * n))
    return torch.polar(torch.ones_like(angle), angle).to(like.dtype.to_complex())
