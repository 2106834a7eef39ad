"""Operators that act on rows and columns by one matrix each."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reddiff_pl.physics.decomposable import Decomposable


class _SVD(NamedTuple):
    """One matrix (B or 1, 1, m, n) decomposed, float64: u (m, min(m, n)), s padded with zeros to n, vh (n, n)."""

    u: Tensor
    s: Tensor
    vh: Tensor


class Separable(Decomposable):
    """A(X) = H X K^T for each channel, with H = U1 S1 V1^T and K = U2 S2 V2^T.

    Then V(c) = V1 c V2^T, U(c) = U1 c U2^T, and the singular values are the products s1_i s2_j. A subclass gives the
    matrices, and `size_of` where measurements are of another size than images. The decomposition, in float64, is
    kept as long as the matrices stay the same; A itself is two matrix products.
    """

    complete = True

    def __init__(self) -> None:
        super().__init__()
        self._kept: tuple[Tensor, Tensor, _SVD, _SVD] | None = None

    def matrices(self, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """H (B or 1, M, height) and K (B or 1, N, width), for images of this size."""
        raise NotImplementedError

    def size_of(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of the images whose measurements are (..., M, N); by default the same."""
        return shape[-2], shape[-1]

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        height, width = x.shape[-2:]
        rows, columns = self.matrices(height, width, x.dtype)
        return rows[:, None] @ x @ columns[:, None].mT

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        height, width = self.size_of(y.shape)
        rows, columns = self.matrices(height, width, y.dtype)
        return rows[:, None].mT @ y @ columns[:, None]

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        # in float64: float32 singular vectors leave errors of 1e-6 / cut
        return super().A_dagger(y.double()).to(y.dtype)

    def singular_values(self, like: Tensor) -> Tensor:
        rows, columns = self._decomposed(*like.shape[-2:])
        product = rows.s[..., :, None] * columns.s[..., None, :]
        # what rounding leaves of a zero
        floor = 1e-14 * max(like.shape[-2:]) * product.amax((-2, -1), keepdim=True)
        return torch.where(product > floor, product, 0).to(like.dtype)

    def V(self, coefficients: Tensor) -> Tensor:
        rows, columns = self._decomposed(*coefficients.shape[-2:])
        return rows.vh.to(coefficients.dtype).mT @ coefficients @ columns.vh.to(coefficients.dtype)

    def V_adjoint(self, x: Tensor) -> Tensor:
        rows, columns = self._decomposed(*x.shape[-2:])
        return rows.vh.to(x.dtype) @ x @ columns.vh.to(x.dtype).mT

    def U(self, coefficients: Tensor) -> Tensor:
        rows, columns = self._decomposed(*coefficients.shape[-2:])
        u, p = rows.u.to(coefficients.dtype), columns.u.to(coefficients.dtype)
        kept = coefficients * (self.singular_values(coefficients) > 0)
        return u @ kept[..., : u.shape[-1], : p.shape[-1]] @ p.mT

    def U_adjoint(self, y: Tensor) -> Tensor:
        height, width = self.size_of(y.shape)
        rows, columns = self._decomposed(height, width)
        inner = rows.u.to(y.dtype).mT @ y @ columns.u.to(y.dtype)
        coefficients = F.pad(inner, (0, width - inner.shape[-1], 0, height - inner.shape[-2]))
        return coefficients * (self.singular_values(coefficients) > 0)

    def _decomposed(self, height: int, width: int) -> tuple[_SVD, _SVD]:
        """The decompositions of H and K for images of this size."""
        rows, columns = self.matrices(height, width, torch.float64)
        if (
            self._kept is None
            or rows.device != self._kept[0].device
            or not torch.equal(rows, self._kept[0])
            or not torch.equal(columns, self._kept[1])
        ):
            first = _svd(rows)
            self._kept = rows, columns, first, first if columns is rows else _svd(columns)
        return self._kept[2:]


def _svd(matrix: Tensor) -> _SVD:
    """Decompose (B or 1, m, n)."""
    u, s, vh = torch.linalg.svd(matrix[:, None])
    m, n = matrix.shape[-2:]
    return _SVD(u[..., : min(m, n)], F.pad(s, (0, n - s.shape[-1])), vh)
