"""Members of a sample as arrays: photos as people have them, measurements, operator parameters.

Everything here reads what strangers made: no pickles, a limit on pixels before they are decoded, and one clear
line for whatever is wrong.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from reddiff_pl.errors import SampleError
from reddiff_pl.shards import ancillary, colour, deep, npy, tiff
from reddiff_pl.shards.picture import Picture, Source, fitted, unit, unit_tensor
from reddiff_pl.shards.suffixes import IMAGE_SUFFIXES

__all__ = [
    "Picture",
    "Source",
    "array",
    "array_image",
    "called",
    "fitted",
    "image",
    "member_bytes",
    "unit_tensor",
]

MAX_PIXELS = 100_000_000
IMAGE_MEMBERS = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # what Pillow's grey is made with, too
DATE = re.compile(r"\d{4}(:\d\d){2} \d\d(:\d\d){2}")

# Pillow's warnings name no file; what matters of them is told below. Not by catch_warnings: threads share its state
warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
Image.MAX_IMAGE_PIXELS = None  # the limit below is looked at before anything is decoded, and has an option


def member_bytes(member: bytes | Path) -> bytes:
    """The content of a member that may still lie in a file."""
    if isinstance(member, bytes):
        return member
    try:
        return member.read_bytes()
    except OSError as error:
        raise SampleError(f"{member}: {error.strerror}") from error


def called(name: str, member: bytes | Path) -> str:
    """What a message calls a member: its file's own name where it lies in a folder, where members are called anew."""
    return member.name if isinstance(member, Path) else name


def image(content: bytes, name: str, channels: int | None = None, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an image of any usual kind at its own depth: turned as EXIF says, in sRGB's colours, alpha apart.

    An ICC profile is applied; CMYK, YCCK, LAB and palettes become RGB; 12-bit, signed and 32-bit TIFFs become
    floats by the range of their type. The colours under transparency are those that are stored.

    Args:
        content: the file.
        name: its name, for messages.
        channels: 1 for grey, 3 for RGB, another number for exactly so many; None: as many as the file has.
        max_pixels: more are refused before they are decoded.

    Raises:
        SampleError: it is not an image, damaged, animated, of several pages, of unknown range, of other channels,
            or too large.
    """
    try:
        try:
            picture = _decoded(content, name, max_pixels, None)
        except SampleError:
            raise
        except Exception:
            # damaged or outsized metadata must not cost the picture
            if (rest := ancillary.stripped(content)) is None:
                raise
            note = f"{name}: its metadata are damaged or too large, and were left out"
            picture = _decoded(rest[0], name, max_pixels, rest[1], (note,))
    except SampleError:
        raise
    except UnidentifiedImageError as error:  # whose text is that of a Python object
        what = "it is empty" if not content else "HEIC" if _is_heic(content) else "of no known kind"
        raise SampleError(
            f"{name} is not a readable image ({what}); {'convert' if what == 'HEIC' else 'replace'} it or leave it out"
        ) from error
    except Exception as error:  # decoders raise many kinds on damaged files
        raise SampleError(f"{name} is not a readable image ({error}); replace it or leave it out") from error
    fitted = _fitted(picture, name, channels)
    if picture.source.channels == 3 and channels == 1 and _is_coloured(picture.pixels):
        note = f"{name}: its colours are given up for the one channel of grey that is wanted"
        return Picture(fitted, replace(picture.source, notes=(*picture.source.notes, note)))
    return Picture(fitted, picture.source)


def _is_heic(content: bytes) -> bool:
    """Telephones' own kind, which comes as .jpg, too."""
    return content[4:8] == b"ftyp" and content[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")


def _is_coloured(pixels: NDArray[Any]) -> bool:
    """Whether (H, W, 3) is more than a grey image in three equal channels, but for a JPEG's errors."""
    top = 1.0 if pixels.dtype == np.float32 else np.iinfo(pixels.dtype).max
    return float((pixels.max(2).astype(np.float64) - pixels.min(2)).mean()) > 0.01 * top


def _decoded(
    content: bytes, name: str, max_pixels: int, profile: bytes | None, notes: tuple[str, ...] = ()
) -> Picture:
    """A picture with the channels that it has."""
    page = tiff.read(content, name, max_pixels) if content[:4] in TIFF_STARTS else tiff.Page(None)
    if page.pixels is not None:
        notes += page.notes
        pixels, alpha, bits, date = page.pixels, page.alpha, page.bits, page.date
        profile, orientation, inks = page.profile, page.orientation, page.cmyk
    else:
        opened: Image.Image = Image.open(io.BytesIO(content))
        if opened.width * opened.height > max_pixels:
            raise SampleError(
                f"{name} has {opened.width}x{opened.height} pixels, more than the limit of {max_pixels} "
                "(data.max_pixels)"
            )
        # of a MPO, as telephones write them, the first picture is the photo, the others are its depth or brightness
        if (frames := getattr(opened, "n_frames", 1)) > 1 and opened.format != "MPO":
            raise SampleError(f"{name} has {frames} frames; store each as a file of its own")
        if (bits := deep.bits_of(content, opened.format)) > 8:
            (pixels, alpha), inks = deep.read(content, opened.format, bits, name), False
        else:
            opened.load()
            pixels, alpha, least, inks = _pillow_pixels(opened, name)
            bits = least if least != 8 else min(bits, page.bits)
        profile = profile or opened.info.get("icc_profile")
        orientation, date, readable = _exif(opened)
        if not readable:
            notes += (f"{name}: its EXIF data are damaged, and were left out",)
    if profile:
        try:
            pixels, inks = colour.to_srgb(pixels, profile), False
        except ValueError as error:
            notes += (f"{name}: its colour profile was left out ({error})",)
    if inks:
        pixels = _without_inks(pixels)
    pixels = _turned(pixels, orientation)
    plane = None if alpha is None else torch.from_numpy(_turned(alpha, orientation)[None].copy())
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return Picture(pixels, Source(name, bits, channels, plane, date, notes))


TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _pillow_pixels(opened: Image.Image, name: str) -> tuple[NDArray[Any], NDArray[Any] | None, int, bool]:
    """(pixels, alpha, bits, whether these are inks) of a loaded picture."""
    mode = opened.mode
    if mode == "F":
        raise SampleError(
            f"{name} holds floating-point pixels of unknown range; store them as a TIFF, in [0, 1]"
        )
    if mode.startswith("I"):
        values = np.asarray(opened)
        if values.min() < 0 or values.max() > 65535:
            raise SampleError(f"{name} holds 32-bit pixels of unknown range; store them as a 16-bit PNG")
        return values.astype(np.uint16), None, 16, False
    if mode == "1":
        return np.asarray(opened.convert("L")), None, 1, False
    if mode == "LAB":
        from PIL import ImageCms

        profiles = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
        opened.info.pop("icc_profile", None)
        converted = ImageCms.profileToProfile(opened, *profiles, outputMode="RGB")
        assert converted is not None
        return np.asarray(converted), None, 8, False
    if mode == "CMYK":
        return np.asarray(opened), None, 8, True
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in opened.info:
        grey = mode in ("L", "LA", "La")
        both = np.asarray(opened.convert("RGBA"))
        return (both[..., 0] if grey else both[..., :3]), both[..., 3], 8, False
    return np.asarray(opened if mode in ("L", "RGB") else opened.convert("RGB")), None, 8, False


def _exif(opened: Image.Image) -> tuple[int, str | None, bool]:
    """(orientation, date, whether they could be read)."""
    try:
        if data := opened.info.get("exif"):
            Image.Exif().load(data)  # of damaged ones `getexif` complains once, when the file is opened
        exif = opened.getexif()
        date = exif.get_ifd(0x8769).get(0x9003) or exif.get(0x0132)
        orientation = exif.get(0x0112, 1)
    except Exception:  # Pillow raises many kinds on damaged ones
        return 1, None, False
    date = date if isinstance(date, str) and DATE.fullmatch(date) else None
    return (orientation if orientation in range(1, 9) else 1), date, True


def _turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Stored pixels as EXIF's orientation wants them seen."""
    if orientation > 4:  # rows are columns
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _without_inks(pixels: NDArray[Any]) -> NDArray[Any]:
    """CMYK of no profile to RGB, as Pillow does it."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels, "CMYK").convert("RGB"))
    inks = unit(pixels)
    colours = (1 - inks[..., :3]) * (1 - inks[..., 3:])
    return (colours * 65535).round().astype(np.uint16) if pixels.dtype == np.uint16 else colours


def _fitted(picture: Picture, name: str, channels: int | None) -> NDArray[Any]:
    """Pixels of so many channels: colours to grey, grey to equal colours; other numbers must be there."""
    pixels, found = picture.pixels, picture.source.channels
    if channels is None or found == channels:
        return pixels
    if found == 1 and channels == 3:
        return np.repeat(pixels[..., None], 3, 2)
    if found == 3 and channels == 1:
        if pixels.dtype == np.uint8:
            return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
        grey = pixels.astype(np.float32) @ LUMA
        return grey if pixels.dtype == np.float32 else grey.round().astype(pixels.dtype)
    raise SampleError(
        f"{name} has {found} channels, expected {channels}; store those alone (1 and 3 as a picture, others as .npy)"
    )


def array(content: bytes, name: str) -> Tensor:
    """A .npy member as float32 (complex64 where complex).

    Raises:
        SampleError: it is damaged, or holds objects.
    """
    values = npy.load(content, name)
    with np.errstate(over="ignore"):  # too large ones are infinite, which is told
        return torch.from_numpy(values.astype(np.complex64 if np.iscomplexobj(values) else np.float32))


def array_image(content: bytes, name: str, channels: int, max_pixels: int = MAX_PIXELS) -> Picture:
    """A .npy file that holds an image, (C, H, W) or (H, W): floats on the [0, 1] scale, neither scaled nor clipped.

    uint8 and uint16 are taken as a file of so many bits; a complex (H, W) as two channels, its real and its
    imaginary part. One channel becomes three equal ones, as that of a grey picture does.

    Args:
        content: the file.
        name: its name, for messages.
        channels: how many it must have.
        max_pixels: more are refused.

    Raises:
        SampleError: it is damaged, not finite, of another shape or type, or too large.
    """
    values = npy.load(content, name)
    if np.iscomplexobj(values) and values.ndim == 2:
        values = np.stack([values.real, values.imag])
    planes = values[None] if values.ndim == 2 else values
    if planes.ndim == 3 and len(planes) == 1 and channels == 3:
        grey, planes = 1, np.repeat(planes, 3, 0)  # as of a grey picture
    else:
        grey = channels
    if planes.ndim != 3 or len(planes) != channels:
        last = "; the channels come first" if values.ndim == 3 and values.shape[2] == channels else ""
        raise SampleError(f"{name} has shape {values.shape}, expected ({channels}, height, width){last}")
    if planes.shape[1] * planes.shape[2] > max_pixels:
        raise SampleError(
            f"{name} has {planes.shape[2]}x{planes.shape[1]} pixels, more than the limit of {max_pixels} "
            "(data.max_pixels)"
        )
    bits = {"uint8": 8, "uint16": 16}.get(planes.dtype.name, 0)
    if not bits and planes.dtype.kind != "f":
        raise SampleError(f"{name} holds {planes.dtype}, expected floats in [0, 1], uint8 or uint16")
    if not np.isfinite(planes).all():
        raise SampleError(f"{name} holds NaN or infinite values")
    planes = planes if bits else planes.astype(np.float32)
    return Picture(planes[0] if channels == 1 else np.moveaxis(planes, 0, 2), Source(name, bits, grey))
