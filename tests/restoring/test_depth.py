"""What comes in goes out: depth, channels, transparency, dates, through a whole run of a noise-free identity."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from helpers import QUICK, npy, read_json, read_tar, tiff12, write_shard
from PIL import Image

from reddiff_pl.shards import decode
from reddiff_pl.shards.picture import unit

RNG = np.random.default_rng(1)
SIDE = 32
WORDS = RNG.integers(0, 65536, (SIDE, SIDE, 4), dtype=np.uint16)
BYTES = (WORDS >> 8).astype(np.uint8)
LEVELS = np.resize(np.linspace(0, 65535, 601).astype(np.uint16), (SIDE, SIDE))
IDENTITY = ["--model.physics=reddiff_pl.physics.Denoising", "--model.noise=reddiff_pl.physics.NoNoise"]


def options(channels: int = 3) -> list[str]:
    return [*QUICK, *IDENTITY, f"--model.prior.init_args.shape=[{channels},{SIDE},{SIDE}]"]


def tiff(array: np.ndarray, **more) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, metadata=None, **{"photometric": "minisblack", **more})
    return out.getvalue()


def save(picture: Image.Image, kind: str, **more) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **more)
    return out.getvalue()


def test_what_comes_in_goes_out(reddiff, tmp_path):
    """Grey, colours and transparency of 8, 12 and 16 bits, by files of each kind in one folder."""
    date = Image.Exif()
    date[0x0132] = "2001:02:03 04:05:06"
    files = {
        "adobe.png": save(Image.fromarray(BYTES[..., :3]), "PNG", icc_profile=imagecodecs.cms_profile("adobergb")),
        "colour16.png": imagecodecs.png_encode(np.ascontiguousarray(WORDS[..., :3])),
        "colour16alpha.tif": tiff(WORDS, photometric="rgb", extrasamples=["unassalpha"]),
        "dated.png": save(Image.fromarray(BYTES[..., :3]), "PNG", exif=date),
        "grey12.tif": tiff12(WORDS[..., 0] >> 4),
        "grey16.png": imagecodecs.png_encode(LEVELS),
        "grey8alpha.png": save(Image.fromarray(np.ascontiguousarray(BYTES[..., 2:])), "PNG"),
        "inks.tif": save(Image.fromarray(BYTES, "CMYK"), "TIFF"),
        "signed.tif": tiff(WORDS[..., 0].view(np.int16)),
    }  # fmt: skip
    folder = tmp_path / "in"
    folder.mkdir()
    for name, content in {**files, "volume.tif": tiff(np.moveaxis(WORDS, 2, 0))}.items():
        (folder / name).write_bytes(content)
    code, printed = reddiff("restore", *options(), "--data.images", folder, "--out", tmp_path / "out")
    assert code == 3 and "volume" in printed and "has 4 pages" in printed, printed
    assert "signed" in printed and "its whole range, -32768 to 32767, is taken as [0, 1]" in printed
    [tar] = (tmp_path / "out" / "shards").glob("*.tar")
    members = read_tar(tar)
    for name, content in files.items():
        key = name.partition(".")[0]
        before, after = decode.image(content, name), decode.image(members[f"{key}.png"], f"{key}.png")
        assert after.source.bits == (16 if before.source.bits > 8 else 8), name
        assert after.source.channels == before.source.channels, name
        assert after.source.date == before.source.date, name
        assert (after.source.alpha is None) == (before.source.alpha is None), name
        if before.source.alpha is not None:
            assert torch.equal(after.source.alpha, before.source.alpha), name
        step = 255 if before.source.bits <= 8 else 65535
        assert np.abs(unit(after.pixels) - unit(before.pixels)).max() <= 1.01 / step, name
    assert len(np.unique(decode.image(members["grey16.png"], "grey16"))) == 601


@pytest.mark.parametrize("output", ["png", "png16", "tiff", "npy"])
def test_any_kind_of_file_can_be_asked_for(reddiff, tmp_path, output):
    """Metrics are those of what is written: a reference of 16 bits shows what 8 lose."""
    samples = [
        ("deep", {"png": imagecodecs.png_encode(WORDS)}),
        ("flat", {"png": save(Image.fromarray(BYTES), "PNG")}),
    ]
    shard = write_shard(tmp_path / "a.tar", samples)
    out = tmp_path / "out"
    code, printed = reddiff(
        "restore", *options(), "--data.shards", shard, "--out", out, f"--model.output={output}"
    )
    assert code == 0, printed
    members = read_tar(out / "shards" / "a.tar")
    suffix = "png" if output == "png16" else output
    for key, stored in (("deep", WORDS), ("flat", BYTES)):
        content = members[f"{key}.{suffix}"]
        step = 255 if output == "png" or (output == "tiff" and key == "flat") else 65535
        if output == "npy":
            image = np.moveaxis(np.load(io.BytesIO(content)), 0, 2)
            assert image.dtype == np.float32 and image.shape == (SIDE, SIDE, 3)
            alpha = decode.image(members[f"{key}.alpha.png"], "alpha").pixels
        else:
            picture = decode.image(content, key)
            assert picture.pixels.dtype == (np.uint8 if step == 255 else np.uint16)
            image, alpha = unit(picture.pixels), picture.source.alpha[0].numpy()
        assert np.abs(image - unit(stored[..., :3])).max() <= 1.01 / step
        assert np.abs(unit(alpha) - unit(stored[..., 3])).max() <= 0.51 / step


def test_floats_and_other_channels_stay_arrays(reddiff, tmp_path):
    """Five channels, values outside [0, 1]: never clipped; the spread and the strip go along."""
    values = RNG.normal(0.5, 0.6, (5, SIDE, SIDE)).astype(np.float32)
    shard = write_shard(
        tmp_path / "a.tar", [("five", {"npy": npy(values)}), ("measured", {"y.npy": npy(2 * values - 1)})]
    )
    out, more = (
        tmp_path / "out",
        ["--model.num_samples=2", "--model.keep_steps=2", "--model.keep_samples=true"],
    )
    code, printed = reddiff("restore", *options(5), *more, "--data.shards", shard, "--out", out)
    assert code == 0, printed
    members = read_tar(out / "shards" / "a.tar")
    for key in ("five", "measured"):
        restored = np.load(io.BytesIO(members[f"{key}.npy"]))
        assert np.abs(restored - values).max() < 1e-3 and restored.min() < -0.2 < 1.2 < restored.max()
        assert np.load(io.BytesIO(members[f"{key}.sample1.npy"])).shape == (5, SIDE, SIDE)
        assert decode.image(members[f"{key}.steps.png"], "steps").pixels.shape == (2 * SIDE, 2 * SIDE, 3)
    code, printed = reddiff("evaluate", out, "--metrics", "psnr,ssim,misfit")
    assert code == 0, printed
    summary = read_json(out / "summary.json")
    assert "images of 5 channels: pictures and networks see the first three" in str(summary["notes"])
    assert summary["metrics"]["psnr"]["mean"] > 50
    code, printed = reddiff("report", out)
    assert code == 0, printed
    assert "images of 5 channels" in (out / "report" / "index.html").read_text()
    code, printed = reddiff(
        "restore", *options(5), "--model.output=png16", "--data.shards", shard, "--out", tmp_path / "b"
    )
    assert code == 2 and "--model.output: png16 holds 1 or 3 channels, the prior has 5" in printed


def test_the_best_of_several_is_the_one_of_the_smallest_misfit(reddiff, tmp_path):
    shard = write_shard(
        tmp_path / "a.tar",
        [
            (f"i{i}", {"png": save(Image.fromarray(BYTES[..., i : i + 1].repeat(3, 2)), "PNG")})
            for i in range(3)
        ],
    )
    task = ["--model.physics=reddiff_pl.physics.SuperResolution", "--model.physics.init_args.factor=4"]
    many = [
        "--model.num_samples=3",
        "--model.keep_samples=true",
        "--data.shards",
        shard,
        "--data.batch_size=2",
    ]
    code, printed = reddiff(
        "restore", *options(), *task, *many, "--model.samples=best", "--out", tmp_path / "out"
    )
    assert code == 0, printed
    members = read_tar(tmp_path / "out" / "shards" / "a.tar")
    for i in range(3):
        measured = unit(BYTES[..., i]).reshape(8, 4, 8, 4).mean((1, 3))
        each = [decode.image(members[f"i{i}.sample{k}.png"], "sample").pixels for k in range(3)]
        misfits = [
            np.square(unit(x).reshape(8, 4, 8, 4, 3).mean((1, 3)) - measured[..., None]).mean() for x in each
        ]
        assert np.array_equal(
            decode.image(members[f"i{i}.png"], "best").pixels, each[int(np.argmin(misfits))]
        )


@pytest.mark.parametrize("operator", ["ours", "deepinv"])
def test_a_grey_picture_of_an_operator_that_makes_grey_becomes_colours(operator):
    """An old photo to colourise comes as one channel, and its image has three; elsewhere grey stays grey."""
    import deepinv

    from reddiff_pl.physics import Colorization, Degradation, Denoising, NoNoise, UnitRange
    from reddiff_pl.restoring.written import Form
    from reddiff_pl.shards.reader import RawSample
    from reddiff_pl.shards.samples import prepare

    physics = Colorization() if operator == "ours" else UnitRange(deepinv.physics.Decolorize())
    raw = RawSample(0, "old", {"y.png": save(Image.fromarray(BYTES[..., 0]), "PNG")})
    sample = prepare(raw, Degradation(physics, NoNoise(), (3, SIDE, SIDE), 0))
    assert sample.y.shape == (1, SIDE, SIDE) and sample.shape == (3, SIDE, SIDE)
    assert not Form.of(sample, 3).grey
    sample = prepare(raw, Degradation(Denoising(), NoNoise(), (3, SIDE, SIDE), 0))
    assert sample.y.shape == (3, SIDE, SIDE) and Form.of(sample, 3).grey
