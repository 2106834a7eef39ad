"""A decoded picture: its pixels at the file's own depth, and what the file says beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reddiff_pl.errors import SampleError


@dataclass(frozen=True)
class Source:
    """What is known of a file that an image was read from.

    Attributes:
        name: the member's or the file's name.
        bits: of one value in the file: 8, 16, 12, 1, 32, ...; 0 for floating point, which has no steps.
        channels: its colour channels: 1 grey, 3 colours, or as many as an array has; without alpha.
        alpha: its transparency as stored, uint8 or uint16 (1, H, W), turned as the image is; None without one.
        date: when it was taken, as EXIF says it, "2020:01:31 10:00:00".
        notes: what was wrong with the file and did not cost the image, a line each.
    """

    name: str
    bits: int
    channels: int
    alpha: Tensor | None = None
    date: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """An image in memory.

    Attributes:
        pixels: (H, W) or (H, W, C); uint8, uint16, or float32, in [0, 1] but for arrays of floats.
        source: where it comes from.
    """

    pixels: NDArray[Any]
    source: Source

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.pixels, dtype=dtype, copy=copy)

    def pil(self) -> Image.Image:
        """As an 8-bit picture of Pillow, grey or RGB; of other channels the first one or three."""
        pixels = self.pixels
        if pixels.dtype != np.uint8:
            pixels = (unit(pixels).clip(0, 1) * 255).round().astype(np.uint8)
        if pixels.ndim == 3 and pixels.shape[2] != 3:
            pixels = pixels[..., :3] if pixels.shape[2] > 3 else pixels[..., 0]
        return Image.fromarray(pixels)

    def on_white(self) -> Picture:
        """Laid on white by its alpha, as transparent images are shown; itself without alpha."""
        if self.source.alpha is None:
            return self
        weight = unit(self.source.alpha[0].numpy())
        weight = weight if self.pixels.ndim == 2 else weight[..., None]
        laid = 1 - weight * (1 - unit(self.pixels))
        return Picture(_as(self.pixels.dtype, laid), replace(self.source, alpha=None))

    def cropped(self, left: int, top: int, width: int, height: int) -> Picture:
        """A part of it."""
        rows, columns = slice(top, top + height), slice(left, left + width)
        alpha = self.source.alpha
        source = self.source if alpha is None else replace(self.source, alpha=alpha[:, rows, columns])
        return Picture(self.pixels[rows, columns], source)

    def resized(self, width: int, height: int) -> Picture:
        """Resampled with Pillow's LANCZOS, alpha too; 8 and 16 bit are rounded to theirs, arrays never clipped."""
        alpha = self.source.alpha
        source = self.source
        if alpha is not None:
            small = torch.from_numpy(_resize(alpha[0].numpy(), width, height).copy())[None]
            source = replace(source, alpha=small)
        return Picture(_resize(self.pixels, width, height, clip=source.bits > 0), source)


def resized_plane(plane: Tensor, size: Sequence[int]) -> Tensor:
    """An alpha plane, (1, h, w), at (height, width); itself where it has that size."""
    height, width = size
    if tuple(plane.shape[-2:]) == (height, width):
        return plane
    return torch.from_numpy(_resize(plane[0].numpy(), width, height).copy())[None]


def shown(values: Tensor) -> Tensor:
    """What can be seen of an image of any channels, uint8 (..., 1 or 3, H, W).

    Of two channels their magnitude, as of a complex number; of four and more the first three as colours.

    Args:
        values: uint8, or floats on the [0, 1] scale, (..., C, H, W).
    """
    channels = values.shape[-3]
    if channels == 2:
        values = (values.float() / 255 if values.dtype == torch.uint8 else values).norm(dim=-3, keepdim=True)
    elif channels > 3:
        values = values[..., :3, :, :]
    if values.dtype == torch.uint8:
        return values
    return (values.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)


def unit(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Values in [0, 1] as float32, whatever their type is."""
    if pixels.dtype == np.float32:
        return pixels
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def unit_tensor(picture: Picture | Image.Image) -> Tensor:
    """(C, H, W), float32 in [0, 1]."""
    values = unit(np.asarray(picture))
    return torch.from_numpy(values[None].copy() if values.ndim == 2 else values.transpose(2, 0, 1).copy())


def fitted(picture: Picture, height: int, width: int, name: str) -> Picture:
    """Crop the middle to the proportions of height x width pixels, and reduce it to that size.

    Raises:
        SampleError: the picture is smaller than that; it is never enlarged.
    """
    if picture.width < width or picture.height < height:
        wanted = f"{width}" if width == height else f"{height},{width} (height, width)"
        raise SampleError(
            f"{name} has {picture.width}x{picture.height} pixels, smaller than data.size {wanted}; "
            "images are never enlarged"
        )
    w = min(picture.width, round(picture.height * width / height))
    h = min(picture.height, round(picture.width * height / width))
    picture = picture.cropped((picture.width - w) // 2, (picture.height - h) // 2, w, h)
    return picture if picture.size == (width, height) else picture.resized(width, height)


def _resize(pixels: NDArray[Any], width: int, height: int, clip: bool = True) -> NDArray[Any]:
    if pixels.dtype == np.uint8 and (pixels.ndim == 2 or pixels.shape[2] == 3):
        small = Image.fromarray(np.ascontiguousarray(pixels)).resize(
            (width, height), Image.Resampling.LANCZOS
        )
        return np.asarray(small)
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    resized = [
        np.asarray(
            Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.LANCZOS)
        )
        for plane in np.moveaxis(planes, 2, 0)
    ]
    values = np.stack(resized, 2)
    if clip:
        values = values.clip(0, 1 if pixels.dtype == np.float32 else np.iinfo(pixels.dtype).max)
    values = values if pixels.dtype == np.float32 else values.round().astype(pixels.dtype)
    return values[..., 0] if pixels.ndim == 2 else values


def _as(dtype: np.dtype[Any], values: NDArray[np.float32]) -> NDArray[Any]:
    """Values in [0, 1] in another type."""
    return values if dtype == np.float32 else (values * np.iinfo(dtype).max).round().astype(dtype)
