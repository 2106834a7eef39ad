"""Random crops of photos over scales, drawn where the network is: no loader can keep up with a small network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reddiff_pl.shards.picture import Picture, unit


def scales(smallest: int, largest: int, count: int) -> list[int]:
    """`count` short sides in pixels, evenly spaced in their logarithm from `largest` down to `smallest`."""
    if count == 1 or smallest == largest:
        return [smallest]
    ratio = (largest / smallest) ** (1 / (count - 1))
    return sorted({round(smallest * ratio**i) for i in range(count)}, reverse=True)


def reduced(picture: Picture, sides: Sequence[int]) -> list[np.ndarray]:
    """A photo at several scales, as (H, W, C); Lanczos, from the photo itself each time, reducing only.

    Args:
        picture: the photo.
        sides: wanted short sides. Where the photo is smaller it stays as it is.
    """
    out = []
    for side in sides:
        ratio = side / min(picture.size)
        size = (max(round(picture.width * ratio), side), max(round(picture.height * ratio), side))
        array = (picture if ratio >= 1 else picture.resized(*size)).pixels
        out.append(array[..., None] if array.ndim == 2 else array)
    return out


@dataclass
class Pyramid:
    """Photos at several scales, one behind the other in memory, so that any crop is one gather.

    Attributes:
        pixels: (values,), uint8, or float32 on the [0, 1] scale: for each level and photo its (H, W, C).
        start: where each begins, long (L, P).
        height: in pixels, long (L, P).
        width: in pixels, long (L, P).
        cumulative: cumulative probability of the levels, float32 (L,).
        channels: C.
    """

    pixels: Tensor
    start: Tensor
    height: Tensor
    width: Tensor
    cumulative: Tensor
    channels: int

    @classmethod
    def of(cls, photos: Sequence[Sequence[np.ndarray]], probabilities: Sequence[float]) -> Pyramid:
        """Stack photos, each a list of its levels (H, W, C); uint8 where all are, else as floats."""
        arrays = [photo[level] for level in range(len(probabilities)) for photo in photos]
        if any(array.dtype != np.uint8 for array in arrays):
            arrays = [unit(array) for array in arrays]
        shape = (len(probabilities), len(photos))
        sizes = torch.tensor([array.size for array in arrays])
        return cls(
            torch.from_numpy(np.concatenate([array.reshape(-1) for array in arrays])),
            (sizes.cumsum(0) - sizes).reshape(shape),
            torch.tensor([array.shape[0] for array in arrays]).reshape(shape),
            torch.tensor([array.shape[1] for array in arrays]).reshape(shape),
            (torch.tensor(probabilities, dtype=torch.float64).cumsum(0) / math.fsum(probabilities)).float(),
            arrays[0].shape[2],
        )

    def to(self, device: torch.device) -> Pyramid:
        """The pyramid on a device."""
        names = ("pixels", "start", "height", "width", "cumulative")
        return dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in names})

    def draw(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Random crops, half of them mirrored, float32 (count, C, size, size) in [-1, 1], channels last in memory.

        Every photo is as likely as another; the level is drawn by its probability; the place is uniform. Nothing
        waits for the device.

        Args:
            count: B.
            size: side of a crop, at most the smallest level's short side.
            generator: of the pyramid's device.
        """
        device = self.pixels.device
        u = torch.rand(5, count, generator=generator, device=device)
        photo = (u[0] * self.start.shape[1]).long().clamp_(max=self.start.shape[1] - 1)
        level = torch.searchsorted(self.cumulative, u[1], right=True).clamp_(max=self.start.shape[0] - 1)
        start, height, width = (table[level, photo] for table in (self.start, self.height, self.width))
        # float32 may round u * n up to n
        top = torch.minimum((u[2] * (height - size + 1)).long(), height - size)
        left = torch.minimum((u[3] * (width - size + 1)).long(), width - size)
        side = torch.arange(size, device=device)
        column = torch.where(u[4, :, None] < 0.5, side, side.flip(0)) + left[:, None]
        row = side + top[:, None]
        pixel = row[:, :, None] * width[:, None, None] + column[:, None, :]
        index = start[:, None, None] + pixel * self.channels
        crops = self.pixels[index[..., None] + torch.arange(self.channels, device=device)]
        return centred(crops).permute(0, 3, 1, 2)


def centred(images: Tensor) -> Tensor:
    """uint8, or floats on the [0, 1] scale, as float32 that is [-1, 1] there."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else 2 * images.float() - 1
