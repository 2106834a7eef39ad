"""Linear operators with a known singular value decomposition, A = U S V^T."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor


class Decomposable(LinearPhysics):
    """A = U S V^T, given by four maps and the singular values; the rest follows.

    A subclass implements `singular_values`, `V`, `V_adjoint`, `U`, `U_adjoint`. V is orthogonal on images;
    U has orthonormal columns where the singular value is not zero. Coefficients have the shape of the image,
    (B, C, H, W) or any fixed reshaping of it; those of zero singular values are ignored by U and zero in U_adjoint.

    Attributes:
        cut: singular values below it count as zero in A_dagger (not in A).
    """

    cut: float = 0.0

    def singular_values(self, like: Tensor) -> Tensor:
        """S, broadcastable to the coefficients of images like `like` (B, C, H, W); never negative."""
        raise NotImplementedError

    def V(self, coefficients: Tensor) -> Tensor:
        """Coefficients -> image (B, C, H, W)."""
        raise NotImplementedError

    def V_adjoint(self, x: Tensor) -> Tensor:
        """Image (B, C, H, W) -> coefficients; the inverse of V."""
        raise NotImplementedError

    def U(self, coefficients: Tensor) -> Tensor:
        """Coefficients -> measurement (B, ...)."""
        raise NotImplementedError

    def U_adjoint(self, y: Tensor) -> Tensor:
        """Measurement (B, ...) -> coefficients, zero where the singular value is."""
        raise NotImplementedError

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.U(self.singular_values(x) * self.V_adjoint(x))

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        coefficients = self.U_adjoint(y)
        return self.V(self.singular_values(coefficients) * coefficients)

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        coefficients = self.U_adjoint(y)
        s = self.singular_values(coefficients)
        inverse = torch.where((s > 0) & (s >= self.cut), 1 / s, 0)
        return self.V(inverse * coefficients)
