"""A classifier on photos of known classes: clean, degraded, restored."""

from __future__ import annotations

import json
import math

import pyarrow.parquet as parquet
import pytest
from helpers import CONFIGS, VAL_SHARD, read_json, read_tar, write_shard

# the val shard labels a crop a photo; these others show the same animal or thing whole enough to be known by
ALSO = {
    "0227_0512_00000_00000": 105,
    "0228_0512_00256_00256": 383,
    "0228_0683_00256_00427": 383,
    "0231_0512_00000_00000": 388,
    "0288_0256_00068_00000": 309,
    "0288_0512_00000_00256": 309,
    "0288_1024_00520_00256": 309,
    "0288_1280_00546_00512": 309,
    "0329_0400_00000_00000": 967,
}
NAME = "efficientnet-lite0"


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Sixteen labelled crops of 256 pixels."""
    members = read_tar(VAL_SHARD)
    samples = []
    for name in members:
        key = name.removesuffix(".json")
        if name.endswith(".json"):
            label = ALSO.get(key, json.loads(members[name]).get("imagenet_label"))
            if label is not None:
                record = json.dumps({"imagenet_label": label}).encode()
                samples.append((key, {"jpg": members[f"{key}.jpg"], "json": record}))
    assert len(samples) == 16
    return write_shard(tmp_path_factory.mktemp("crops") / "a.tar", samples)


def wilson(k, n=16, z=1.959963984540054):
    centre, half = k / n + z * z / (2 * n), z * math.sqrt(k / n * (1 - k / n) / n + (z / (2 * n)) ** 2)
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def test_restoring_brings_classes_back(reddiff, crops, tmp_path):
    """A fifth of the pixels missing leaves little to recognise; a few steps of the bundled prior bring some of it back.

    Top-5 of sixteen: 3 degraded, 13 restored, 14 clean, when this was written.
    """
    options = ["--config", CONFIGS / "tasks" / "inpainting_random.yaml", "--model.keep_start=true"]
    options += ["--model.physics.init_args.mask.init_args.keep=0.8", "--model.sampler.init_args.steps=4"]
    options += ["--trainer.accelerator=cpu", "--data.batch_size=16"]
    assert reddiff("restore", *options, "--data.shards", crops, "--out", tmp_path / "out")[0] == 0
    code, printed = reddiff("evaluate", tmp_path / "out", "--metrics", "psnr,top,fd")
    assert code == 0, printed
    metrics = read_json(tmp_path / "out" / "summary.json")["metrics"]
    found = {which: metrics[f"top1-{NAME}{which}"] for which in ("-reference", "-start", "")}
    five = {which: metrics[f"top5-{NAME}{which}"]["mean"] for which in found}
    print({which: (round(16 * e["mean"]), e["low"], e["high"]) for which, e in found.items()}, five)
    for which, entry in found.items():
        low, high = wilson(round(16 * entry["mean"]))
        assert entry["n"] == 16 and entry["interval"] == "wilson"
        assert (entry["low"], entry["high"]) == pytest.approx((max(low, 0), min(high, 1)), abs=1e-9)
        assert five[which] >= entry["mean"]
    assert found["-reference"]["mean"] >= 9 / 16 and found["-start"]["mean"] <= 3 / 16
    assert five["-start"] + 0.2 < five[""] <= five["-reference"]
    rows = parquet.read_table(tmp_path / "out" / "metrics.parquet").to_pylist()
    assert sum(row[f"prediction-{NAME}"] == row["label"] for row in rows) == round(16 * found[""]["mean"])
    assert f"FD-{NAME}" in printed and "FID" not in printed


def test_clean_crops_are_known(crops):
    """At their own size: fifteen of sixteen when this was written (a toucan among leaves is the other one)."""
    import torch

    from reddiff_pl.evaluation.networks import EfficientNetLite0
    from reddiff_pl.shards import decode

    network = EfficientNetLite0().eval()
    right = 0
    members = read_tar(crops)
    for name in members:
        if name.endswith(".jpg"):
            image = decode.unit_tensor(decode.image(members[name], name, 3))
            with torch.no_grad():
                best = network.logits(network((image * 255).round().byte()[None])).argmax().item()
            right += best == json.loads(members[name.replace(".jpg", ".json")])["imagenet_label"]
    assert right >= 14, right
