"""How large a sample's image is, from the headers of its files alone: nothing is decoded."""

from __future__ import annotations

import io
import math
from pathlib import Path

from PIL import Image

from reddiff_pl.physics.degrade import Degradation
from reddiff_pl.physics.sizes import image_shape
from reddiff_pl.shards import npy
from reddiff_pl.shards.parameters import image_member
from reddiff_pl.shards.reader import Failure, RawSample

BYTES_A_PIXEL = 14  # of a picture of 16 bits and three channels, while it is decoded and reduced (measured)


def image_values(raw: RawSample | Failure, degradation: Degradation) -> int:
    """Number of values of a sample's image (C H W), as far as its files tell it before they are decoded; 0 if not.

    The same for the same sample whatever was done before: batches are cut by it.
    """
    if isinstance(raw, Failure):
        return 0
    try:
        if "y.npy" in raw.members:
            shape = _npy_shape(raw.members["y.npy"])
        elif name := image_member(raw.members, "y."):
            shape = (degradation.shape[0], *_image_size(raw.members[name]))
        elif degradation.fit == "whole" and (name := image_member(raw.members, "")):
            return math.prod((degradation.shape[0], *_image_size(raw.members[name])))
        else:
            return math.prod(degradation.shape)
        return math.prod(image_shape(degradation.physics, shape) or shape)
    except Exception:  # whatever is wrong with it is told when it is decoded
        return 0


def decoding_bytes(raw: RawSample) -> int:
    """About how much memory decoding a sample takes at once, by what its files say of themselves."""
    total = 0
    for name, member in raw.members.items():
        try:
            size = len(member) if isinstance(member, bytes) else member.stat().st_size
            if name.endswith(".npy") or name == "npy":
                total += 4 * size
            elif name != "json":
                total += max(BYTES_A_PIXEL * math.prod(_image_size(member)), size)
        except Exception:  # whatever is wrong with it is told when it is decoded
            total += 0
    return total


def _npy_shape(member: bytes | Path) -> tuple[int, ...]:
    with open(member, "rb") if isinstance(member, Path) else io.BytesIO(member) as file:
        return npy.header(file)[0]


def _image_size(member: bytes | Path) -> tuple[int, int]:
    with Image.open(member if isinstance(member, Path) else io.BytesIO(member)) as picture:
        return picture.height, picture.width
