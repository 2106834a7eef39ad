"""The demo, as a new user runs it: the bundled prior on real photos."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import read_tar
from PIL import Image

from reddiff_pl.demo import PHOTOS, SHARP, TASKS


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "reddiff_pl", "demo", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_every_photo_comes_out_once(demo):
    photos = [n for task in TASKS for n in read_tar(PHOTOS / f"{task}.tar") if n.endswith("jpg")]
    tars = [tar for task in TASKS for tar in (demo / task).rglob("*.tar")]
    restored = [n for tar in tars for n in read_tar(tar) if n.endswith("png")]
    assert len(photos) == 12
    assert sorted(n[:-4] for n in photos) == sorted(n[:-4] for n in restored)


def test_two_of_them_are_sharp_as_well(demo):
    task = SHARP[0]
    faithful, sharp = (read_tar(demo / name / "shards" / f"{task}.tar") for name in (task, f"{task}_sharp"))
    pictures = [name for name in sharp if name.endswith("png")]
    assert len(pictures) == 2
    for name in pictures:
        mine, other = (np.asarray(Image.open(io.BytesIO(tar[name])), float) for tar in (sharp, faithful))
        assert np.abs(np.diff(mine, axis=0)).mean() > np.abs(np.diff(other, axis=0)).mean()


@pytest.mark.parametrize("task", TASKS)
def test_restoration_gains_over_the_pseudo_inverse(demo, task):
    """By 10 dB on random inpainting, where A_dagger leaves the missing pixels grey."""
    from reddiff_pl.options.shipped import shipped
    from reddiff_pl.restoring.options import RestoreCLI
    from reddiff_pl.shards.reader import read_shard
    from reddiff_pl.shards.samples import prepare

    tar = str(PHOTOS / f"{task}.tar")
    cli = RestoreCLI(
        "restore", ["--config", shipped(f"tasks/{task}.yaml"), "--data.shards", tar, "--out", str(demo)]
    )
    cli.make()
    start = []
    for raw in read_shard(cli.datamodule.todo.shards[0]):
        sample = prepare(raw, cli.datamodule.degradation)
        x = cli.datamodule.degradation.bound(sample.params).A_dagger(sample.y[None])[0]
        start.append(-10 * np.log10((((x.clamp(-1, 1) - sample.x) / 2) ** 2).mean().item()))
    records = read_tar(demo / task / "shards" / f"{task}.tar")
    restored = [
        json.loads(content)["psnr"] for name, content in records.items() if name.endswith("reddiff.json")
    ]
    gain = np.mean(restored) - np.mean(start)
    print(f"{task}: A_dagger {np.mean(start):.2f} dB, restored {np.mean(restored):.2f} dB")
    assert gain > (10 if task == "inpainting_random" else 1), gain


def test_the_overview_shows_them_all(demo):
    picture = Image.open(io.BytesIO((demo / "report" / "overview.png").read_bytes()))
    assert picture.width > 1000 and picture.height > 1000
    assert np.asarray(picture.convert("L")).std() > 30
