"""Pictures of more than 8 bits that Pillow would cut to 8 without a word: PNG, PPM and PGM, JPEG 2000, AVIF."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reddiff_pl.errors import SampleError
from reddiff_pl.shards.ancillary import PNG_SIGNATURE

PPM = re.compile(rb"P([56])(?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+(\d+)\s")
CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000: its start, then the size's mark
BITS_OF_CODESTREAM = 42  # bytes on from there
SRGB, GREY = 16, 17  # colour spaces of JPEG 2000's `colr` box


def bits_of(content: bytes, form: str | None) -> int:
    """How many bits a value of a file has, of the kinds of this module and of greys in PNG; otherwise 8.

    Args:
        content: the file.
        form: what Pillow takes it for.
    """
    if content.startswith(PNG_SIGNATURE):
        return content[24] if content[24] == 16 or content[25] == 0 else 8
    if form == "PPM" and (header := PPM.match(content)):
        return int(header[4]).bit_length()
    if form == "JPEG2000" and (place := content.find(CODESTREAM)) >= 0:
        return (content[place + BITS_OF_CODESTREAM] & 0x7F) + 1
    if form == "AVIF" and (place := content.find(b"av1C")) >= 0:
        flags = content[place + 6]  # high_bitdepth, twelve_bit
        return 8 + 2 * (flags >> 6 & 1) + 2 * (flags >> 5 & 1)
    return 8


def read(content: bytes, form: str | None, bits: int, name: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """(pixels, alpha) of a file of more than 8 `bits_of` it: uint16 where it has 16, else float32 in [0, 1].

    Raises:
        SampleError: its colours are of a kind that is not read.
    """
    import imagecodecs

    top = 2**bits - 1
    if form == "PNG":
        pixels = imagecodecs.png_decode(content)
    elif form == "PPM":
        pixels, top = _ppm(content)
    elif form == "JPEG2000":
        place = content.find(b"colr\x01")
        if place >= 0 and int.from_bytes(content[place + 7 : place + 11], "big") not in (SRGB, GREY):
            raise SampleError(
                f"{name} has {bits} bits in colours that are not read; store it as a 16-bit PNG"
            )
        pixels = imagecodecs.jpeg2k_decode(content)
    else:
        pixels = imagecodecs.avif_decode(content)
    if pixels.dtype.kind != "u":
        raise SampleError(f"{name} has signed values of unknown range; store it as a 16-bit PNG")
    pixels = pixels.astype(np.uint16) if top == 65535 else (pixels / top).astype(np.float32)
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return pixels, None
    colours = pixels[..., :-1] if pixels.shape[2] == 4 else pixels[..., 0]
    return colours, pixels[..., -1] if pixels.shape[2] in (2, 4) else None


def _ppm(content: bytes) -> tuple[NDArray[np.uint16], int]:
    header = PPM.match(content)
    assert header is not None
    kind, width, height, top = (int(part) for part in header.groups())
    shape = (height, width, 3) if kind == 6 else (height, width)
    values = np.frombuffer(content, ">u2", int(np.prod(shape)), header.end())  # of a short file an error
    return values.reshape(shape).astype(np.uint16), top
