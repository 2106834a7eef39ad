"""What happens around a batch: its shape, and the metrics of each of its images."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from helpers import png, read_tar, restored_keys, write_shard
from PIL import Image
from run_tasks import TINY, tiny_shards

from reddiff_pl.metrics import psnr, ssim

QUICK = [*TINY, "--model.sampler.init_args.steps=3"]


def picture(content: bytes) -> torch.Tensor:
    """(1, C, H, W), uint8."""
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content)))).permute(2, 0, 1)[None]


def test_the_last_batch_has_the_shape_of_the_others(reddiff, tmp_path, monkeypatch):
    monkeypatch.setenv("COUNT_FILE", str(tmp_path / "count"))
    pattern = tiny_shards(tmp_path / "in", 1, 6)
    options = ["--model.sampler.class_path=counting.CountingREDDiff", "--data.workers=1"]
    code, printed = reddiff("restore", *QUICK, *options, "--data.shards", pattern, "--out", tmp_path / "out")
    assert code == 0, printed
    assert (tmp_path / "count").read_text().split() == ["4", "4"]
    assert len(restored_keys(tmp_path / "out" / "shards" / "000000.tar")) == 6


@pytest.mark.parametrize("sampler", ["reddiff_pl.samplers.REDDiff", "counting.NarrowREDDiff"])
def test_an_image_is_judged_by_itself(reddiff, tmp_path, sampler):
    """Metrics of a batch, also in parts, are those of each written image against its own reference, if any."""
    generator = np.random.default_rng(0)
    samples, references = [], {}
    for i in range(6):
        image = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        y = image.reshape(8, 2, 8, 2, 3).mean((1, 3)).round().astype(np.uint8)
        samples.append((f"k{i}", {"y.png": png(y)}))
        if i not in (0, 3):
            references[f"k{i}"] = samples[-1][1]["x.png"] = png(image)
    shard = write_shard(tmp_path / "a.tar", samples)
    options = [
        "--model.physics={class_path: reddiff_pl.physics.SuperResolution, init_args: {factor: 2}}",
        f"--model.sampler.class_path={sampler}",
    ]
    code, printed = reddiff("restore", *QUICK, *options, "--data.shards", shard, "--out", tmp_path / "out")
    assert code == 0, printed
    members = read_tar(tmp_path / "out" / "shards" / "a.tar")
    for key, _ in samples:
        record = json.loads(members[f"{key}.json"])
        if key not in references:
            assert set(record) == {"misfit", "seed"}
            continue
        pair = picture(members[f"{key}.png"]), picture(references[key])
        assert record["psnr"] == round(psnr(*pair).item(), 4)
        assert record["ssim"] == round(ssim(*pair).item(), 4)
