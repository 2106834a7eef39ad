"""Inpainting: A(x) = mask * x, one mask an image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.physics.decomposable import Decomposable
from reddiff_pl.physics.masks import Mask


class Inpainting(Decomposable):
    """Keeps the pixels where the mask is 1. A_dagger(y) = mask * y, exact. U = A, V = I.

    Args:
        mask: how masks are drawn when images are degraded. Samples that bring their own (`KEY.mask.png`) use
            that. Without a generator every sample must bring one.
    """

    binary_parameters = ("mask",)
    mask: Tensor | None

    def __init__(self, mask: Mask | None = None) -> None:
        super().__init__()
        self.mask_generator = mask
        self.register_buffer("mask", None, persistent=False)

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Operator parameters of one image: {"mask": (1, H, W)} of zeros and ones."""
        if self.mask_generator is None:
            raise SampleError(
                "no mask: the sample has no KEY.mask.png (a folder: NAME.mask.png beside NAME.jpg, or "
                "--data.params.mask), and model.physics.init_args.mask draws none"
            )
        return {"mask": self.mask_generator.draw(shape[1], shape[2], generator)}

    def parameter_shapes(self, shape: tuple[int, int, int]) -> dict[str, list[tuple[int, ...]]]:
        """The shapes that an image's parameters may have: one mask for all channels, or one for each."""
        return {"mask": [(1, *shape[1:]), shape]}

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.singular_values(x) * x

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.A(y)

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.A(y)

    def singular_values(self, like: Tensor) -> Tensor:
        if self.mask is None:
            raise ConfigError(
                "model.physics: Inpainting has no mask; bind one with bind(physics, {'mask': ...})"
            )
        return self.mask.to(like.dtype)

    def V(self, coefficients: Tensor) -> Tensor:
        return coefficients

    def V_adjoint(self, x: Tensor) -> Tensor:
        return x

    def U(self, coefficients: Tensor) -> Tensor:
        return self.A(coefficients)

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)
