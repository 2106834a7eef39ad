"""deepinv's generators of operators' parameters, through YAML: one draw an image, seeded by its key."""

from __future__ import annotations

import io

import deepinv
import numpy as np
import pytest
import torch
import yaml
from helpers import read_tar
from run_tasks import tiny_shards

PRIOR = {"class_path": "reddiff_pl.priors.Gaussian", "init_args": {"shape": [3, 16, 16]}}
GENERATORS = "deepinv.physics.generator."
BLUR = {"class_path": "deepinv.physics.BlurFFT", "init_args": {"img_size": [3, 16, 16]}}
HOLES = {"class_path": "reddiff_pl.physics.Inpainting"}
MOTION = {"class_path": f"{GENERATORS}MotionBlurGenerator", "init_args": {"psf_size": [5, 5]}}
ROUND = {"class_path": f"{GENERATORS}GaussianBlurGenerator", "init_args": {"psf_size": [5, 5]}}
BOTH = {
    "class_path": f"{GENERATORS}GeneratorMixture",
    "init_args": {"generators": [MOTION, ROUND], "probs": [0.5, 0.5]},
}
# of another size than the images
MASK = {
    "class_path": f"{GENERATORS}BernoulliSplittingMaskGenerator",
    "init_args": {"img_size": [1, 8, 8], "split_ratio": 0.6},
}

pytestmark = pytest.mark.usefixtures("one_thread")


def config(tmp_path, physics, generator):
    path = tmp_path / "generated.yaml"
    model = {"prior": PRIOR, "physics": physics, "generator": generator}
    path.write_text(yaml.safe_dump({"model": model, "trainer": {"accelerator": "cpu"}}))
    return path


@pytest.mark.parametrize(
    ("physics", "generator", "name"),
    [(BLUR, MOTION, "filter"), (BLUR, BOTH, "filter"), (HOLES, MASK, "mask")],
    ids=["motion", "mixture", "mask"],
)
def test_degraded_and_restored_from_yaml(reddiff, tmp_path, physics, generator, name):
    path = config(tmp_path, physics, generator)
    clean = ["--data.shards", tiny_shards(tmp_path / "in", 1, 6)]
    for out in ("one", "two"):
        code, printed = reddiff("degrade", "--config", path, *clean, "--out", tmp_path / out)
        assert code == 0, printed
    [tar] = (tmp_path / "one" / "shards").glob("*.tar")
    assert tar.read_bytes() == (tmp_path / "two" / "shards" / tar.name).read_bytes(), "drawn by the key"
    members = read_tar(tar)
    keys = [member.partition(".")[0] for member in members if member.endswith("reddiff.json")]
    drawn = []
    for key in keys:
        suffix = next(s for s in (".npy", ".png") if f"{key}.{name}{s}" in members)
        content = members[f"{key}.{name}{suffix}"]
        drawn.append(np.load(io.BytesIO(content)) if suffix == ".npy" else content)
        if name == "filter":
            assert drawn[-1].sum() == pytest.approx(1, abs=1e-5) and drawn[-1].shape == (1, 5, 5)
    assert len({one if isinstance(one, bytes) else one.tobytes() for one in drawn}) == 6, "one an image"
    if name == "filter":  # and it is what the measurement was made with
        x = torch.from_numpy(np.array(_picture(members[f"{keys[0]}.x.png"]))).permute(2, 0, 1)[None]
        y = deepinv.physics.BlurFFT((3, 16, 16), filter=torch.from_numpy(drawn[0])[None]).A(x / 127.5 - 1)
        assert np.abs(np.load(io.BytesIO(members[f"{keys[0]}.y.npy"])) - y[0].numpy()).max() < 1e-5

    # elsewhere, without the generator, and at once: the same images
    more = ["--evaluations", "4", "--out"]
    measured = ["--config", path, "--model.generator=null", "--data.shards", tar]
    assert reddiff("restore", *measured, *more, tmp_path / "later")[0] == 0
    assert reddiff("restore", "--config", path, *clean, *more, tmp_path / "now")[0] == 0
    later, now = (read_tar(tmp_path / out / "shards" / tar.name) for out in ("later", "now"))
    images = [member for member in now if member.endswith(".png")]
    assert len(images) == 6
    for image in images:
        difference = np.asarray(_picture(later[image]), int) - np.asarray(_picture(now[image]), int)
        assert np.abs(difference).max() <= 1


def _picture(content: bytes):
    from PIL import Image

    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(
    ("physics", "generator", "says"),
    [
        (HOLES, MOTION, "MotionBlurGenerator draws filter, which the operator does not have; it has mask"),
        (
            BLUR,
            {"class_path": f"{GENERATORS}SigmaGenerator"},
            "SigmaGenerator draws sigma, which the operator",
        ),
        (
            BLUR,
            {"class_path": f"{GENERATORS}MotionBlurGenerator", "init_args": {"psf_size": [0, 5]}},
            "MotionBlurGenerator cannot draw",
        ),
    ],
)
def test_what_does_not_fit_stops_before_any_work(reddiff, tmp_path, physics, generator, says):
    path = config(tmp_path, physics, generator)
    shards = tiny_shards(tmp_path / "in", 1, 1)
    code, printed = reddiff("degrade", "--config", path, "--data.shards", shards, "--out", tmp_path / "out")
    assert code == 2 and f"--model.generator: {says}" in printed, printed
    assert not (tmp_path / "out").exists()


def test_an_operator_without_its_parameter_says_how_to_give_it(reddiff, tmp_path):
    path = config(tmp_path, BLUR, None)
    shards = tiny_shards(tmp_path / "in", 1, 2)
    code, printed = reddiff("degrade", "--config", path, "--data.shards", shards, "--out", tmp_path / "out")
    assert code == 3 and "has no filter: the sample must bring it, or --model.generator draw it" in printed
