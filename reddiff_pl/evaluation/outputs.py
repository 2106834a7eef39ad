"""What lies in an output directory, as bytes and pixels."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reddiff_pl.shards import decode
from reddiff_pl.shards.picture import Picture
from reddiff_pl.shards.tar import END, open_tar


def to_tensor(image: Picture) -> Tensor:
    """A picture as uint8 (C, H, W)."""
    array = np.asarray(image.pil())
    return torch.from_numpy(array[None].copy() if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def written(content: bytes, name: str) -> Tensor:
    """A picture of the output as uint8 (C, H, W), as many channels as it was written with.

    Raises:
        SampleError: it is damaged.
    """
    return to_tensor(decode.image(content, name))


def members_of(content: bytes, key: str) -> dict[str, bytes]:
    """A sample's files, {file name after the first dot: content}, from its piece of a tar."""
    members = {}
    with open_tar(io.BytesIO(content + END)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None and member.name.startswith(f"{key}."):
                members[member.name[len(key) + 1 :]] = file.read()
    return members


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
