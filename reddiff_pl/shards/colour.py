"""Colours as files describe them, to sRGB: ICC profiles, by LittleCMS."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reddiff_pl.shards.picture import unit

MAX_PROFILE_BYTES = 1 << 24
SPACES = {b"RGB ": ("rgb", 3), b"GRAY": ("gray", 1), b"CMYK": ("cmyk", 4)}
SAME = 1 / 255  # a profile that moves no colour by more than this is sRGB


def to_srgb(pixels: NDArray[Any], profile: bytes) -> NDArray[Any]:
    """Convert from a profile's colours to sRGB, in the pixels' own type; what is sRGB already stays as it is.

    Colours outside sRGB are clipped. The rendering intent is perceptual, as viewers take it.

    Args:
        pixels: (H, W) grey, (H, W, 3) RGB or (H, W, 4) CMYK; uint8, uint16 or float32 in [0, 1].
        profile: an ICC profile; one of RGB may describe greys, too.

    Raises:
        ValueError: it cannot be read, or is of other colours than the pixels are.
    """
    space, count = SPACES.get(profile[16:20], ("", 0))
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if len(profile) > MAX_PROFILE_BYTES or not space:
        raise ValueError("not a profile of grey, RGB or CMYK")
    if count != channels and (channels, count) != (1, 3):
        raise ValueError(f"a profile of {count} channels for an image of {channels}")
    if count == 3 and _is_srgb(profile):
        return pixels
    planes = np.repeat(pixels[..., None], 3, 2) if (channels, count) == (1, 3) else pixels
    rows = max(1, (1 << 22) // max(pixels.shape[1], 1))  # floats of a part at a time
    parts = [_part(planes[top : top + rows], profile, space) for top in range(0, len(planes), rows)]
    converted = np.concatenate(parts)
    return converted[..., 1] if channels == 1 else converted


def _part(pixels: NDArray[Any], profile: bytes, space: str) -> NDArray[Any]:
    # CMYK is per cent of ink in floating point: its integers are passed as they are
    values = np.ascontiguousarray(pixels) if space == "cmyk" else np.ascontiguousarray(unit(pixels))
    converted = _transform(values, profile, space).clip(0, 1)
    if pixels.dtype == np.float32:
        return converted
    return (converted * np.iinfo(pixels.dtype).max).round().astype(pixels.dtype)


def _transform(values: NDArray[Any], profile: bytes, space: str) -> NDArray[np.float32]:
    import imagecodecs

    srgb = imagecodecs.cms_profile("srgb")
    try:
        return imagecodecs.cms_transform(
            values, profile, srgb, colorspace=space, outcolorspace="rgb", outdtype="float32", intent=0
        )
    except Exception as error:  # LittleCMS says little
        raise ValueError("LittleCMS cannot use it") from error


@lru_cache(maxsize=32)
def _is_srgb(profile: bytes) -> bool:
    steps = np.linspace(0, 1, 9, dtype=np.float32)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(27, 27, 3)
    return bool(np.abs(_transform(cube, profile, "rgb") - cube).max() <= SAME)
