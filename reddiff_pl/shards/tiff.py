"""TIFF files that Pillow would cut to 8 bit or misread, by tifffile: 12, 16 and 32 bits, signed, many channels."""

from __future__ import annotations

import io
import logging
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reddiff_pl.errors import SampleError

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it names no file; what matters is told below

UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # of SampleFormat
WHITE_IS_ZERO, PALETTE = 0, 3
REDUCED, MASK = 1, 4  # of NewSubfileType


@dataclass
class Page:
    """The picture of a TIFF file.

    Attributes:
        pixels: (H, W) or (H, W, C), without alpha; uint8, uint16 or float32 in [0, 1]. None: Pillow reads it right.
        alpha: (H, W), uint8 or uint16.
        bits: of a value in the file; 0: floats.
        orientation: as EXIF numbers it, 1..8.
        profile: its ICC profile.
        date: when it was taken.
        cmyk: whether its four channels are inks.
        notes: what was assumed.
    """

    pixels: NDArray[Any] | None
    alpha: NDArray[Any] | None = None
    bits: int = 8
    orientation: int = 1
    profile: bytes | None = None
    date: str | None = None
    cmyk: bool = False
    notes: tuple[str, ...] = ()


def read(content: bytes, name: str, max_pixels: int) -> Page:
    """Read a TIFF file's only page.

    Unsigned integers of b bits are divided by 2^b - 1, and so are signed ones without a negative value by theirs.
    Of signed ones with negative values the whole range of the type is [0, 1]. Floats are in [0, 1], or say their range.

    Raises:
        SampleError: it is damaged, has several pages, too many pixels, or values of unknown range.
    """
    from tifffile import TiffFile

    with TiffFile(io.BytesIO(content)) as file:
        pages = [page for page in file.pages if not _subfile(page) & (REDUCED | MASK)]
        if len(pages) > 1:
            raise SampleError(f"{name} has {len(pages)} pages; store each as a file of its own")
        page: Any = pages[0] if pages else file.pages[0]
        if page.imagewidth * page.imagelength > max_pixels:
            raise SampleError(_too_large(name, page.imagewidth, page.imagelength, max_pixels))
        if page.imagedepth > 1:
            raise SampleError(
                f"{name} is a volume of {page.imagedepth} planes; store each as a file of its own"
            )
        sampleformat, bits = page.sampleformat, page.bitspersample
        colours = page.samplesperpixel - len(page.extrasamples)
        plain = sampleformat == UNSIGNED and (bits == 8 or (bits < 8 and page.samplesperpixel == 1))
        plain &= all(int(kind) in (1, 2) for kind in page.extrasamples)  # Pillow leaves other channels out
        if plain and page.samplesperpixel <= 5 and (colours > 1 or page.samplesperpixel <= 2):
            return Page(None, bits=8 if page.photometric == PALETTE else bits)
        if page.photometric == PALETTE:
            raise SampleError(f"{name} has a palette of {bits} bits, which is not read; store it as RGB")
        values = page.asarray()
        if values.ndim == 3 and page.axes.startswith("S"):  # planes one after the other
            values = np.moveaxis(values, 0, 2)
        alpha, values = _split(values, page)
        notes: list[str] = []
        pixels = _scaled(values, page, name, notes)
        if page.photometric == WHITE_IS_ZERO:
            pixels = (1 if pixels.dtype == np.float32 else np.iinfo(pixels.dtype).max) - pixels
        if int(page.photometric) not in (0, 1, 2, 5, 32803):
            raise SampleError(f"{name}: colours of kind {page.photometric.name} at {bits} bits are not read")
        return Page(
            pixels,
            None if alpha is None else _alpha(alpha, page, name),
            0 if sampleformat == FLOAT and not _given_range(page) else bits,
            _number(page, 274, 1),
            page.tags[34675].value if 34675 in page.tags else None,
            _date(page),
            int(page.photometric) == 5,
            tuple(notes),
        )


def _split(values: NDArray[Any], page: Any) -> tuple[NDArray[Any] | None, NDArray[Any]]:
    """(alpha, colours); other extra samples are channels like the rest."""
    kinds = [int(kind) for kind in page.extrasamples]
    if values.ndim == 2 or not any(kind in (1, 2) for kind in kinds):
        return None, values
    first = values.shape[2] - len(kinds)
    place = first + next(i for i, kind in enumerate(kinds) if kind in (1, 2))
    alpha, colours = values[..., place], np.delete(values, place, 2)
    if kinds[place - first] == 1:  # the colours were multiplied by it
        top = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1
        weight = alpha[..., None].astype(np.float64) / top
        whole = np.divide(colours, weight, out=np.zeros(colours.shape), where=weight > 0)
        colours = whole.round().clip(0, top).astype(values.dtype) if values.dtype.kind == "u" else colours
    return alpha, colours[..., 0] if colours.shape[2] == 1 else colours


def _alpha(alpha: NDArray[Any], page: Any, name: str) -> NDArray[Any]:
    scaled = _scaled(alpha, page, name, [])
    return scaled if scaled.dtype != np.float32 else (scaled * 65535).round().astype(np.uint16)


def _scaled(values: NDArray[Any], page: Any, name: str, notes: list[str]) -> NDArray[Any]:
    kind, bits = page.sampleformat, page.bitspersample
    if kind == UNSIGNED and bits <= 32 and values.dtype.kind == "u":
        if bits in (8, 16):
            return values
        return (values.astype(np.float64) / (2.0**bits - 1)).astype(np.float32)
    if given := _given_range(page):
        low, high = given
        return ((values.astype(np.float64) - low) / (high - low)).clip(0, 1).astype(np.float32)
    if kind == SIGNED and bits in (8, 16):
        half = 2.0 ** (bits - 1)
        if values.min() >= 0:
            return (values / (half - 1)).astype(np.float32)
        notes.append(
            f"{name} has negative values: its whole range, {-half:.0f} to {half - 1:.0f}, is taken as [0, 1]"
        )
        return ((values + half) / (2 * half - 1)).astype(np.float32)
    if values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:  # what holds NaN is not
        return values.astype(np.float32)
    what = "floating-point" if values.dtype.kind in "fc" else f"{values.dtype}"
    raise SampleError(f"{name} holds {what} pixels of unknown range; store them as floats in [0, 1]")


def _given_range(page: Any) -> tuple[float, float] | None:
    """SMinSampleValue and SMaxSampleValue, where a file has them. (MinSampleValue is a statistic.)"""
    low, high = _number(page, 340, None), _number(page, 341, None)
    return (float(low), float(high)) if low is not None and high is not None and low < high else None


def _number(page: Any, tag: int, default: Any) -> Any:
    value = page.tags[tag].value if tag in page.tags else default
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int | float) else default


def _subfile(page: Any) -> int:
    return int(getattr(page, "subfiletype", 0) or 0)


def _date(page: Any) -> str | None:
    exif = page.tags[34665].value if 34665 in page.tags else {}
    value = exif.get("DateTimeOriginal") if isinstance(exif, dict) else None
    value = value or (page.tags[306].value if 306 in page.tags else None)
    return (
        value if isinstance(value, str) and re.fullmatch(r"\d{4}(:\d\d){2} \d\d(:\d\d){2}", value) else None
    )


def _too_large(name: str, width: int, height: int, limit: int) -> str:
    return f"{name} has {width}x{height} pixels, more than the limit of {limit} (data.max_pixels)"
