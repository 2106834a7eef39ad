"""Pictures as cameras and programs write them are read at their own depth and in their own colours, or refused."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from helpers import tiff12
from PIL import Image

from reddiff_pl.errors import SampleError
from reddiff_pl.shards import decode, encode
from reddiff_pl.shards.picture import unit, unit_tensor

RNG = np.random.default_rng(0)
WORDS = RNG.integers(0, 65536, (12, 20, 4), dtype=np.uint16)
BYTES = (WORDS >> 8).astype(np.uint8)
SRGB = imagecodecs.cms_profile("srgb")
ADOBE = imagecodecs.cms_profile("adobergb")


def save(picture: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, metadata=None, **{"photometric": "minisblack", **options})
    return out.getvalue()


def chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def with_chunk(png: bytes, piece: bytes) -> bytes:
    return png[:33] + piece + png[33:]


@pytest.mark.parametrize("kind", ["png", "tiff", "lzw", "planar"])
@pytest.mark.parametrize("planes", [1, 2, 3, 4])
def test_16_bits_keep_every_level_and_alpha(kind, planes):
    stored = WORDS[..., :planes] if planes > 1 else WORDS[..., 0]
    if kind == "png":
        content = imagecodecs.png_encode(np.ascontiguousarray(stored))
    else:
        options = {"photometric": "rgb" if planes > 2 else "minisblack"}
        options |= {"extrasamples": ["unassalpha"]} if planes in (2, 4) else {}
        if kind == "planar" and planes > 1:
            stored_planes = np.ascontiguousarray(np.moveaxis(stored, 2, 0))
            content = tiff(stored_planes, planarconfig="separate", **options)
        else:
            options |= {"planarconfig": "contig"} if planes > 1 else {}
            content = tiff(stored, compression="lzw" if kind == "lzw" else None, **options)
    picture = decode.image(content, "photo")
    colours = stored if planes in (1, 3) else stored[..., : planes - 1].squeeze()
    assert (picture.pixels == colours).all() and picture.pixels.dtype == np.uint16
    assert picture.source.bits == 16 and picture.source.channels == (1 if planes < 3 else 3)
    if planes in (2, 4):
        assert (picture.source.alpha.numpy()[0] == stored[..., -1]).all()
    else:
        assert picture.source.alpha is None
    assert len(np.unique(unit_tensor(picture))) == len(np.unique(colours))


@pytest.mark.parametrize(
    ("stored", "options", "expected", "bits"),
    [
        (WORDS[..., 0] >> 4, {}, (WORDS[..., 0] >> 4) / 4095, 12),
        (WORDS[..., 0].astype(np.uint32) << 16 | 77, {}, (WORDS[..., 0] * 65536.0 + 77) / (2**32 - 1), 32),
        ((WORDS[..., 0] >> 1).astype(np.int16), {}, (WORDS[..., 0] >> 1) / 32767, 16),
        (WORDS[..., 0].view(np.int16), {}, (WORDS[..., 0].view(np.int16) + 32768.0) / 65535, 16),
        (WORDS[..., 0], {"photometric": "miniswhite"}, 1 - WORDS[..., 0] / 65535, 16),
        (
            BYTES[..., 0] * np.float32(0.5),
            {"extratags": [(340, "f", 1, 0.0, True), (341, "f", 1, 200.0, True)]},
            BYTES[..., 0] / 400,
            32,
        ),
    ],
)
def test_greys_are_scaled_by_the_range_of_their_type(stored, options, expected, bits):
    content = tiff12(stored) if bits == 12 else tiff(stored, **options)
    picture = decode.image(content, "scan.tif", 1)
    assert np.abs(unit(picture.pixels) - expected).max() < 1e-6
    assert picture.source.bits == bits
    assert ("negative" in "".join(picture.source.notes)) == (stored.min() < 0)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (tiff(WORDS[..., 0].astype(np.float32)), "floating-point pixels of unknown range"),
        (tiff(WORDS[..., 0].astype(np.int32)), "int32 pixels of unknown range"),
        (tiff(WORDS[..., 0].astype(np.float64)), "floating-point pixels of unknown range"),
        (tiff(np.moveaxis(WORDS, 2, 0)), "has 4 pages"),
        (tiff(np.moveaxis(BYTES, 2, 0)), "has 4 pages"),
        (tiff(WORDS, planarconfig="contig"), "has 4 channels, expected 3"),
        (save(Image.fromarray(BYTES[..., 0]), "GIF", save_all=True, append_images=[Image.fromarray(BYTES[..., 1])]),
         "has 2 frames"),
        (save(Image.fromarray(BYTES[..., :3]), "PNG", save_all=True, append_images=[Image.fromarray(BYTES[..., 1:])]),
         "has 2 frames"),
        (save(Image.fromarray(BYTES[..., :3]), "WEBP", save_all=True, append_images=[Image.fromarray(BYTES[..., 1:])]),
         "has 2 frames"),
        (tiff(WORDS[..., 0])[:-200], "not a readable image"),
        (imagecodecs.png_encode(WORDS)[:-300], "not a readable image"),
        (b"II*\0" + bytes(40), "not a readable image"),
        (b"", r"\(it is empty\); replace it"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), r"\(HEIC\); convert it"),
        (b"<!doctype html><html></html>", "of no known kind"),
    ],
)  # fmt: skip
def test_what_has_no_range_or_several_pictures_is_refused_in_one_line(content, line):
    with pytest.raises(SampleError, match=line) as told:
        decode.image(content, "scan.tif", 3)
    assert str(told.value).startswith("scan.tif ") and "\n" not in str(told.value)


def test_the_limit_is_looked_at_before_decoding():
    for content in (
        save(Image.new("L", (30, 20)), "PNG"),
        imagecodecs.png_encode(WORDS),
        tiff(WORDS[..., 0]),
    ):
        with pytest.raises(SampleError, match=r"pixels, more than the limit of 100 \(data.max_pixels\)"):
            decode.image(content, "large", 1, max_pixels=100)


def adobe_to_srgb(values: np.ndarray) -> np.ndarray:
    """Adobe RGB (1998) in [0, 1] to sRGB by their published matrices, clipped."""
    to_xyz = np.array(
        [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    )  # fmt: skip
    from_xyz = np.array(
        [
            [3.2404542, -1.5371385, -0.4985314],
            [-0.9692660, 1.8760108, 0.0415560],
            [0.0556434, -0.2040259, 1.0572252],
        ]
    )
    linear = (values ** (563 / 256)) @ to_xyz.T @ from_xyz.T
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clip(1e-9) ** (1 / 2.4) - 0.055).clip(
        0, 1
    )


@pytest.mark.parametrize("content", [
    save(Image.fromarray(BYTES[..., :3]), "PNG", icc_profile=ADOBE),
    save(Image.fromarray(BYTES[..., :3]), "TIFF", icc_profile=ADOBE),
    save(Image.fromarray(BYTES[..., :3]), "WEBP", icc_profile=ADOBE, lossless=True),
    tiff(WORDS[..., :3], photometric="rgb", iccprofile=ADOBE),
], ids=["png", "tiff", "webp", "tiff16"])  # fmt: skip
def test_adobe_rgb_becomes_srgb(content):
    picture = decode.image(content, "photo", 3)
    stored = WORDS[..., :3] / 65535 if picture.source.bits == 16 else BYTES[..., :3] / 255
    assert np.abs(unit(picture.pixels) - adobe_to_srgb(stored)).max() * 255 < 1
    assert not picture.source.notes
    grey = decode.image(save(Image.fromarray(BYTES[..., 0]), "PNG", icc_profile=ADOBE), "photo", 1)
    expected = adobe_to_srgb(np.repeat(BYTES[..., :1], 3, 2) / 255)[..., 0]
    assert np.abs(unit(grey.pixels) - expected).max() * 255 < 1, "a grey picture with a profile of colours"


@pytest.mark.parametrize("profile", [SRGB, b"no profile at all", ADOBE[:200], bytes(3000)])
def test_srgb_and_broken_profiles_leave_the_bytes(profile):
    picture = decode.image(save(Image.fromarray(BYTES[..., :3]), "PNG", icc_profile=profile), "photo", 3)
    assert (picture.pixels == BYTES[..., :3]).all()
    assert bool(picture.source.notes) == (profile != SRGB)


def test_damaged_or_large_metadata_do_not_cost_the_picture():
    picture = Image.fromarray(BYTES[..., :3])
    plain = save(picture, "PNG")
    large = ADOBE[:-1] + RNG.bytes(2_000_000)
    pieces = {
        "profile of 2 MB": chunk(b"iCCP", b"x\0\0" + zlib.compress(large)),
        "crc": chunk(b"tEXt", b"Title\0x", crc=1),
        "exif": chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + bytes(7)),
        "exif, not at all": chunk(b"eXIf", b"garbage"),
        "compressed text": chunk(b"zTXt", b"Title\0\0" + zlib.compress(bytes(80_000_000))),
    }
    for name, piece in pieces.items():
        read = decode.image(with_chunk(plain, piece), "photo", 3)
        if name != "profile of 2 MB":
            assert (read.pixels == BYTES[..., :3]).all(), name
    exif = b"Exif\0\0" + RNG.bytes(300)
    for kind in ("JPEG", "WEBP", "TIFF"):
        options = {"exif": exif} if kind != "TIFF" else {"tiffinfo": {34665: 5_000_000}}
        read = decode.image(save(picture, kind, **options), "photo", 3)
        assert read.pixels.shape == (12, 20, 3)
        if kind == "JPEG":
            assert "EXIF data are damaged" in read.source.notes[0]
    jpeg = save(picture, "JPEG", quality=95)
    cut = jpeg[:2] + b"\xff\xe2\0\x10MPF\0" + RNG.bytes(10) + jpeg[2:]
    assert np.array_equal(decode.image(cut, "photo", 3).pixels, decode.image(jpeg, "photo", 3).pixels)


def test_dates_and_orientation():
    exif = Image.Exif()
    exif[0x0132], exif[0x0112] = "2001:02:03 04:05:06", 6
    for kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        read = decode.image(save(Image.fromarray(BYTES[..., :3]), kind, exif=exif), "photo", 3)
        assert read.source.date == "2001:02:03 04:05:06" and read.size == (12, 20)
    exif.get_ifd(0x8769)[0x9003] = "1999:12:31 23:59:59"
    read = decode.image(save(Image.fromarray(BYTES[..., :3]), "JPEG", exif=exif), "photo", 3)
    assert read.source.date == "1999:12:31 23:59:59", "when it was taken, not when it was changed"
    turned = tiff(WORDS[..., 0], extratags=[(274, "H", 1, 6, True)], datetime="2001:02:03 04:05:06")
    read = decode.image(turned, "photo", 1)
    assert (read.pixels == np.rot90(WORDS[..., 0], -1)).all() and read.source.date == "2001:02:03 04:05:06"


def test_other_colours():
    colours = Image.fromarray(BYTES[..., :3])
    inks = Image.fromarray(BYTES, "CMYK")
    expected = np.asarray(inks.convert("RGB"))
    assert (decode.image(save(inks, "TIFF"), "photo", 3).pixels == expected).all()
    deep = tiff(WORDS, photometric="separated", planarconfig="contig")
    assert np.abs(unit(decode.image(deep, "photo", 3).pixels) * 255 - expected).max() < 2
    from PIL import ImageCms

    lab = ImageCms.profileToProfile(
        colours, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    back = np.asarray(decode.image(save(lab, "TIFF"), "photo", 3)).astype(int)
    assert np.abs(back - BYTES[..., :3]).mean() < 3
    scan = Image.fromarray(BYTES[..., 0] > 127)
    read = decode.image(save(scan, "TIFF", compression="group4"), "photo", 1)
    assert (read.pixels == 255 * (BYTES[..., 0] > 127)).all() and read.source.bits == 1


@pytest.mark.parametrize("rows", [12, 1])
@pytest.mark.parametrize("columns", [20, 1])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("colours", [1, 3])
def test_written_and_read_back(colours, deep, columns, rows):
    import torch

    values = (WORDS if deep else BYTES)[:rows, :columns]
    planes = torch.from_numpy(np.moveaxis(values, 2, 0).copy())
    for write in (encode.png, encode.tiff):
        content = write(planes[:colours], planes[3:], date="2001:02:03 04:05:06")
        read = decode.image(content, "out")
        assert np.array_equal(read.pixels, values[..., :3] if colours == 3 else values[..., 0])
        assert np.array_equal(read.source.alpha.numpy(), planes[3:].numpy())
        assert read.source.date == "2001:02:03 04:05:06" and not read.source.notes
        assert content == write(planes[:colours], planes[3:], date="2001:02:03 04:05:06")


def test_arrays_as_images():
    values = RNG.normal(size=(5, 6, 7)).astype(np.float32)
    read = decode.array_image(encode.npy(_tensor(values)), "x.npy", 5)
    assert np.array_equal(unit_tensor(read), values), "neither scaled nor clipped"
    assert read.source.bits == 0 and read.source.channels == 5
    read = decode.array_image(_npy(values[0] + 1j * values[1]), "x.npy", 2)
    assert np.array_equal(unit_tensor(read), values[:2])
    assert decode.array_image(_npy(BYTES[..., 0]), "x.npy", 1).source.bits == 8
    for bad, line in (
        (values, r"shape \(5, 6, 7\), expected \(3, height, width\)"),
        (np.full((3, 2, 2), np.nan), "NaN"),
        (np.zeros((3, 2, 2), np.int64), "int64"),
    ):
        with pytest.raises(SampleError, match=line):
            decode.array_image(_npy(bad), "x.npy", 3)


def test_nobody_else_speaks(capfd, caplog):
    """Warnings of libraries name no file: what matters is in the notes."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x09\0" + RNG.bytes(40)
    with warnings.catch_warnings(record=True) as heard:
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        decode.image(save(Image.fromarray(BYTES[..., :3]), "JPEG", exif=exif), "photo", 3)
        with pytest.raises(SampleError):
            decode.image(tiff(WORDS[..., 0])[:100], "photo", 3)
    assert not [str(warning.message) for warning in heard] and not caplog.records
    assert not re.sub(r"\s", "", "".join(capfd.readouterr()))


def _npy(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def _tensor(values: np.ndarray):
    import torch

    return torch.from_numpy(values)


@pytest.mark.parametrize(("planes", "photometric"), [(2, "minisblack"), (4, "rgb")])
def test_no_channel_of_a_tiff_is_left_out(planes, photometric):
    """Transparency is kept apart; what a file does not call so is a channel."""
    values = np.random.default_rng(0).integers(0, 256, (8, 8, planes), np.uint8)
    more = {"photometric": photometric, "planarconfig": "contig"}
    with pytest.raises(SampleError, match=f"has {planes} channels, expected 3"):
        decode.image(tiff(values, **more, extrasamples=["unspecified"]), "a.tif", 3)
    picture = decode.image(tiff(values, **more, extrasamples=["unassalpha"]), "a.tif", 3)
    assert (picture.source.alpha[0].numpy() == values[..., -1]).all() and not picture.source.notes


def test_colours_that_become_grey_are_told():
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    [note] = decode.image(save(Image.fromarray(values), "PNG"), "a.png", 1).source.notes
    assert note.startswith("a.png: its colours are given up")
    grey = Image.fromarray(values).convert("L").convert("RGB")
    for content in (save(grey, "PNG"), save(grey, "JPEG")):
        assert not decode.image(content, "a", 1).source.notes


def test_floats_in_0_to_1_are_kept_as_floats():
    values = (WORDS / 65535).astype(np.float32)
    picture = decode.image(tiff(values[..., :3], photometric="rgb"), "scan.tif", 3)
    assert picture.source.bits == 0 and np.array_equal(picture.pixels, values[..., :3])
    picture = decode.image(tiff(values[..., 0].astype(np.float16)), "scan.tif", 1)
    assert picture.source.bits == 0 and np.abs(picture.pixels - values[..., 0]).max() < 1e-3
    for odd in (-0.01, 1.01, np.nan):
        values[3, 3, 0] = odd
        with pytest.raises(SampleError, match=r"unknown range; store them as floats in \[0, 1\]"):
            decode.image(tiff(values[..., 0]), "scan.tif", 1)


def _netpbm(values: np.ndarray, top: int) -> bytes:
    kind = 6 if values.ndim == 3 else 5
    header = f"P{kind}\n# by a scanner\n{values.shape[1]} {values.shape[0]}\n{top}\n"
    return header.encode() + values.astype(">u2").tobytes()


@pytest.mark.parametrize("planes", [1, 3, 4])
@pytest.mark.parametrize(
    ("bits", "write"),
    [
        (16, lambda values: _netpbm(values, 65535)),
        (10, lambda values: _netpbm(values, 1023)),
        (16, lambda values: imagecodecs.jpeg2k_encode(values, level=0)),
        (12, lambda values: imagecodecs.jpeg2k_encode(values, level=0, bitspersample=12)),
        (10, lambda values: imagecodecs.avif_encode(values, level=100, bitspersample=10)),
        (12, lambda values: imagecodecs.avif_encode(values, level=100, bitspersample=12)),
    ],
)
def test_what_other_kinds_have_beyond_8_bits_is_kept(bits, write, planes):
    stored = np.ascontiguousarray((WORDS if planes > 1 else WORDS[..., 0]) >> (16 - bits))
    stored = np.ascontiguousarray(stored[..., :planes]) if planes > 1 else stored
    content = write(stored)
    if content[:2] in (b"P5", b"P6") and planes == 4:
        pytest.skip("holds no transparency")
    picture = decode.image(content, "photo")
    assert picture.source.bits == bits
    expected = stored if planes == 1 else stored[..., :3]
    assert np.abs(unit(picture.pixels) * (2**bits - 1) - expected).max() < 0.01
    assert (picture.source.alpha is not None) == (planes == 4)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_greys_of_few_bits_say_so(bits):
    levels = BYTES[:, :16, 0] >> (8 - bits)
    rows = np.packbits(np.unpackbits(levels[..., None], axis=2)[..., 8 - bits :].reshape(12, -1), axis=1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 12, bits, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    png = b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")
    for content in (png, tiff(levels, bitspersample=bits)):
        picture = decode.image(content, "scan", 1)
        assert picture.source.bits == bits
        assert np.abs(unit(picture.pixels) - levels / (2**bits - 1)).max() < 1e-6
