"""Photos as people have them come out as what a person sees."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from reddiff_pl.errors import SampleError
from reddiff_pl.physics import Degradation, NoNoise, SuperResolution
from reddiff_pl.shards import decode
from reddiff_pl.shards.encode import to_uint8
from reddiff_pl.shards.plan import plan
from reddiff_pl.shards.reader import read_shard
from reddiff_pl.shards.samples import prepare


def scene(width=96, height=64) -> Image.Image:
    """Red left, green right, a blue top edge: turned or mirrored, it is another picture."""
    array = np.zeros((height, width, 3), np.uint8)
    array[:, : width // 2] = (200, 30, 30)
    array[:, width // 2 :] = (30, 200, 30)
    array[: height // 4] = (30, 30, 200)
    return Image.fromarray(array)


def save(picture: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def decoded(content: bytes, channels: int = 3) -> np.ndarray:
    return np.asarray(decode.image(content, "photo", channels)).astype(int)


PLAIN = np.asarray(scene()).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation):
    """The stored pixels are turned so that EXIF's orientation brings the scene back."""
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = scene() if back is None else scene().transpose(back)
    assert (decoded(save(stored, "PNG", exif=exif)) == PLAIN).all()


@pytest.mark.parametrize(
    ("kind", "mode", "options", "tolerance"),
    [
        ("PNG", "RGB", {}, 0),
        ("WEBP", "RGB", {"lossless": True}, 0),
        ("JPEG", "RGB", {"quality": 100, "subsampling": 0}, 4),
        ("TIFF", "RGB", {}, 0),
        ("BMP", "RGB", {}, 0),
        ("JPEG", "CMYK", {"quality": 100}, 4),
        ("TIFF", "CMYK", {}, 1),
        ("PNG", "P", {}, 0),
        ("PNG", "RGBA", {}, 0),
    ],
)
def test_kinds_and_modes(kind, mode, options, tolerance):
    picture = scene().quantize(8) if mode == "P" else scene().convert(mode)
    assert np.abs(decoded(save(picture, kind, **options)) - PLAIN).max() <= tolerance


def test_grey_becomes_three_equal_channels_and_colour_one_grey():
    grey = decoded(save(scene().convert("L"), "PNG"))
    assert grey.shape == (64, 96, 3) and (grey == grey[..., :1]).all()
    assert decoded(save(scene(), "PNG"), channels=1).shape == (64, 96)


def test_16_bit_greys_keep_their_tone():
    """All levels stay; shown in 8 bit, 257 of them are one, where clipping would turn nearly all white."""
    ramp = np.linspace(0, 65535, 256 * 16).reshape(16, 256).astype(np.uint16)
    values = decoded(save(Image.fromarray(ramp), "PNG"), channels=1)
    assert (values == ramp).all()
    picture = decode.image(save(Image.fromarray(ramp), "PNG"), "photo", 1)
    assert np.abs(np.asarray(picture.pil()) - ramp / 257).max() <= 0.51


def test_alpha_stands_apart_and_the_colours_are_those_stored():
    picture = scene().convert("RGBA")
    alpha = np.arange(64 * 96, dtype=np.int64).reshape(64, 96).astype(np.uint8)
    picture.putalpha(Image.fromarray(alpha))
    read = decode.image(save(picture, "PNG"), "photo", 3)
    assert (np.asarray(read) == PLAIN).all() and (read.source.alpha.numpy()[0] == alpha).all()
    white = read.on_white().pil()
    assert white.getpixel((0, 0)) == (255, 255, 255), "there it is transparent"
    palette = scene().convert("P")
    read = decode.image(save(palette, "PNG", transparency=palette.getpixel((0, 0))), "photo", 3)
    assert read.source.alpha[0, 0, 0] == 0 and read.source.alpha[0, -1, -1] == 255


def test_photos_are_cropped_in_the_middle_and_reduced_never_enlarged():
    photo = decode.image(save(scene(), "PNG"), "photo")
    square = decode.fitted(photo, 64, 64, "photo")
    assert (np.asarray(square) == PLAIN[:, 16:80]).all(), "no resampling where the size fits"
    half = decode.fitted(photo, 32, 32, "photo")
    assert half.size == (32, 32)
    assert np.abs(np.asarray(half)[20, 4].astype(int) - PLAIN[40, 24]).max() <= 2
    with pytest.raises(SampleError, match=r"96x64 pixels, smaller than data\.size 65"):
        decode.fitted(photo, 65, 65, "photo")


def test_a_folder_of_them_all(tmp_path):
    """One folder, many kinds and names; every file comes out once under a key that a tar can hold."""
    files = {
        "a.jpg": save(scene(), "JPEG"),
        "deep/er/b.PNG": save(scene(), "PNG"),
        "IMG.2020.01.webp": save(scene(), "WEBP"),
        "cmyk.jpeg": save(scene().convert("CMYK"), "JPEG"),
        "sixteen.png": save(Image.fromarray(np.zeros((70, 70), np.uint16)), "PNG"),
        "a.png": save(scene(), "PNG"),
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    [shard] = plan(None, str(tmp_path))
    raws = list(read_shard(shard))
    assert {raw.key for raw in raws} == {"a", "a_png", "deep/er/b", "IMG_2020_01", "cmyk", "sixteen"}
    assert {raw.file for raw in raws} == set(files)
    degradation = Degradation(SuperResolution(4), NoNoise(), (3, 64, 64), 0)
    for raw in raws:
        if hasattr(raw, "members"):
            assert prepare(raw, degradation).x.shape == (3, 64, 64)


def test_8_bit_and_back_is_exact():
    values = torch.arange(256).repeat(3, 1)[:, None]
    assert (to_uint8(2 * (values.float() / 255) - 1) == values).all()
