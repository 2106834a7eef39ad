"""Denoising and colourisation: operators that act on each pixel alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.cosines import cosine_basis
from reddiff_pl.physics.decomposable import Decomposable


class Denoising(Decomposable):
    """The identity: what is to be removed is the measurement noise. A_dagger(y) = y, exact."""

    complete = True

    def __init__(self) -> None:
        super().__init__()

    def singular_values(self, like: Tensor) -> Tensor:
        return torch.ones_like(like[:1, :1, :1, :1])

    def V(self, coefficients: Tensor) -> Tensor:
        return coefficients

    def V_adjoint(self, x: Tensor) -> Tensor:
        return x

    def U(self, coefficients: Tensor) -> Tensor:
        return coefficients

    def U_adjoint(self, y: Tensor) -> Tensor:
        return y

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return x.clone()  # callers write into measurements

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y.clone()

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y.clone()


class Colorization(Decomposable):
    """The grey image, the mean of the channels: (B, C, H, W) -> (B, 1, H, W). A_dagger copies it, exact.

    Coefficient 0 of a pixel is its grey value times sqrt(C), the others its colour.

    Args:
        channels: C, the number of channels of the images.
    """

    complete = True

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        if channels < 1:
            raise ConfigError(f"model.physics.init_args.channels: must be at least 1, got {channels}")
        self.channels = channels

    def image_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.channels, *shape[1:])

    def measurement_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1, *shape[1:])

    def _basis(self, like: Tensor) -> Tensor:
        """Orthogonal matrix (C, C) whose first row is constant."""
        return cosine_basis(like.shape[1], like.dtype, like.device)

    def singular_values(self, like: Tensor) -> Tensor:
        s = torch.zeros(1, like.shape[1], 1, 1, dtype=like.dtype, device=like.device)
        s[:, 0] = like.shape[1] ** -0.5
        return s

    def V(self, coefficients: Tensor) -> Tensor:
        return torch.einsum("kj,bkhw->bjhw", self._basis(coefficients), coefficients)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return torch.einsum("kj,bjhw->bkhw", self._basis(x), x)

    def U(self, coefficients: Tensor) -> Tensor:
        return coefficients[:, :1]

    def U_adjoint(self, y: Tensor) -> Tensor:
        return torch.cat([y, torch.zeros_like(y).expand(-1, self.channels - 1, -1, -1)], dim=1)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        if x.shape[1] != self.channels:
            raise ConfigError(
                f"model.physics.init_args.channels: {self.channels}, but the images have {x.shape[1]}"
            )
        return x.mean(1, keepdim=True)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y.repeat(1, self.channels, 1, 1) / self.channels

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y.repeat(1, self.channels, 1, 1)
