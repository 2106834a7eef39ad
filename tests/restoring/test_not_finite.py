"""What is not finite is no picture: the sample fails with its reason, and its neighbours are as they are without it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import CONFIGS, QUICK, account, npy, png, read_json, read_tar, restored_keys, write_shard

from reddiff_pl.restoring.divergence import LIMIT, Divergence

INPAINTING = ["--config", str(CONFIGS / "tasks" / "inpainting_random.yaml")]
TASK = [
    "--model.physics={class_path: reddiff_pl.physics.SuperResolution, init_args: {factor: 4}}",
    "--model.output=png",
]


def measurements(bad: bool) -> list:
    y = np.random.default_rng(0).uniform(-1, 0, (4, 3, 16, 16)).astype(np.float32)
    if bad:
        y[1] = 0.9
    return [(f"k{i}", {"y.npy": npy(value)}) for i, value in enumerate(y) if bad or i != 1]


@pytest.mark.parametrize("sampler", ["DivergingREDDiff", "GrowingREDDiff"])
def test_a_sample_that_diverges_fails_alone(reddiff, tmp_path, sampler):
    files = {}
    for bad in (True, False):
        shard = write_shard(tmp_path / f"in{bad}" / "a.tar", measurements(bad))
        out = tmp_path / f"out{bad}"
        code, printed = reddiff(
            *("restore", *QUICK, *TASK, f"--model.sampler.class_path=counting.{sampler}"),
            *("--data.shards", shard, "--data.batch_size=4", "--out", out),
        )
        assert code == (3 if bad else 0), printed
        assert ("1 failed" in printed) == bad
        files[bad] = read_tar(out / "shards" / "a.tar")
    output = tmp_path / "outTrue" / "shards" / "a.tar"
    assert restored_keys(output) == ["k0", "k2", "k3"]
    for name, content in files[False].items():
        assert files[True][name] == content
    [failure] = read_json(account(output))["failed"]
    assert failure["key"] == "k1" and failure["reason"].startswith("diverged at step 3: ")
    assert f"key k1: {failure['reason']}" in (tmp_path / "outTrue" / "logs" / "task-00000.log").read_text()


def test_too_many_that_diverge_stop_the_run(reddiff, tmp_path):
    y = npy(np.full((3, 16, 16), 0.9, np.float32))
    shard = write_shard(tmp_path / "a.tar", [(f"k{i:02d}", {"y.npy": y}) for i in range(24)])
    code, printed = reddiff(
        *("restore", *QUICK, *TASK, "--model.sampler.class_path=counting.DivergingREDDiff"),
        *("--data.shards", shard, "--max-failed=0.5", "--out", tmp_path / "out"),
    )
    assert code == 4 and "samples failed, more than --max-failed 0.5" in printed, printed


@pytest.mark.parametrize("value", [1e30, -1e12, 3e38])
def test_a_measurement_out_of_any_range_fails_its_sample(reddiff, tmp_path, value):
    good, bad = np.zeros((2, 3, 16, 16), np.float32)
    bad[0, 3, 3] = value
    shard = write_shard(tmp_path / "a.tar", [("a", {"y.npy": npy(good)}), ("b", {"y.npy": npy(bad)})])
    code, _ = reddiff("restore", *QUICK, *TASK, "--data.shards", shard, "--out", tmp_path / "out")
    output = tmp_path / "out" / "shards" / "a.tar"
    assert code == 3 and restored_keys(output) == ["a"]
    [failure] = read_json(account(output))["failed"]
    assert failure["key"] == "b" and "operator's own range" in failure["reason"]


def test_the_first_step_is_the_one_told():
    x = torch.zeros(4, 3, 2, 2)
    found = Divergence(4, x.device)
    found(1, x, x)
    x[1, 0, 0, 0], x[2, 1, 1, 1] = torch.nan, -2 * LIMIT
    found(2, x, x)
    x[1] = x[2] = 0
    x[3, 2, 0, 1] = -torch.inf
    found(3, x, x)
    assert found.first.tolist() == [0, 2, 2, 3] and not found.broken.any()
    found.result(x)
    assert found.broken.tolist() == [False, False, False, True]


def test_clean_images_that_are_degraded_stay_in_range(reddiff, tmp_path):
    picture = png(np.zeros((64, 64, 3), np.uint8))
    shard = write_shard(tmp_path / "a.tar", [("a", {"png": picture})])
    assert reddiff("restore", *QUICK, *INPAINTING, "--data.shards", shard, "--out", tmp_path / "out")[0] == 0
