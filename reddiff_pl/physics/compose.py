"""One operator after another."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics import LinearPhysics, Physics
from torch import Tensor

from reddiff_pl.errors import ConfigError


class Compose(Physics):
    """A(x) = `parts[-1](... parts[0](x))`. A_dagger and A_adjoint run through the parts from right to left.

    A_dagger is thus a start for the samplers, no pseudo-inverse in general. Parameters carry the place of
    their part: those of the first mask are `mask_0` (`KEY.mask_0.png`), of a second part's kernel `kernel_1`.

    Args:
        parts: operators, the first one sees the image.
    """

    def __init__(self, parts: list[Physics]) -> None:
        super().__init__()
        if not parts:
            raise ConfigError("model.physics.init_args.parts: must name at least one operator")
        self._parts = torch.nn.ModuleList(parts)  # so that they move between devices with it

    @property
    def parts(self) -> list[Physics]:
        """The operators, from the image to the measurement."""
        return list(self._parts)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        for part in self.parts:
            x = part.A(x)
        return x

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        for part in reversed(self.parts):
            y = part.A_adjoint(y)
        return y

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        for part in reversed(self.parts):
            y = part.A_dagger(y)
        return y


def is_linear(physics: Physics) -> bool:
    """Whether an operator is known to be linear: by its class, or as a composition of such ones."""
    if isinstance(physics, Compose):
        return all(is_linear(part) for part in physics.parts)
    return isinstance(physics, LinearPhysics)
