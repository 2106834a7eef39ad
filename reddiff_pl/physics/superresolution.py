"""Super-resolution: A(x) = mean of each f x f block."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from deepinv.physics import LinearPhysics
from torch import Tensor

from reddiff_pl.errors import ConfigError


class SuperResolution(LinearPhysics):
    """Block means. A_dagger replicates each pixel of the measurement, exact (A A_dagger = I).

    Args:
        factor: f, the side of a block in pixels; must divide the image's sides.
    """

    def __init__(self, factor: int = 4) -> None:
        super().__init__()
        if factor < 1:
            raise ConfigError(f"model.physics.init_args.factor: must be at least 1, got {factor}")
        self.factor = factor

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ConfigError(
                f"model.physics.init_args.factor: {self.factor} does not divide the image's "
                f"{x.shape[-1]}x{x.shape[-2]} pixels"
            )
        return F.avg_pool2d(x, self.factor)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.A_dagger(y) / self.factor**2

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
