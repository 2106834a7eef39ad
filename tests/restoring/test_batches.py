"""What happens around a batch: its shape, and the metrics of each of its images."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from deepinv.physics import LinearPhysics
from helpers import npy, png, read_tar, restored_keys, write_shard
from PIL import Image
from run_tasks import TINY, tiny_shards

from reddiff_pl.metrics import psnr, ssim

QUICK = [*TINY, "--model.sampler.init_args.steps=3"]


class Gained(LinearPhysics):
    """Brightens by the mean of any number of gains."""

    def __init__(self, gain: torch.Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("gain", torch.ones(1, 1) if gain is None else gain, persistent=False)

    def parameter_shapes(self, shape):
        return {"gain": [(n,) for n in range(1, 9)]}

    def A(self, x, **kwargs):
        return x * self.gain.mean(1).reshape(-1, 1, 1, 1)

    A_adjoint = A_dagger = A


def picture(content: bytes) -> torch.Tensor:
    """(1, C, H, W), uint8."""
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content)))).permute(2, 0, 1)[None]


def test_the_last_batch_is_as_large_as_what_is_left(reddiff, tmp_path, monkeypatch):
    monkeypatch.setenv("COUNT_FILE", str(tmp_path / "count"))
    pattern = tiny_shards(tmp_path / "in", 1, 6)
    options = ["--model.sampler.class_path=counting.CountingREDDiff", "--data.workers=1"]
    code, printed = reddiff("restore", *QUICK, *options, "--data.shards", pattern, "--out", tmp_path / "out")
    assert code == 0, printed
    assert (tmp_path / "count").read_text().split() == ["4", "2"]
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
        record = json.loads(members[f"{key}.reddiff.json"])
        if key not in references:
            assert set(record) == {"misfit", "misfit_ratio", "seed", "sigma_y", "sigma_y_of"}
            continue
        pair = picture(members[f"{key}.png"]), picture(references[key])
        assert record["psnr"] == round(psnr(*pair).item(), 4)
        assert record["ssim"] == round(ssim(*pair).item(), 4)


def test_images_of_many_sizes_are_one_shape(reddiff, tmp_path):
    images = [np.zeros((16 + i, 30 - i, 3), np.uint8) for i in range(6)]
    shard = write_shard(tmp_path / "a.tar", [(f"k{i}", {"png": png(x)}) for i, x in enumerate(images)])
    options = ["--data.batch_size=1", "--data.shards", shard, "--out", tmp_path / "out"]
    code, printed = reddiff("restore", *QUICK, *options)
    assert code == 0 and "shape" not in printed
    assert len(restored_keys(tmp_path / "out" / "shards" / "a.tar")) == 6


def test_parameters_of_several_shapes_make_one_batch(reddiff, tmp_path):
    """Grouped by shape, written in input order, and no sample's result is another's."""
    generator = np.random.default_rng(0)
    samples = [
        (
            f"k{i}",
            {
                "y.npy": npy(generator.normal(0, 0.3, (3, 16, 16)).astype(np.float32)),
                "gain.npy": npy(np.linspace(1, 2, n, dtype=np.float32)),
            },
        )
        for i, n in enumerate([1, 2, 1, 3, 2])
    ]
    options = [f"--model.physics.class_path={__name__}.Gained"]
    options += ["--data.shards", write_shard(tmp_path / "a.tar", samples)]
    for size in (1, 4):
        out = ["--out", tmp_path / f"out{size}", f"--data.batch_size={size}"]
        code, printed = reddiff("restore", *QUICK[:2], *QUICK[4:], *options, *out)
        assert code == 0, printed
    one, four = (read_tar(tmp_path / f"out{size}" / "shards" / "a.tar") for size in (1, 4))
    assert list(one) == list(four)
    for name in (name for name in one if name.endswith(".png")):
        assert (picture(one[name]).int() - picture(four[name]).int()).abs().max() <= 1
