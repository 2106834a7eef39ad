"""A prior of two channels, trained on arrays, restores arrays."""

from __future__ import annotations

import io
import json

import numpy as np
from helpers import npy, read_json, read_tar, write_shard
from tiny import FIT, NETWORK, records

RNG = np.random.default_rng(4)


def test_fit_and_restore_two_channels(reddiff, tmp_path):
    arrays = {f"k{i}": RNG.normal(0.5, 0.4, (2, 20, 24)).astype(np.float32) for i in range(12)}
    shard = write_shard(tmp_path / "a.tar", [(key, {"npy": npy(values)}) for key, values in arrays.items()])
    network = {
        "class_path": "diffusers.UNet2DModel",
        "init_args": NETWORK | {"in_channels": 2, "out_channels": 2},
    }
    options = ["--model.network", json.dumps(network), "--data.shards", shard, "--data.max_scale=20"]
    options += ["--data.holdout_modulus=4", "--model.max_steps=10"]
    code, printed = reddiff("fit", *FIT, *options, "--out", tmp_path / "fit")
    assert code == 0, printed
    assert np.isfinite(list(records(tmp_path / "fit")[-1]["score"].values())).all()
    prior = tmp_path / "fit" / "prior"
    restore = [f"--model.prior.init_args.path={prior}", "--model.physics=reddiff_pl.physics.Denoising"]
    restore += [
        "--model.noise=reddiff_pl.physics.NoNoise",
        "--model.sampler.init_args.steps=2",
        "--data.fit=whole",
    ]
    restore += ["--trainer.accelerator=cpu", "--limit=2", "--model.keep_start=true"]
    code, printed = reddiff("restore", *restore, "--data.shards", shard, "--out", tmp_path / "out")
    assert code == 0, printed
    members = read_tar(tmp_path / "out" / "shards" / "a.tar")
    for key in ("k0", "k1"):
        restored = np.load(io.BytesIO(members[f"{key}.npy"]))
        assert restored.shape == (2, 20, 24) and np.abs(restored - arrays[key]).max() < 0.05
    assert read_json(tmp_path / "out" / "accounts" / "a.json")["restored"] == 2
