"""An operator made for images in [0, 1], used on images in [-1, 1]."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.physics.compose import is_linear


class UnitRange(Physics):
    """Feeds (x+1)/2 to an operator; its measurements stay in that operator's own range.

    A_adjoint is the adjoint of the linear part. Where nothing is measured A_dagger is 0 of [0, 1]: black, not grey.

    Args:
        physics: an operator on images in [0, 1].
    """

    def __init__(self, physics: Physics) -> None:
        super().__init__()
        self.physics = physics

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.physics.A((x + 1) / 2, **kwargs)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.physics.A_adjoint(y, **kwargs) / 2

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return 2 * self.physics.A_dagger(y, **kwargs) - 1


def on_symmetric_range(
    physics: Physics, y: Tensor, noise_std: Tensor, like: Tensor
) -> tuple[Physics, Tensor, Tensor]:
    """The same problem with a linear operator on [-1, 1], where `physics` is a linear one within `UnitRange`.

    y = A((x+1)/2) + n says that 2 y - A(1) = A x + 2 n. Other operators come back as they are.

    Args:
        physics: the operator.
        y: measurements, (B, ...).
        noise_std: standard deviation of their noise, (B,).
        like: images, (B, C, H, W); only their shape, type and device count.

    Returns:
        operator, measurements, standard deviation of their noise.
    """
    if isinstance(physics, UnitRange) and is_linear(physics.physics):
        return physics.physics, 2 * y - physics.physics.A(torch.ones_like(like)), 2 * noise_std
    return physics, y, noise_std
