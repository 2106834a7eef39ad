"""Tensors as the members of an output shard: PNG of 8 and 16 bits, TIFF, npy."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reddiff_pl.shards.ancillary import PNG_SIGNATURE

IHDR_END = len(PNG_SIGNATURE) + 25


def png(picture: Tensor, alpha: Tensor | None = None, date: str | None = None) -> bytes:
    """A PNG of 8 or 16 bits.

    Args:
        picture: uint8 or uint16, (C, H, W), C 1 or 3.
        alpha: of the same type, (1, H, W).
        date: when it was taken, as EXIF writes it.
    """
    pixels = _hwc(picture, alpha)
    if pixels.dtype == np.uint16:
        import imagecodecs

        content = bytes(imagecodecs.png_encode(pixels, level=4))
    else:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG", compress_level=4)
        content = out.getvalue()
    if date is None:
        return content
    chunk = b"eXIf" + exif(date)
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content[:IHDR_END] + whole + content[IHDR_END:]


def tiff(picture: Tensor, alpha: Tensor | None = None, date: str | None = None) -> bytes:
    """A TIFF file, compressed without loss; any number of channels.

    Args:
        picture: uint8, uint16 or float32, (C, H, W).
        alpha: of the same type, (1, H, W).
        date: when it was taken, as EXIF writes it.
    """
    import tifffile

    pixels, extra = _hwc(picture, alpha), ["unassalpha"] if alpha is not None else []
    colours = len(picture)
    photometric = "rgb" if colours == 3 else "minisblack"
    if colours not in (1, 3):
        extra = ["unspecified"] * (colours - 1) + extra
    out = io.BytesIO()
    tifffile.imwrite(
        out,
        pixels,
        photometric=photometric,
        planarconfig="contig" if pixels.ndim == 3 else None,
        extrasamples=extra or None,
        compression="zlib",
        predictor=True,
        metadata=None,
        software=False,
        datetime=date,
    )
    return out.getvalue()


def npy(values: Tensor) -> bytes:
    """A .npy file of a tensor."""
    out = io.BytesIO()
    np.save(out, values.cpu().numpy())
    return out.getvalue()


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] to 8 bit, rounded; what is outside is clipped here and nowhere else."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def exif(date: str) -> bytes:
    """EXIF data, without their `Exif` mark, that say when a picture was taken, and nothing else."""
    data = Image.Exif()
    data[0x0132] = date
    data.get_ifd(0x8769)[0x9003] = date
    return data.tobytes().removeprefix(b"Exif\0\0")


def _hwc(picture: Tensor, alpha: Tensor | None) -> NDArray[Any]:
    planes = [picture.cpu().numpy()] + ([] if alpha is None else [alpha.cpu().numpy()])
    # a copy: of a single row or column the strides may be odd in an array that counts as contiguous
    pixels = np.concatenate(planes).transpose(1, 2, 0).copy(order="C")
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels
