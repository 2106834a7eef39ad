"""What is read back of a run is what the run saw and wrote."""

from __future__ import annotations

import json
import os

import pytest
import torch
import yaml
from helpers import CONFIGS, QUICK, png, read_json, read_tar, write_shard

from reddiff_pl.errors import ConfigError
from reddiff_pl.evaluation.pairs import Results, picture
from reddiff_pl.metrics import psnr, ssim
from reddiff_pl.physics import SuperResolution

TASK = ["--config", str(CONFIGS / "tasks" / "superresolution_4x.yaml")]


@pytest.fixture
def shard(tmp_path, photos):
    """Six photos, the third no image."""
    samples = [(key, {"jpg": photo, "json": b'{"n": 1}'}) for key, photo in list(photos.items())[:6]]
    samples[2] = (samples[2][0], {"jpg": b"not an image"})
    return write_shard(tmp_path / "in" / "a.tar", samples)


def restore(reddiff, out, *options):
    code, printed = reddiff("restore", *QUICK, *TASK, *options, "--out", out)
    assert code in (0, 3), printed
    return out


def test_references_are_those_of_the_run(reddiff, shard, tmp_path):
    """To the last digit of the metrics that restore wrote, from clean images and from measurements alike."""
    measured = tmp_path / "measured"
    assert reddiff("degrade", *QUICK, *TASK, "--data.shards", shard, "--out", measured)[0] == 3
    outs = [
        restore(reddiff, tmp_path / "clean", "--data.shards", shard),
        restore(reddiff, tmp_path / "out", "--data.shards", measured / "shards" / "a.tar"),
    ]
    for out in outs:
        results = Results(out)
        pairs = list(results.pairs("a"))
        assert [pair.key for pair in pairs] == results.keys("a") and len(pairs) == 5 and not results.notes
        for pair in pairs:
            assert pair.meta["n"] == 1 and pair.image.shape == pair.reference.shape == (3, 64, 64)
            one = pair.image[None], pair.reference[None]
            assert round(psnr(*one).item(), 4) == pair.record["psnr"]
            assert round(ssim(*one).item(), 4) == pair.record["ssim"]
            assert picture(pair.image).size == (64, 64)
        assert {pair.measurement is None for pair in pairs} == {out == outs[0]}
    y = pairs[0].measurement
    assert y.shape == (3, 16, 16)
    expected = SuperResolution(4).A(pairs[0].reference[None] / 127.5 - 1)[0]
    assert (y - (expected + 1) * 127.5).abs().max() <= 0.51
    failures = list(Results(outs[0]).failures())
    assert [(shard, key) for shard, key, _ in failures] == [("a", list(read_tar(shard))[4][:-4])]
    assert "not a readable image" in failures[0][2]


def test_the_start_is_kept_when_asked_for(reddiff, shard, tmp_path):
    out = restore(reddiff, tmp_path / "out", "--data.shards", shard, "--model.keep_start=true")
    for pair in Results(out).pairs("a"):
        x = pair.reference[None] / 127.5 - 1
        expected = SuperResolution(4).A_dagger(SuperResolution(4).A(x))[0]
        assert (pair.start - (expected + 1) * 127.5).abs().max() <= 0.51
    plain = restore(reddiff, tmp_path / "plain", "--data.shards", shard)
    assert all(pair.start is None for pair in Results(plain).pairs("a"))


def test_moved_reordered_and_missing_inputs(reddiff, shard, tmp_path):
    out = restore(reddiff, tmp_path / "out", "--data.shards", shard)
    expected = [pair.reference for pair in Results(out).pairs("a")]
    members = read_tar(shard)
    moved = tmp_path / "elsewhere" / "a.tar"
    keys = [name[:-4] for name in members if name.endswith("jpg")]
    write_shard(moved, [(key, {"jpg": members[f"{key}.jpg"]}) for key in reversed(keys) if key != keys[1]])
    os.remove(shard)
    results = Results(out)
    assert "--inputs" in results.notes[0]
    assert all(pair.reference is None for pair in results.pairs("a"))
    found = [pair.reference for pair in Results(out, str(moved)).pairs("a")]
    assert found[1] is None
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True) if a is not None)
    with pytest.raises(ConfigError, match=r"--inputs: .*not found"):
        Results(out, str(tmp_path / "nowhere.tar"))


def test_a_folder_of_images(reddiff, photos, tmp_path):
    for key in list(photos)[:3]:
        path = tmp_path / "photos" / f"{key}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photos[key])
    out = restore(reddiff, tmp_path / "out", "--data.images", tmp_path / "photos")
    os.rename(tmp_path / "photos", tmp_path / "moved")
    pairs = list(Results(out, str(tmp_path / "moved")).pairs("images-000000"))
    assert len(pairs) == 3 and all(pair.reference is not None for pair in pairs)


def test_a_cut_shard_is_read_as_far_as_it_is_whole(reddiff, shard, tmp_path):
    out = restore(reddiff, tmp_path / "out", "--data.shards", shard)
    tar, sidecar = out / "shards" / "a.tar", out / "accounts" / "a.json"
    failure = read_json(sidecar)["failed"][0]
    (out / "shards" / "a.failed.jsonl").write_text(json.dumps(failure) + '\n{"cut')
    (out / "shards" / "a.tar.partial").write_bytes(tar.read_bytes()[:-3000])
    sidecar.unlink()
    tar.unlink()
    assert Results(out).names == []
    results = Results(out, partial=True)
    assert len(results.keys("a")) == 4 and [len(pair.image) for pair in results.pairs("a")] == [3] * 4
    assert list(results.failures()) == [("a", failure["key"], failure["reason"])]


def test_nothing_of_a_strangers_configuration_is_run(reddiff, shard, tmp_path):
    out = restore(reddiff, tmp_path / "out", "--data.shards", shard)
    bomb = {"class_path": "os.system", "init_args": {"command": f"touch {tmp_path / 'ran'}"}}
    config = {
        "model": {"prior": bomb, "physics": dict(bomb, init_args=dict(bomb["init_args"]))},
        "data": {"shards": f"a=pipe:touch {tmp_path / 'ran'}"},
    }
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    results = Results(out)
    assert [pair.reference for pair in results.pairs("a")] == [None] * 5
    assert "pipe:" in results.notes[0] and not (tmp_path / "ran").exists()
    (out / "config.yaml").write_text("[1, {")
    assert len(list(Results(out).pairs("a"))) == 5


def test_no_run(tmp_path):
    with pytest.raises(ConfigError, match="not the output directory of a run"):
        Results(tmp_path)


def test_grey_images_stay_grey(tmp_path):
    import numpy as np

    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8)
    write_shard(tmp_path / "shards" / "a.tar.partial", [("k", {"png": png(ramp), "reddiff.json": b"{}"})])
    (pair,) = Results(tmp_path, partial=True).pairs("a")
    assert pair.image.shape == (1, 8, 8) and pair.image.flatten().tolist() == list(range(64))
