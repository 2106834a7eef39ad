"""Every shipped task, from clean photos to measurements to restored images."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from helpers import CONFIGS, QUICK, png, read_tar, restored_keys, task_options, write_shard
from PIL import Image

from reddiff_pl.physics import RandomMask
from reddiff_pl.physics.jpeg import quantization_tables
from reddiff_pl.restoring.options import RestoreCLI
from reddiff_pl.shards.plan import plan
from reddiff_pl.shards.reader import read_shard
from reddiff_pl.shards.samples import prepare

TASKS = sorted((CONFIGS / "tasks").glob("*.yaml"))
SMALL = [*QUICK, "--model.prior.init_args.shape=[3,32,32]", "--model.sampler.init_args.steps=3"]


@pytest.fixture
def shard(tmp_path, photos, one_thread):
    """Two photos, with masks for the task that demands them."""
    draws = torch.Generator().manual_seed(0)
    samples = []
    for key, photo in list(photos.items())[:2]:
        mask = RandomMask(0.5).draw(32, 32, draws)[0]
        samples.append((key, {"jpg": photo, "mask.png": png((255 * mask).byte().numpy())}))
    return write_shard(tmp_path / "in" / "a.tar", samples)


@pytest.mark.parametrize("task", TASKS, ids=lambda path: path.stem)
def test_measurements_made_before_are_those_made_on_the_fly(reddiff, shard, tmp_path, photos, task):
    """Bit for bit, what was drawn for each image coming along in the shard; and they restore."""
    if task.stem != "inpainting_given":
        clean = [(key, {"jpg": photo}) for key, photo in list(photos.items())[:2]]
        shard = write_shard(tmp_path / "clean" / "a.tar", clean)
    options = [*SMALL, "--config", str(task), *task_options(task, tmp_path)]
    measured, restored = (
        tmp_path / "measured" / "shards" / "a.tar",
        tmp_path / "restored" / "shards" / "a.tar",
    )
    code, printed = reddiff("degrade", *options, "--data.shards", shard, "--out", measured.parents[1])
    assert code == 0, printed
    trust = ["--trust-physics=true"] if task.stem == "nonlinear_blur" else []
    command = ["restore", *SMALL, *trust, "--data.shards", measured, "--out", restored.parents[1]]
    code, printed = reddiff(*command)
    assert code == 0, printed
    assert restored_keys(restored) == list(photos)[:2]

    cli = RestoreCLI("degrade", [*options, "--data.shards", str(shard), "--out", str(tmp_path / "unused")])
    cli.make()
    direct, before = (
        [prepare(raw, cli.datamodule.degradation) for raw in read_shard(plan([str(path)], None)[0])]
        for path in (shard, measured)
    )
    for one, other in zip(direct, before, strict=True):
        assert one.params.keys() == other.params.keys()
        assert torch.equal(one.y, other.y)
        assert all(torch.equal(value, other.params[name]) for name, value in one.params.items())


def test_a_drawn_operator_differs_from_image_to_image(reddiff, shard, tmp_path):
    options = [*SMALL, "--config", CONFIGS / "tasks" / "deblur_motion.yaml", "--data.shards", shard]
    assert reddiff("degrade", *options, "--out", tmp_path / "y")[0] == 0
    members = read_tar(tmp_path / "y" / "shards" / "a.tar")
    first, second = (np.load(io.BytesIO(c)) for n, c in members.items() if n.endswith(".kernel.npy"))
    assert first.shape == (15, 15) and abs(first - second).max() > 0.01


def test_jpeg_files_are_measurements_with_the_tables_they_were_made_with(reddiff, photos, tmp_path):
    """Files of two qualities, neither the configuration's, fit what the operator makes of their images."""
    samples = []
    for (key, photo), quality in zip(list(photos.items())[:2], (20, 60), strict=True):
        picture = Image.open(io.BytesIO(photo)).convert("RGB").resize((32, 32))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        samples.append((key, {"y.jpg": file.getvalue(), "x.png": png(np.asarray(picture))}))
    full = io.BytesIO()
    picture.save(full, "JPEG", subsampling=0)
    samples.append(("full", {"y.jpg": full.getvalue()}))
    shard = write_shard(tmp_path / "in" / "a.tar", samples)
    options = [*SMALL, "--config", str(CONFIGS / "tasks" / "jpeg.yaml"), "--data.shards", str(shard)]
    code, printed = reddiff("restore", *options, "--out", tmp_path / "out")
    assert code == 0, printed  # the file of full chroma, too: its subsampling is a parameter of its own
    assert restored_keys(tmp_path / "out" / "shards" / "a.tar") == [*list(photos)[:2], "full"]

    cli = RestoreCLI("restore", [*options, "--out", str(tmp_path / "unused")])
    cli.make()
    degradation = cli.datamodule.degradation
    for raw, quality in zip(read_shard(plan([str(shard)], None)[0]), (20, 60), strict=False):
        sample = prepare(raw, degradation)
        assert torch.equal(sample.params["tables"], quantization_tables(quality))
        made = degradation.bound(sample.params).A(sample.x[None])[0]
        assert (made - sample.y).abs().mean() < 0.3 / 127.5


def test_a_masks_grey_edges_are_rounded_in_compositions_too(reddiff, photos, tmp_path):
    """As those of KEY.mask.png are; the second part's mask is KEY.mask_1.png and has the small image's size."""
    mask = np.array([[0, 100, 255, 200]] * 4, "u1").repeat(2, 0).repeat(2, 1)
    samples = [(key, {"jpg": photo, "mask_1.png": png(mask)}) for key, photo in list(photos.items())[:1]]
    samples += [
        (key, {"jpg": photo, "mask_1.png": png(mask[:4])}) for key, photo in list(photos.items())[1:2]
    ]
    shard = write_shard(tmp_path / "in" / "a.tar", samples)
    task = CONFIGS / "tasks" / "superresolution_4x_inpainting.yaml"
    options = [*SMALL, "--config", task, "--data.shards", shard]
    code, printed = reddiff("degrade", *options, "--out", tmp_path / "y")
    assert code == 3 and "mask_1 has shape (1, 4, 8), expected (1, 8, 8) or (3, 8, 8)" in printed
    members = read_tar(tmp_path / "y" / "shards" / "a.tar")
    (y,) = (np.load(io.BytesIO(content)) for name, content in members.items() if name.endswith("y.npy"))
    assert ((y != 0) == (mask > 127)).all()


def test_a_network_beside_shards_is_not_trusted(reddiff, shard, tmp_path):
    """TorchScript runs code, and physics.yaml comes from whoever made the shards."""
    task = CONFIGS / "tasks" / "nonlinear_blur.yaml"
    options = [*SMALL, "--config", task, *task_options(task, tmp_path), "--data.shards", shard]
    assert reddiff("degrade", *options, "--out", tmp_path / "y")[0] == 0
    measured = ["--data.shards", tmp_path / "y" / "shards" / "a.tar", "--out", tmp_path / "out"]
    code, printed = reddiff("restore", *SMALL, *measured)
    assert code == 2 and "physics.yaml: model.physics.init_args.trust asks to be trusted" in printed
    without = [*SMALL, "--config", task, task_options(task, tmp_path)[0], "--data.shards", shard]
    code, printed = reddiff("degrade", *without, "--out", tmp_path / "z")
    assert code == 2 and "model.physics.init_args.trust: TorchScript can run any code" in printed
