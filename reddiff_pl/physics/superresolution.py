"""Super-resolution: A(x) = mean of each f x f block."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.decomposable import Decomposable


def cosine_basis(n: int) -> Tensor:
    """The orthonormal discrete cosine transform of n points, float64 (n, n); its first row is constant."""
    k = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi * k[:, None] * (k + 0.5) / n) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis


class SuperResolution(Decomposable):
    """Block means. A_dagger replicates each pixel of the measurement, exact (A A_dagger = I).

    V^T is the cosine transform of each block. A block's mean is its first coefficient over f; the others are lost.

    Args:
        factor: f, the side of a block in pixels; must divide the image's sides.
    """

    basis: Tensor

    def __init__(self, factor: int = 4) -> None:
        super().__init__()
        if factor < 1:
            raise ConfigError(f"model.physics.init_args.factor: must be at least 1, got {factor}")
        self.factor = factor
        self.register_buffer("basis", cosine_basis(factor), persistent=False)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ConfigError(
                f"model.physics.init_args.factor: {self.factor} does not divide the image's "
                f"{x.shape[-1]}x{x.shape[-2]} pixels"
            )
        return F.avg_pool2d(x, self.factor)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.A_dagger(y) / self.factor**2

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)

    def singular_values(self, like: Tensor) -> Tensor:
        s = torch.zeros_like(like[:1, :1])
        s[..., :: self.factor, :: self.factor] = 1 / self.factor
        return s

    def V(self, coefficients: Tensor) -> Tensor:
        return self._blockwise(coefficients, self.basis.mT)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return self._blockwise(x, self.basis)

    def U(self, coefficients: Tensor) -> Tensor:
        return coefficients[..., :: self.factor, :: self.factor].clone()

    def U_adjoint(self, y: Tensor) -> Tensor:
        height, width = y.shape[-2] * self.factor, y.shape[-1] * self.factor
        coefficients = y.new_zeros((*y.shape[:-2], height, width))
        coefficients[..., :: self.factor, :: self.factor] = y
        return coefficients

    def _blockwise(self, x: Tensor, basis: Tensor) -> Tensor:
        """basis X basis^T for every f x f block X."""
        f, basis = self.factor, basis.to(x.dtype)
        blocks = x.unflatten(-1, (-1, f)).unflatten(-3, (-1, f))  # (..., H/f, f, W/f, f)
        return torch.einsum("ai,bj,...hiwj->...hawb", basis, basis, blocks).reshape(x.shape)
