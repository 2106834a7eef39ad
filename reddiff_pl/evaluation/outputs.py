"""What lies in an output directory, as bytes and pixels."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reddiff_pl.errors import SampleError
from reddiff_pl.shards import decode
from reddiff_pl.shards.picture import Picture


def to_tensor(image: Picture) -> Tensor:
    """A picture as uint8 (C, H, W), C 1 or 3."""
    array = np.asarray(image.pil())
    return torch.from_numpy(array[None].copy() if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def written(content: bytes, name: str) -> Tensor:
    """An image of the output, (C, H, W): uint8, or float32 on the [0, 1] scale where it has more than 8 bits.

    Raises:
        SampleError: it is damaged.
    """
    if name.endswith("npy"):
        values = decode.array(content, name)
        if values.ndim != 3 or values.is_complex():
            raise SampleError(f"{name} is no image: its shape is {tuple(values.shape)}")
        return values
    return as_deep(decode.image(content, name))


def as_deep(image: Picture) -> Tensor:
    """A picture as (C, H, W): uint8, or float32 on the [0, 1] scale where it has more than 8 bits."""
    return to_tensor(image) if image.pixels.dtype == np.uint8 else decode.unit_tensor(image)


def image_of(members: Mapping[str, bytes], stem: str = "") -> Tensor | None:
    """An image that a sample has in the output, whatever kind of file it is; None where there is none.

    Args:
        members: the sample's files.
        stem: what stands before the kind: empty for the restored image, else with its dot, as `start.`.
    """
    name = next((stem + kind for kind in ("png", "tiff", "npy") if stem + kind in members), None)
    return None if name is None else written(members[name], name)


def channels_of(content: bytes) -> int:
    """The first number of a .npy file's shape, without reading the rest; 1 where it cannot be had."""
    try:
        file = io.BytesIO(content)
        np.lib.format.read_magic(file)
        return int(np.lib.format.read_array_header_1_0(file)[0][0])
    except (ValueError, IndexError, EOFError):
        return 1


def channels_note(channels: int) -> str:
    """What is said of images that no picture can hold; empty for grey and colours."""
    if channels in (1, 3):
        return ""
    what = "their magnitude" if channels == 2 else "the first three"
    return (
        f"images of {channels} channels: pictures and networks see {what}; PSNR, SSIM and misfit are of all"
    )


def names_in(folder: Path, suffix: str) -> list[str]:
    """The shards that have a file with this suffix."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob(f"*{suffix}"))
    return [name.removesuffix(suffix) for name in found]


def listed(path: Path) -> Sequence[dict[str, Any]]:
    """The lines of a .failed.jsonl; the last may be cut."""
    found = []
    try:
        for line in path.read_text(errors="replace").splitlines():
            value = json.loads(line)
            if isinstance(value, dict):
                found.append(value)
    except (OSError, ValueError):
        pass
    return found
