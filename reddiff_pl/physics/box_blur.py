"""Blur by a box."""

from __future__ import annotations

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.blur import SeparableBlur


class UniformDeblurring(SeparableBlur):
    """Blur by a box, borders padded with zeros (grey in [-1, 1]).

    A_dagger is the pseudo-inverse in which singular values under `cut` count as zero.

    Args:
        taps: side of the box in pixels, odd.
        cut: smallest singular value that the pseudo-inverse divides by.
    """

    box: Tensor

    def __init__(self, taps: int = 9, cut: float = 3e-2) -> None:
        super().__init__()
        if taps < 1 or taps % 2 == 0:
            raise ConfigError(f"model.physics.init_args.taps: must be odd, got {taps}")
        if not cut > 0:
            raise ConfigError(f"model.physics.init_args.cut: must be positive, got {cut}")
        self.cut = cut
        self.register_buffer("box", torch.full((1, taps), 1 / taps, dtype=torch.float64), persistent=False)

    def weights(self) -> Tensor:
        return self.box
