"""The user's own metadata come out as they went in; what cannot be read costs that sample alone."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from helpers import CONFIGS, QUICK, account, png, read_json, read_tar, restored_keys, write_shard

TASK = ["--config", str(CONFIGS / "tasks" / "inpainting_random.yaml")]
PICTURE = png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))

KEPT = {
    "surrogate": rb'{"caption": "\ud83d"}',
    "large": b'{"ratio": 1e400, "small": 1e-400, "id": 12345678901234567890}',
    "long": b'{"id": ' + b"7" * 5000 + b"}",
    "nan": b'{"score": NaN, "other": [Infinity, -Infinity]}',
    "twice": b'{"a": 1, "a": 2}',
    "spaced": ' {\n\t"größe" :  1.50}\n'.encode(),
    "empty": b"{ }",
    "deep": b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}",
    "metrics": b'{"psnr": "mine", "ssim": [1], "misfit": {}, "seed": true, "sigma_y": 0.25}',
}
READ = {"utf-16": '{"größe": 1}'.encode("utf-16"), "bom": b'\xef\xbb\xbf{"a": 1}'}
BAD = {
    "cut": b'{"a": ',
    "latin": '{"a": "größe"}'.encode("latin-1"),
    "list": b"[1]",
    "nothing": b"",
    "deeper": b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
}


@pytest.fixture
def shard(tmp_path):
    metas = {"without": None} | KEPT | READ | BAD
    samples = [
        (key, {"png": PICTURE} | ({} if meta is None else {"json": meta})) for key, meta in metas.items()
    ]
    return write_shard(tmp_path / "a.tar", samples)


def test_what_parses_is_written_and_what_does_not_costs_its_sample(reddiff, shard, tmp_path):
    """And the run's own fields stand apart, under names that no field of the user's can overwrite."""
    command = ["restore", *QUICK, *TASK, "--data.shards", shard, "--out", tmp_path / "out"]
    code, printed = reddiff(*command)
    assert code == 3 and "Traceback" not in printed, printed
    output = tmp_path / "out" / "shards" / "a.tar"
    members = read_tar(output)
    assert restored_keys(output) == ["without", *KEPT, *READ]
    assert members["without.json"] == b"{}"
    for key, meta in KEPT.items():
        assert members[f"{key}.json"] == meta
    for key, meta in READ.items():
        assert json.loads(members[f"{key}.json"].decode()) == json.loads(meta)
    for key in restored_keys(output):
        record = json.loads(members[f"{key}.reddiff.json"])
        assert {"misfit", "psnr", "ssim", "seed"} <= set(record) and isinstance(record["psnr"], float)
    sidecar = read_json(account(output))
    reasons = {failure["key"]: failure["reason"] for failure in sidecar["failed"]}
    assert set(reasons) == set(BAD) and sidecar["restored"] == len(KEPT) + len(READ) + 1
    assert all(reason.startswith("json is ") and "\n" not in reason for reason in reasons.values())
    log = (tmp_path / "out" / "logs" / "task-00000.log").read_text()
    assert all(f"key {key}: json is " in log for key in BAD)
    assert reddiff("evaluate", tmp_path / "out", "--metrics", "psnr")[0] == 0
    code, printed = reddiff("report", tmp_path / "out")
    assert code == 0, printed


def test_degrade_adds_the_noise_level_and_changes_nothing_else(reddiff, tmp_path):
    samples = [(key, {"png": PICTURE, "json": meta}) for key, meta in (KEPT | READ).items()]
    shard = write_shard(tmp_path / "a.tar", [*samples, ("without", {"png": PICTURE})])
    noise = [
        "--model.noise.class_path=reddiff_pl.physics.GaussianNoise",
        "--model.noise.init_args.sigma_y=0.125",
    ]
    command = ["degrade", *QUICK, *TASK, *noise, "--data.shards", shard, "--out", tmp_path / "y"]
    code, printed = reddiff(*command)
    assert code == 0, printed
    members = read_tar(tmp_path / "y" / "shards" / "a.tar")
    assert json.loads(members["without.json"]) == {"sigma_y": 0.125}
    for key, meta in KEPT.items():
        written = members[f"{key}.json"]
        assert written.startswith(meta.rstrip()[:-1].rstrip()) and written.endswith(b'"sigma_y": 0.125}')
        assert json.loads(written, parse_int=float)["sigma_y"] == 0.125
        assert json.loads(members[f"{key}.reddiff.json"]) == {"seed": 0}
    assert all(
        np.load(io.BytesIO(data)).dtype == np.float32 for name, data in members.items() if "npy" in name
    )
    code, printed = reddiff(
        "restore", *QUICK, "--data.shards", tmp_path / "y/shards/a.tar", "--out", tmp_path / "x"
    )
    assert code == 0, printed
