"""The evolution of restorations over their steps, as strips of pictures."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reddiff_pl.shards.picture import shown


class KeptSteps:
    """Frames of x and x0_hat at evenly spread steps, `count` of them with the last.

    The number of steps is not known beforehand, so twice as many frames as wanted are kept, and every other
    one is dropped whenever they are too many.
    """

    def __init__(self, count: int, decode: Callable[[Tensor], Tensor]) -> None:
        self.count, self.decode = count, decode
        self.frames: list[Tensor] = []
        self.stride = 1
        self.last = torch.empty(0)

    def __call__(self, step: int, x: Tensor, x0_hat: Tensor) -> None:
        """The sampler's callback."""
        self.last = torch.cat([x, x0_hat])  # decoded only where it is kept
        if step % self.stride == 0:
            self.last = self._frame(self.last)
            self.frames.append(self.last)
            if len(self.frames) > 2 * self.count:
                self.frames = self.frames[1::2]
                self.stride *= 2

    def _frame(self, pair: Tensor) -> Tensor:
        """x above, x0_hat below, uint8 (B, 1 or 3, 2H, W)."""
        return shown((torch.cat([self.decode(x) for x in pair.chunk(2)], dim=-2) + 1) / 2)

    def strips(self) -> Tensor | None:
        """The images' strips, uint8 (B, 1 or 3, 2H, count * W); None where nothing was kept."""
        if not self.frames:
            return None
        last = self.last if self.last.dtype == torch.uint8 else self._frame(self.last)
        frames = self.frames if self.frames[-1] is last else [*self.frames, last]
        count = min(self.count, len(frames))
        places = [round((i + 1) * len(frames) / count) - 1 for i in range(count)]
        return torch.cat([frames[place] for place in places], dim=-1)
