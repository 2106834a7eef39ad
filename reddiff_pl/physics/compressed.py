"""Compressed sensing: some coefficients of a scrambled image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.cosines import from_cosines, to_cosines
from reddiff_pl.physics.decomposable import Decomposable


class CompressedSensing(Decomposable):
    """A(x) = mask * DCT(sign * x): random signs a pixel, a cosine transform, and a random choice of its coefficients.

    Rows are orthonormal, so A_dagger = A^T, exact. Measurements have the image's size, zero where nothing is
    measured. Signs and mask are those of the image, the same for all its channels.

    Args:
        ratio: share of the coefficients that are measured, in (0, 1].

    References:
        Fast and Efficient Compressive Sensing Using Structurally Random Matrices
        | https://arxiv.org/abs/1106.5037
    """

    binary_parameters = ("mask", "flip")
    mask: Tensor | None
    flip: Tensor | None

    def __init__(self, ratio: float = 0.25) -> None:
        super().__init__()
        if not 0 < ratio <= 1:
            raise ConfigError(f"model.physics.init_args.ratio: must be in (0, 1], got {ratio}")
        self.ratio = ratio
        self.register_buffer("mask", None, persistent=False)
        self.register_buffer("flip", None, persistent=False)

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Operator parameters of one image, (1, H, W) of zeros and ones: which coefficients are measured
        ("mask"), which pixels change their sign ("flip")."""
        pixels = shape[1] * shape[2]
        mask = torch.zeros(pixels)
        mask[torch.randperm(pixels, generator=generator)[: max(round(self.ratio * pixels), 1)]] = 1
        flip = torch.randint(0, 2, (1, *shape[1:]), generator=generator).float()
        return {"mask": mask.reshape(1, *shape[1:]), "flip": flip}

    def parameter_shapes(self, shape: tuple[int, int, int]) -> dict[str, list[tuple[int, ...]]]:
        return {"mask": [(1, *shape[1:])], "flip": [(1, *shape[1:])]}

    def _signs(self, like: Tensor) -> Tensor:
        if self.mask is None or self.flip is None:
            raise ConfigError(
                "model.physics: CompressedSensing has no mask and flip; bind them with bind(physics, {...})"
            )
        return 1 - 2 * self.flip.to(like.dtype)

    def singular_values(self, like: Tensor) -> Tensor:
        self._signs(like)  # says what is missing
        assert self.mask is not None
        return self.mask.to(like.dtype)

    def V(self, coefficients: Tensor) -> Tensor:
        return self._signs(coefficients) * from_cosines(coefficients)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return to_cosines(self._signs(x) * x)

    def U(self, coefficients: Tensor) -> Tensor:
        return self.singular_values(coefficients) * coefficients

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self.singular_values(y) * y

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.U(self.V_adjoint(x))

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.V(self.U_adjoint(y))

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.A_adjoint(y)
