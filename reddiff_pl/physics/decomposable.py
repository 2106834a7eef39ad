"""Linear operators with a known singular value decomposition, A = U S V^T."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from reddiff_pl.physics.sizes import SameSize


class Decomposable(SameSize, LinearPhysics):
    """A = U S V^T, given by four maps and the singular values; the rest follows.

    A subclass implements `singular_values`, `V`, `V_adjoint`, `U`, `U_adjoint`; it overrides A, A_adjoint and
    A_dagger where it has something cheaper. Coefficients have the shape of the image, (B, C, H, W), and keep the
    dtype of what they are made from. V is orthogonal: V(V_adjoint(x)) = x and V_adjoint(V(c)) = c. U has orthonormal
    columns where the singular value is not zero: U_adjoint(U(c)) is c there and 0 elsewhere.

    Attributes:
        cut: singular values below it count as zero in A_dagger (not in A, nor in `prox`).
    """

    cut: float = 0.0

    def singular_values(self, like: Tensor) -> Tensor:
        """S, never negative, broadcastable to the coefficients of images like `like` (B, C, H, W), of its dtype."""
        raise NotImplementedError

    def V(self, coefficients: Tensor) -> Tensor:
        """Coefficients (B, C, H, W) -> image (B, C, H, W)."""
        raise NotImplementedError

    def V_adjoint(self, x: Tensor) -> Tensor:
        """Image (B, C, H, W) -> coefficients (B, C, H, W); the inverse of V."""
        raise NotImplementedError

    def U(self, coefficients: Tensor) -> Tensor:
        """Coefficients (B, C, H, W) -> measurement (B, ...). Those of zero singular values are ignored."""
        raise NotImplementedError

    def U_adjoint(self, y: Tensor) -> Tensor:
        """Measurement (B, ...) -> coefficients (B, C, H, W), zero where the singular value is."""
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

    def prox(self, z: Tensor, y: Tensor, rho: Tensor | float) -> Tensor:
        """argmin_x |y - A x|^2 + rho |x - z|^2 = z + V [s / (s^2 + rho) (U^T y - s V^T z)], (B, C, H, W).

        Args:
            z: images, (B, C, H, W).
            y: measurements, (B, ...).
            rho: weight of staying near z, (B,) or one number, not negative; 0 gives the solution nearest to z.
        """
        rho = torch.as_tensor(rho, dtype=z.dtype, device=z.device).reshape(-1, *[1] * (z.ndim - 1))
        s = self.singular_values(z)
        gain = torch.where(s > 0, s / (s.square() + rho), 0)
        return z + self.V(gain * (self.U_adjoint(y) - s * self.V_adjoint(z)))
