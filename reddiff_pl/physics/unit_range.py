"""An operator made for images in [0, 1], used on images in [-1, 1]."""

from __future__ import annotations

from typing import Any

from deepinv.physics import Physics
from torch import Tensor


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
