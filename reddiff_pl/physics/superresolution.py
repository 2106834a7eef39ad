"""Super-resolution: A(x) = mean of each f x f block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.cosines import cosine_basis
from reddiff_pl.physics.decomposable import Decomposable
from reddiff_pl.physics.sizes import Reduction


class SuperResolution(Reduction, Decomposable):
    """Block means. A_dagger replicates each pixel of the measurement, exact (A A_dagger = I).

    Blocks begin at the first row and column. Of sides that the factor does not divide, the last blocks are means over
    fewer pixels, as Pillow's `Image.reduce` makes them: ceil(H / f) x ceil(W / f).

    V^T is the cosine transform of each block. A block's mean is its first coefficient over the root of its number of
    pixels; the others are lost.

    Args:
        factor: f, the side of a block in pixels.
    """

    complete = True

    def __init__(self, factor: int = 4) -> None:
        super().__init__()
        if factor < 1:
            raise ConfigError(f"model.physics.init_args.factor: must be at least 1, got {factor}")
        self.factor = factor

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return F.avg_pool2d(x, self.factor, ceil_mode=True)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        x = self.A_dagger(y)
        return x * self.singular_values(x, everywhere=True).square()

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        height, width = self.size_of(y.shape)
        x = y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return x[..., :height, :width].contiguous()

    def singular_values(self, like: Tensor, everywhere: bool = False) -> Tensor:
        """S; or, everywhere, that of a pixel's own block."""
        f = self.factor
        sides = []
        for n in like.shape[-2:]:
            side = torch.full((n,), f, dtype=like.dtype, device=like.device)
            side[n - n % f :] = n % f  # pixels a side of the block that a pixel is in
            if not everywhere:
                side[torch.arange(n, device=like.device) % f > 0] = torch.inf
            sides.append(side)
        return (sides[0][:, None] * sides[1]).rsqrt()[None, None]

    def V(self, coefficients: Tensor) -> Tensor:
        return self._blockwise(coefficients, inverse=True)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return self._blockwise(x, inverse=False)

    def U(self, coefficients: Tensor) -> Tensor:
        return coefficients[..., :: self.factor, :: self.factor].clone()

    def U_adjoint(self, y: Tensor) -> Tensor:
        coefficients = y.new_zeros((*y.shape[:-2], *self.size_of(y.shape)))
        coefficients[..., :: self.factor, :: self.factor] = y
        return coefficients

    def _blockwise(self, x: Tensor, inverse: bool) -> Tensor:
        """The cosine transform of every block along its rows and its columns."""
        for _ in range(2):
            x = self._along_rows(x, inverse).mT
        return x.contiguous()

    def _along_rows(self, x: Tensor, inverse: bool) -> Tensor:
        n, f = x.shape[-1], self.factor
        parts = []
        for piece, length in ((x[..., : n - n % f], f), (x[..., n - n % f :], n % f)):
            if piece.shape[-1]:
                basis = cosine_basis(length, x.dtype, x.device)
                parts.append(
                    (piece.unflatten(-1, (-1, length)) @ (basis if inverse else basis.mT)).flatten(-2)
                )
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]
