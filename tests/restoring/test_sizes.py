"""Images of any size, of many sizes in a shard, each at its own."""

from __future__ import annotations

import io

import numpy as np
import pytest
from helpers import CONFIGS, npy, png, read_json, read_tar, restored_keys, write_shard
from PIL import Image
from run_tasks import TINY

from reddiff_pl.errors import ConfigError
from reddiff_pl.restoring.datamodule import parse_size

STEPS = "--model.sampler.init_args.steps=3"
SIZES = [(16, 16), (20, 31), (9, 5), (16, 16), (40, 17), (20, 31), (1, 1), (33, 16)]
PRIOR = [TINY[0], TINY[1], *TINY[4:]]
SUPER = ["--model.physics={class_path: reddiff_pl.physics.SuperResolution, init_args: {factor: 3}}"]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def mixed(path, sizes=SIZES):
    return write_shard(path, [(f"k{i}", {"png": png(picture(*s, i))}) for i, s in enumerate(sizes)])


def restored(path) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(Image.open(io.BytesIO(content)))
        for name, content in read_tar(path).items()
        if name.endswith(".png") and name.count(".") == 1
    }


@pytest.mark.parametrize("task", [TINY[2:4], SUPER], ids=["inpainting", "superresolution"])
def test_a_shard_of_many_sizes(reddiff, tmp_path, task):
    """Whole, in input order; degraded first or on the fly, one at a time or together, it is the same."""
    command = [*PRIOR, *task, STEPS, "--trainer.accelerator=cpu"]
    clean = ["--data.shards", mixed(tmp_path / "a.tar"), "--data.fit=whole"]
    found = {}
    for size in (1, 4):
        out = tmp_path / f"out{size}"
        code, printed = reddiff("restore", *command, *clean, f"--data.batch_size={size}", "--out", out)
        assert code == 0, printed
        assert printed.count("are seen in windows of 16x16") == 1
        assert restored_keys(out / "shards" / "a.tar") == [f"k{i}" for i in range(len(SIZES))]
        found[size] = restored(out / "shards" / "a.tar")
        assert [x.shape[:2] for x in found[size].values()] == SIZES
    code, printed = reddiff("degrade", *command[:-2], *clean, "--out", tmp_path / "degraded")
    assert code == 0, printed
    given = "--data.shards", tmp_path / "degraded" / "shards" / "a.tar"
    code, printed = reddiff("restore", *command, *given, "--data.batch_size=4", "--out", tmp_path / "two")
    assert code == 0, printed
    found["degraded"] = restored(tmp_path / "two" / "shards" / "a.tar")
    for name in found[4]:
        for other in (1, "degraded"):
            assert np.abs(found[4][name].astype(int) - found[other][name]).max() <= 1, (name, other)


def test_a_rectangle_is_cropped_and_reduced(reddiff, tmp_path):
    shard = write_shard(tmp_path / "a.tar", [("k", {"png": png(picture(100, 90))})])
    options = ["--data.shards", shard, "--data.size", "32,48", "--out", tmp_path / "out"]
    code, printed = reddiff("restore", *TINY, STEPS, *options)
    assert code == 0, printed
    [image] = restored(tmp_path / "out" / "shards" / "a.tar").values()
    assert image.shape[:2] == (32, 48)
    code, printed = reddiff(
        "restore", *TINY, STEPS, *options[:-2], "--data.fit=whole", "--out", tmp_path / "o"
    )
    assert code == 2 and "--data.size" in printed
    shard = write_shard(tmp_path / "b.tar", [("k", {"png": png(picture(100, 40))})])
    code, printed = reddiff(
        "restore", *TINY, STEPS, "--data.shards", shard, *options[2:4], "--out", tmp_path / "b"
    )
    assert code == 3 and "40x100 pixels, smaller than data.size 32,48" in printed


def test_sizes_that_are_none():
    assert parse_size(64) == (64, 64) and parse_size("480,320") == (480, 320) == parse_size([480, 320])
    for bad in (0, "1,2,3", "wide", [], [3, -1]):
        with pytest.raises(ConfigError, match=r"--data\.size"):
            parse_size(bad)


def test_an_operator_that_takes_some_sizes_only(reddiff, tmp_path):
    """Those it does not take are failures of their own; the rest comes out."""
    box = ["--model.physics.init_args.mask={class_path: BoxMask, init_args: {size: 12}}"]
    command = ["restore", *TINY, *box, STEPS, "--data.fit=whole"]
    shard = mixed(tmp_path / "a.tar")
    code, printed = reddiff(*command, "--data.shards", shard, "--out", tmp_path / "out")
    assert code == 3, printed
    failed = read_json(next((tmp_path / "out" / "accounts").glob("a.json")))["failed"]
    assert {f["key"]: "leaves nothing of a" in f["reason"] for f in failed} == {"k2": True, "k6": True}


def test_measurements_smaller_than_the_kernel(reddiff, tmp_path):
    """They fail, however many of a batch; the others are restored."""
    kernel = np.full((7, 7), 1 / 49, np.float32)
    sizes = [(5, 30), (16, 16), (30, 5), (20, 9)]
    shard = write_shard(
        tmp_path / "a.tar",
        [
            (f"k{i}", {"y.png": png(picture(*size, i)), "kernel.npy": npy(kernel)})
            for i, size in enumerate(sizes)
        ],
    )
    physics = "{class_path: reddiff_pl.physics.KernelDeblurring, init_args: {taps: 7}}"
    command = ["restore", *PRIOR, "--model.physics", physics, STEPS, "--data.shards", shard]
    code, printed = reddiff(*command, "--trainer.accelerator=cpu", "--out", tmp_path / "out")
    assert code == 3, printed
    assert restored_keys(tmp_path / "out" / "shards" / "a.tar") == ["k1", "k3"]
    assert "a kernel of 7x7 pixels is larger than a 30x5 image" in printed


def test_measurements_that_no_image_has(reddiff, tmp_path):
    """A sample without a mask of its image's size, and one that a deepinv operator does not take, say so."""
    samples = [
        (
            "a",
            {"y.npy": npy(np.zeros((3, 20, 24), np.float32)), "mask.png": png(np.full((20, 24), 255, "u1"))},
        ),
        (
            "b",
            {"y.npy": npy(np.zeros((3, 20, 25), np.float32)), "mask.png": png(np.full((20, 24), 255, "u1"))},
        ),
    ]
    shard = write_shard(tmp_path / "a.tar", samples)
    task = ["--config", CONFIGS / "tasks" / "inpainting_given.yaml"]
    code, printed = reddiff(
        "restore", *PRIOR, *task, STEPS, "--data.shards", shard, "--out", tmp_path / "out"
    )
    assert code == 3, printed
    [failure] = read_json(next((tmp_path / "out" / "accounts").glob("a.json")))["failed"]
    assert failure["key"] == "b" and "mask has shape (1, 20, 24), expected (1, 20, 25)" in failure["reason"]
