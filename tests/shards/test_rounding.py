"""Rounding is noise: what a file's precision tells of the noise level, who wins over it, and what a run says of it."""

from __future__ import annotations

import io
import json
import math

import deepinv.physics
import numpy as np
import pytest
from helpers import CONFIGS, QUICK, npy, png, read_json, read_tar, write_shard
from PIL import Image

from reddiff_pl.physics import (
    JPEG,
    Compose,
    Degradation,
    Denoising,
    GaussianNoise,
    Inpainting,
    NoNoise,
    SuperResolution,
    UniformDeblurring,
)
from reddiff_pl.shards.reader import RawSample
from reddiff_pl.shards.rounding import jpeg_level, rounding_level
from reddiff_pl.shards.samples import prepare

EIGHT = 1 / (255 * math.sqrt(12))
PHOTO = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
BLUR = [
    "--config",
    CONFIGS / "tasks" / "deblur_uniform.yaml",
    *QUICK,
    "--model.prior.init_args.shape=[3,16,16]",
]


def jpeg(picture: Image.Image, quality: int, subsampling: int = 0) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality, subsampling=subsampling)
    return out.getvalue()


def test_the_levels_of_bits():
    """Rounding 8 and 16 bits really leaves that much; floats have no steps."""
    for bits in (8, 16):
        values = np.random.default_rng(1).random(100_000)
        rounded = np.round(values * (2**bits - 1)) / (2**bits - 1)
        level = rounding_level(bits, b"", UniformDeblurring())
        assert level == pytest.approx((rounded - values).std(), rel=0.02)
    assert rounding_level(0, b"", UniformDeblurring()) == 0


@pytest.mark.parametrize(
    "physics",
    [Inpainting(), deepinv.physics.Inpainting((3, 16, 16), mask=0.5), JPEG(), Compose([Denoising(), JPEG()])],
)
def test_operators_that_rounding_does_not_harm(physics):
    assert rounding_level(8, b"", physics) == 0
    assert rounding_level(8, jpeg(Image.fromarray(PHOTO), 10), physics) == 0


@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpeg_levels_are_what_photos_lose(photos, subsampling):
    """Within a third of the mean error of photos that they were not measured on, and larger the lower the quality."""
    pictures = [
        Image.open(io.BytesIO(content)).convert("RGB").resize((96, 96))
        for content in list(photos.values())[:12]
    ]
    levels = []
    for quality in (10, 50, 90):
        squares = []
        for picture in pictures:
            content = jpeg(picture, quality, subsampling)
            decoded = np.asarray(Image.open(io.BytesIO(content)), float)
            squares.append(((decoded - np.asarray(picture, float)) ** 2).mean())
        level = jpeg_level(content)
        assert level == pytest.approx(math.sqrt(np.mean(squares)) / 255, rel=0.34)
        levels.append(level)
    assert levels == sorted(levels, reverse=True)
    assert jpeg_level(png(PHOTO)) is None
    assert rounding_level(8, content, SuperResolution(2)) == level


SAMPLES = {
    "a": {"y.png": png(PHOTO)},
    "b": {"y.png": png(PHOTO), "json": b'{"sigma_y": 0}'},
    "c": {"y.npy": npy(PHOTO.transpose(2, 0, 1) / np.float32(127.5) - 1)},
    "d": {"y.jpg": jpeg(Image.fromarray(PHOTO), 10)},
    "e": {"y.png": png(PHOTO), "json": b'{"sigma_y": null}'},
}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"b": "json", "c": "noise", "ade": "file"}),
        ({"rounding": False}, {"b": "json", "acde": "noise"}),
        ({"sigma_y": 1e-4}, {"b": "json", "acde": "option"}),
        ({"sigma_y": "estimate"}, {"b": "json", "acde": "estimate"}),
        ({"noise": GaussianNoise(0.2)}, {"b": "json", "acde": "noise"}),
    ],
)
def test_who_says_the_level(options, expected):
    """KEY.json, then --data.sigma_y, then the larger of the task's noise and the file's rounding."""
    noise, given = options.get("noise", NoNoise()), options.get("sigma_y")
    degradation = Degradation(UniformDeblurring(), noise, (3, 16, 16), 0, given)
    levels = {"json": 0, "noise": noise.sigma_y, "option": 1e-4}
    for keys, of in expected.items():
        for key in keys:
            raw = RawSample(0, key, SAMPLES[key])
            sample = prepare(raw, degradation, rounding=options.get("rounding", True))
            file = jpeg_level(SAMPLES["d"]["y.jpg"]) if key == "d" else EIGHT
            level = file if of == "file" else levels.get(of, sample.sigma_y)
            assert (sample.sigma_y_of, sample.sigma_y) == (of, pytest.approx(level)), key
            assert sample.noise_std == pytest.approx(2 * sample.sigma_y)
    if given == "estimate":
        assert sample.sigma_y > 0.1, "noise it is"


def test_what_was_told_is_written(reddiff, tmp_path):
    shard = write_shard(tmp_path / "a.tar", list(SAMPLES.items()))
    assert reddiff("restore", *BLUR, "--data.shards", shard, "--out", tmp_path / "out")[0] == 0
    members = read_tar(tmp_path / "out" / "shards" / "a.tar")
    record = json.loads(members["a.reddiff.json"])
    assert (record["sigma_y"], record["sigma_y_of"]) == (round(EIGHT, 6), "file")
    account = read_json(tmp_path / "out" / "accounts" / "a.json")
    assert account["sigma_y_of"] == {"file": 3, "json": 1, "noise": 1}
    assert "rounding: true" in (tmp_path / "out" / "config.yaml").read_text()


def test_what_degrade_wrote_exactly_is_not_rounded(reddiff, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(PHOTO))
    task = ["--config", CONFIGS / "tasks" / "jpeg.yaml", *BLUR[2:], "--data.sigma_y", "null"]
    assert reddiff("degrade", *task, "--data.images", tmp_path / "in", "--out", tmp_path / "m")[0] == 0
    members = read_tar(tmp_path / "m" / "shards" / "images-000000.tar")
    assert "a.y.png" in members and json.loads(members["a.json"])["sigma_y"] == 0


def test_a_misfit_far_from_the_noise_is_told(reddiff, tmp_path):
    """White noise is no blurred image: nothing that the operator makes is within its rounding."""
    blurred = np.full((16, 16, 3), 128, np.uint8)
    shard = write_shard(
        tmp_path / "a.tar", [("noise", {"y.png": png(PHOTO)}), ("flat", {"y.png": png(blurred)})]
    )
    options = [*BLUR, "--data.shards", shard, "--out", tmp_path / "out", "--model.sampler.init_args.steps=20"]
    code, printed = reddiff("restore", *options)
    assert code == 0
    assert printed.count("1 of 2 images: their misfit stands far from the noise level told") == 1
    members = read_tar(tmp_path / "out" / "shards" / "a.tar")
    ratios = {key: json.loads(members[f"{key}.reddiff.json"])["misfit_ratio"] for key in ("noise", "flat")}
    assert ratios["noise"] > 5 > ratios["flat"]
    assert read_json(tmp_path / "out" / "accounts" / "a.json")["misfit_far"] == 1
    assert reddiff("report", tmp_path / "out")[0] == 0
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert page.count("1 of 2 images: their misfit stands far") == 1 and "misfit / noise" in page


def test_an_operator_that_rounds_by_itself_is_no_reason_to_warn(reddiff, tmp_path):
    """JPEG's sigma_y stands for what its tables lose; what fits the file exactly is right, not suspicious."""
    shard = write_shard(tmp_path / "a.tar", [("flat", {"y.png": png(np.full((16, 16, 3), 128, np.uint8))})])
    task = ["--config", CONFIGS / "tasks" / "jpeg.yaml", *BLUR[2:], "--data.sigma_y", "0.1"]
    code, printed = reddiff("restore", *task, "--data.shards", shard, "--out", tmp_path / "out")
    assert code == 0 and "stands far" not in printed
