"""Members of a sample as arrays: photos as people have them, measurements, operator parameters.

Everything here reads what strangers made: no pickles, a limit on pixels before they are decoded, and one clear
line for whatever is wrong.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from reddiff_pl.errors import SampleError
from reddiff_pl.shards.plan import IMAGE_SUFFIXES

MAX_PIXELS = 100_000_000
IMAGE_MEMBERS = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)


def member_bytes(member: bytes | Path) -> bytes:
    """The content of a member that may still lie in a file."""
    if isinstance(member, bytes):
        return member
    try:
        return member.read_bytes()
    except OSError as error:
        raise SampleError(f"{member}: {error.strerror}") from error


def image(content: bytes, name: str, channels: int) -> Image.Image:
    """Decode an image of any usual kind: turned as EXIF says, grey or RGB, 8 bit.

    Transparent images are laid on white; 16-bit greys are scaled to 8 bit.

    Args:
        content: the file.
        name: its name, for messages.
        channels: 1 for grey, 3 for RGB.

    Raises:
        SampleError: it is not an image, damaged, or has more than `MAX_PIXELS` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
            picture: Image.Image = Image.open(io.BytesIO(content))
        if picture.width * picture.height > MAX_PIXELS:
            raise SampleError(
                f"{name} has {picture.width}x{picture.height} pixels, more than the limit of {MAX_PIXELS}"
            )
        picture.load()
        picture = ImageOps.exif_transpose(picture)
    except SampleError:
        raise
    except Image.DecompressionBombError as error:
        raise SampleError(f"{name} has more pixels than the limit of {MAX_PIXELS}") from error
    except UnidentifiedImageError as error:  # whose text is that of a Python object
        raise SampleError(
            f"{name} is not a readable image (of no known kind); replace it or leave it out"
        ) from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise SampleError(f"{name} is not a readable image ({error}); replace it or leave it out") from error
    if picture.mode == "F":
        raise SampleError(f"{name} holds floating-point pixels of unknown range; store them as .npy")
    if picture.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it
        values = np.asarray(picture).astype(np.float64) / 257
        picture = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        background = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(background, picture)
    return picture.convert("RGB" if channels == 3 else "L")


def square(picture: Image.Image, size: int, name: str) -> Image.Image:
    """Centre-crop to a square and reduce to size x size pixels.

    Raises:
        SampleError: the picture is smaller than that; it is never enlarged.
    """
    side = min(picture.size)
    if side < size:
        raise SampleError(
            f"{name} has {picture.width}x{picture.height} pixels, smaller than data.size {size}; "
            "images are never enlarged"
        )
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side))
    return picture if side == size else picture.resize((size, size), Image.Resampling.LANCZOS)


def unit_tensor(picture: Image.Image) -> Tensor:
    """(C, H, W), float32 in [0, 1]."""
    array = np.asarray(picture, dtype=np.float32) / 255
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def array(content: bytes, name: str) -> Tensor:
    """A .npy member as float32 (complex64 where complex).

    Raises:
        SampleError: it is damaged, or holds objects.
    """
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
        return torch.from_numpy(values.astype(np.complex64 if np.iscomplexobj(values) else np.float32))
    except Exception as error:  # numpy raises many kinds on damaged files
        raise SampleError(f"{name} is not a readable array: {error}") from error


def metadata(content: bytes, name: str) -> dict[str, Any]:
    """A .json member.

    Raises:
        SampleError: it is not a JSON object.
    """
    try:
        value = json.loads(content, parse_constant=lambda constant: None)  # NaN is not JSON
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise SampleError(f"{name} is not a JSON object")
    return value


def png(picture: Tensor) -> bytes:
    """A PNG of (C, H, W) uint8."""
    array = picture.permute(1, 2, 0).cpu().numpy()
    out = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(out, "PNG", compress_level=4)
    return out.getvalue()


def npy(values: Tensor) -> bytes:
    """A .npy file of a tensor."""
    out = io.BytesIO()
    np.save(out, values.cpu().numpy())
    return out.getvalue()
