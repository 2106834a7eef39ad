"""An image of an output shard as a file of the kind that is wanted."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image

from reddiff_pl.errors import SampleError
from reddiff_pl.options.export import QUALITY
from reddiff_pl.shards import decode, encode
from reddiff_pl.shards.picture import Picture, unit_tensor

WRITTEN = ("png", "tiff", "npy")  # kinds of files in output shards
SUFFIXES = {"png16": "png", "tiff": "tif"}


def files(members: Mapping[str, bytes], wanted: str | None, quality: int = QUALITY) -> dict[str, bytes]:
    """The files of a sample, {suffix: content}: its image, and its transparency where the kind holds none.

    Args:
        members: its files in the output, {file name after the key: content}.
        wanted: one of `FORMATS`; None: as it was written.
        quality: of jpg and webp, 1 to 100.

    Raises:
        SampleError: there is no image, or the kind cannot hold it.
    """
    kind = next((kind for kind in WRITTEN if kind in members), None)
    if kind is None:
        raise SampleError("no image in the output")
    content = members[kind]
    as_it_is = wanted in (None, kind) and (wanted != "png" or not _is_deep(content))
    if as_it_is or (wanted == "png16" and kind == "png" and _is_deep(content)):
        found = {SUFFIXES.get(kind, kind): content}
    else:
        assert wanted is not None
        found = {SUFFIXES.get(wanted, wanted): _converted(content, kind, wanted, quality)}
    if "alpha.png" in members and (wanted in (None, "npy")):
        found["alpha.png"] = members["alpha.png"]
    return found


def _is_deep(content: bytes) -> bool:
    return content[24:25] == b"\x10"  # bits of a PNG


def _converted(content: bytes, kind: str, wanted: str, quality: int) -> bytes:
    name = f"image.{kind}"
    alpha = date = None
    if kind == "npy":
        values = decode.array(content, name)
        if values.is_complex() or values.ndim != 3:
            raise SampleError(f"an array of shape {tuple(values.shape)} is no image")
    else:
        picture: Picture = decode.image(content, name)
        values, alpha, date = unit_tensor(picture), picture.source.alpha, picture.source.date
    if wanted == "npy":
        return encode.npy(values)
    if len(values) not in (1, 3) and wanted != "tiff":
        raise SampleError(
            f"{wanted} holds 1 or 3 channels, this image has {len(values)}; export it as tiff or npy"
        )
    deep = wanted == "png16" or (wanted == "tiff" and kind == "png" and _is_deep(content))
    if wanted == "tiff" and kind == "npy":
        return encode.tiff(values.float(), None, date)
    pixels = _integers(values, deep)
    if alpha is not None:
        alpha = _integers(alpha.float() / (255 if alpha.dtype == torch.uint8 else 65535), deep)
    if wanted == "tiff":
        return encode.tiff(pixels, alpha, date)
    if wanted in ("png", "png16"):
        return encode.png(pixels, alpha, date)
    return _lossy(pixels, alpha if wanted == "webp" else None, date, wanted, quality)


def _integers(values: torch.Tensor, deep: bool) -> torch.Tensor:
    levels = 65535 if deep else 255
    whole = (values.clamp(0, 1) * levels).round().to(torch.int32)
    return whole.to(torch.uint16 if deep else torch.uint8)


def _lossy(
    pixels: torch.Tensor, alpha: torch.Tensor | None, date: str | None, wanted: str, quality: int
) -> bytes:
    planes = pixels if alpha is None else torch.cat([pixels.expand(3, -1, -1), alpha])
    array = planes.permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))
    out = io.BytesIO()
    exif = {"exif": b"Exif\0\0" + encode.exif(date)} if date is not None else {}
    options = {"subsampling": 0} if wanted == "jpg" and quality >= 90 else {}
    picture.save(out, "JPEG" if wanted == "jpg" else "WEBP", quality=quality, **options, **exif)
    return out.getvalue()
