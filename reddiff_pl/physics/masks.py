"""Random masks for inpainting, one draw an image. 1 is kept, 0 is missing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError


class Mask:
    """Draws a mask."""

    def draw(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """A mask of zeros and ones, float32 (1, H, W)."""
        raise NotImplementedError


class RandomMask(Mask):
    """Keeps each pixel, all its channels together, with a fixed probability.

    Args:
        keep: share of pixels kept, in (0, 1].
    """

    def __init__(self, keep: float = 0.5) -> None:
        if not 0 < keep <= 1:
            raise ConfigError(f"model.physics.init_args.mask.init_args.keep: must be in (0, 1], got {keep}")
        self.keep = keep

    def draw(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        return (torch.rand((1, height, width), generator=generator) < self.keep).float()


class BoxMask(Mask):
    """Removes one box.

    Args:
        size: side of the box in pixels.
        centered: in the middle of the image; otherwise anywhere inside it.
    """

    def __init__(self, size: int = 16, centered: bool = True) -> None:
        if size < 1:
            raise ConfigError(f"model.physics.init_args.mask.init_args.size: must be at least 1, got {size}")
        self.size, self.centered = size, centered

    def draw(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        if self.size >= min(height, width):
            raise ConfigError(
                f"model.physics.init_args.mask.init_args.size: a box of {self.size} pixels leaves nothing of a "
                f"{width}x{height} image"
            )
        spare = (height - self.size, width - self.size)
        if self.centered:
            top, left = spare[0] // 2, spare[1] // 2
        else:
            top, left = (int(torch.randint(0, s + 1, (), generator=generator)) for s in spare)
        mask = torch.ones(1, height, width)
        mask[:, top : top + self.size, left : left + self.size] = 0
        return mask


class FreeFormMask(Mask):
    """Removes brush strokes until a share of the pixels is missing, drawn between two bounds.

    A stroke is a wandering line of round brush marks, half a radius apart; the last one ends where the share is
    reached, so the share is exact to one brush mark.

    Args:
        missing: lowest and highest share of missing pixels, in (0, 1).
        brush: lowest and highest brush width, as a share of the shorter side.

    References:
        Free-Form Image Inpainting with Gated Convolution | https://arxiv.org/abs/1806.03589
    """

    def __init__(
        self, missing: tuple[float, float] = (0.2, 0.3), brush: tuple[float, float] = (0.05, 0.12)
    ) -> None:
        if not 0 < missing[0] <= missing[1] < 1:
            raise ConfigError(
                f"model.physics.init_args.mask.init_args.missing: must be two shares in (0, 1), got {missing}"
            )
        if not 0 < brush[0] <= brush[1] < 1:
            raise ConfigError(
                f"model.physics.init_args.mask.init_args.brush: must be two shares in (0, 1), got {brush}"
            )
        self.missing, self.brush = missing, brush

    def draw(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        side = min(height, width)
        target = uniform(*self.missing) * height * width
        missing = torch.zeros(height, width, dtype=torch.bool)
        count = 0
        while count < target:
            row, column, angle = uniform(0, height), uniform(0, width), uniform(0, 2 * math.pi)
            radius = max(uniform(*self.brush) * side / 2, 0.75)
            for _ in range(max(int(uniform(side / 4, side) / (radius / 2)), 1)):
                count += _paint(missing, row, column, radius)
                if count >= target:
                    break
                angle += uniform(-0.4, 0.4)
                row, column = row + math.sin(angle) * radius / 2, column + math.cos(angle) * radius / 2
                if not (0 <= row < height and 0 <= column < width):
                    break
        return (~missing).float()[None]


def _paint(image: Tensor, row: float, column: float, radius: float) -> int:
    """Set a disc; returns how many pixels it added. Touches the disc's surroundings only."""
    top, left = max(math.floor(row - radius), 0), max(math.floor(column - radius), 0)
    patch = image[top : math.ceil(row + radius) + 1, left : math.ceil(column + radius) + 1]
    rows = torch.arange(top, top + patch.shape[0])[:, None]
    columns = torch.arange(left, left + patch.shape[1])[None, :]
    disc = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    added = int((disc & ~patch).sum())
    patch |= disc
    return added
