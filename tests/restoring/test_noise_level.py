"""The noise level's way from the data to the sampler; several restorations of one measurement."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from helpers import CONFIGS, QUICK, npy, read_json, read_tar, write_shard

DENOISING = ["--config", CONFIGS / "tasks" / "denoising.yaml", *QUICK]
DENOISING += ["--model.prior.init_args.shape=[3,16,16]", "--model.output=png"]
FLAT = np.zeros((3, 16, 16), np.float32)


def level(sigma_y: float | None) -> bytes:
    return json.dumps({} if sigma_y is None else {"sigma_y": sigma_y}).encode()


def noisy(sigma_y: float, seed: int = 0) -> bytes:
    """A grey image of [-1, 1] with noise, as a measurement."""
    return npy((FLAT + 2 * sigma_y * np.random.default_rng(seed).normal(size=FLAT.shape)).astype("f4"))


def images(out) -> dict[str, bytes]:
    return {name: data for name, data in read_tar(out / "shards" / "a.tar").items() if name.endswith(".png")}


def test_a_sample_says_its_own_level(reddiff, tmp_path):
    """KEY.json counts before --data.sigma_y, which counts before the task's noise."""
    y = noisy(0.2)

    def restore(name: str, own: float | None, *options: object) -> dict[str, bytes]:
        shard = write_shard(tmp_path / name / "a.tar", [("k", {"y.npy": y, "json": level(own)})])
        out = tmp_path / f"out-{name}"
        code, printed = reddiff("restore", *DENOISING, *options, "--data.shards", shard, "--out", out)
        assert code == 0, printed
        return images(out)

    by_sample = restore("sample", 0.3, "--data.sigma_y=0.05")
    assert by_sample == restore("option", None, "--data.sigma_y=0.3")
    assert by_sample == restore("task", None, "--model.noise.init_args.sigma_y=0.3")
    assert by_sample != restore("other", None, "--data.sigma_y=0.05")


@pytest.mark.parametrize("wrong", [-0.1, "much", True])
def test_a_wrong_level_fails_its_sample_alone(reddiff, tmp_path, wrong):
    samples = [
        ("good", {"y.npy": noisy(0.1)}),
        ("wrong", {"y.npy": noisy(0.1), "json": json.dumps({"sigma_y": wrong}).encode()}),
    ]
    shard = write_shard(tmp_path / "a.tar", samples)
    assert reddiff("restore", *DENOISING, "--data.shards", shard, "--out", tmp_path / "out")[0] == 3
    failed = read_json(tmp_path / "out" / "accounts" / "a.json")["failed"]
    assert [entry["key"] for entry in failed] == ["wrong"] and "sigma_y" in failed[0]["reason"]


def test_an_estimated_level_is_nearly_the_true_one(reddiff, tmp_path):
    """Estimated from a flat image, the level restores it as the true one does: within two grey levels."""
    shard = write_shard(tmp_path / "a.tar", [("k", {"y.npy": noisy(0.2)})])
    pictures = []
    for name in ("estimate", "0.2", "0.02"):
        out = tmp_path / name
        options = [*DENOISING, f"--data.sigma_y={name}", "--data.shards", shard, "--out", out]
        assert reddiff("restore", *options)[0] == 0
        from PIL import Image

        content = images(out)["k.png"]
        pictures.append(np.asarray(Image.open(io.BytesIO(content))).astype(float))
    estimated, true, wrong = pictures
    assert np.abs(estimated - true).mean() < 2 < np.abs(wrong - true).mean()


def test_several_restorations(reddiff, tmp_path):
    """Their mean is the image, their deviation a file; each of them on request."""
    from PIL import Image

    shard = write_shard(tmp_path / "a.tar", [(f"k{i}", {"y.npy": noisy(0.2, i)}) for i in range(2)])
    options = [*DENOISING, "--config", CONFIGS / "samplers" / "reddiff_samples.yaml", "--data.shards", shard]
    options += ["--model.sampler.init_args.steps=10", "--model.num_samples=3", "--model.keep_samples=true"]
    assert reddiff("restore", *options, "--out", tmp_path / "out")[0] == 0
    members = read_tar(tmp_path / "out" / "shards" / "a.tar")
    for key in ("k0", "k1"):
        pictures = [np.asarray(Image.open(io.BytesIO(members[f"{key}.sample{i}.png"]))) for i in range(3)]
        samples = np.stack(pictures).astype(float).transpose(0, 3, 1, 2) / 255
        std = np.load(io.BytesIO(members[f"{key}.std.npy"]))
        assert std.dtype == np.float16 and std.shape == (3, 16, 16)
        mean = np.asarray(Image.open(io.BytesIO(members[f"{key}.png"]))).transpose(2, 0, 1) / 255
        # up to the rounding and clipping of 8 bit
        inside = ((samples > 0.02) & (samples < 0.98)).all(0)
        assert inside.mean() > 0.5
        np.testing.assert_allclose(samples.mean(0)[inside], mean[inside], atol=1.1 / 255)
        np.testing.assert_allclose(samples.std(0, ddof=1)[inside], std[inside], atol=1.5 / 255)
        assert not np.array_equal(pictures[0], pictures[1])


def test_degraded_shards_carry_the_level_that_was_assumed(reddiff, tmp_path):
    """JPEG's task tells the sampler what compression leaves; degraded before, the samples say it themselves."""
    from run_tasks import tiny_shards

    pattern = tiny_shards(tmp_path / "in", 1, 1)
    options = ["--config", CONFIGS / "tasks" / "quantization.yaml", *DENOISING[2:], "--data.shards", pattern]
    assert reddiff("degrade", *options, "--out", tmp_path / "measured")[0] == 0
    members = read_tar(tmp_path / "measured" / "shards" / "000000.tar")
    assert json.loads(members["s0-000.json"])["sigma_y"] == 0.041
