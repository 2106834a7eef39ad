"""The short way in: which options it stands for, and what it says where a word is unknown."""

from __future__ import annotations

import json

import pytest
from helpers import CONFIGS, png, read_tar
from test_measured import LEFT, fill, photo

from reddiff_pl.cluster.options import restore_options
from reddiff_pl.errors import ConfigError
from reddiff_pl.restoring.short import expand

TASK = str(CONFIGS / "tasks" / "jpeg.yaml")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is not the clone's."""
    monkeypatch.chdir(
        fill(
            tmp_path,
            {"photos/a b.jpg": b"", "one.tar": b"", "two.tgz": b"", "own.yaml": b"seed: 1", "a.heic": b""},
        )
    )
    return tmp_path


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("photos/ --task jpeg --to r/", f"--config {TASK} --data.measured photos/ --to r/ --out r.run"),
        ("--task=jpeg one.tar --out o", f"--config {TASK} --data.shards one.tar --out o"),
        ("shards/*.tar --seed 1", "--data.shards shards/*.tar --seed 1"),
        ("s3://b/{00..09}.tar", "--data.shards s3://b/{00..09}.tar"),
        ("--config tasks/jpeg.yaml --config own.yaml", f"--config {TASK} --config own.yaml"),
        ("--config=configs/tasks/jpeg.yaml", f"--config {TASK}"),
        ("--data.measured photos --seed=3 --help", "--data.measured photos --seed=3 --help"),
        (
            "--perception .5 --config own.yaml",
            "--config own.yaml --model.sampler.init_args.perception .5",
        ),
        ("--perception=1", "--model.sampler.init_args.perception 1"),
        ("--prior photos", "--model.prior.init_args.path photos"),
    ],
)
def test_what_it_stands_for(folder, short, long):
    assert expand(short.split()) == long.split()
    assert expand(long.split()) == long.split(), "what is written out stays"


def test_names_that_yaml_would_misread(folder):
    fill(folder, {"null/a.jpg": b""})
    assert expand(["null"]) == ["--data.measured", "./null"]
    assert expand(["--data.images=&a", "--to", "r: s"]) == [
        *("--data.images", "./&a", "--to", "./r: s", "--out", "./r: s.run")
    ]
    found = expand(["--data.params.mask", "a: b.png", "--seed", "1", "--data.params.kernel=- k.npy"])
    assert found == ["--seed", "1", "--data.params", '{"mask": "./a: b.png", "kernel": "./- k.npy"}']
    fill(folder, {"-a.jpg": b""})
    assert expand(["--seed", "1", "-a.jpg"]) == ["--data.measured", "./-a.jpg", "--seed", "1"]
    plain = ["--data.params.mask", "1.png", "--data.images", "/a: b", "--out", "123"]
    assert expand(plain) == plain, "nothing is changed without need"


def test_a_sampler_comes_after_the_task_and_a_prior_before(folder):
    found = expand(["--sampler", "dps", "--limit", "1", "--task", "jpeg", "--prior", "tiled"])
    names = [name.rpartition("configs/")[2] for name in found if name.endswith(".yaml")]
    assert names == ["priors/tiled.yaml", "tasks/jpeg.yaml", "samplers/dps.yaml"] and found[-2:] == [
        "--limit",
        "1",
    ]


def test_one_picture_several_tars_and_degrade(folder):
    assert expand(["photos/a b.jpg"]) == ["--data.measured", "photos/a b.jpg"]
    assert expand(["one.tar", "two.tgz"]) == ["--data.shards", json.dumps(["one.tar", "two.tgz"])]
    assert expand(["photos"], "degrade") == ["--data.images", "photos"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--task", "jpg"], "--task: no task jpg ships; did you mean jpeg"),
        (["--task", "inpainting"], "did you mean .*inpainting_"),
        (["--sampler", "dsp"], "did you mean dps"),
        (
            ["--config", "tasks/jpgg.yaml"],
            "--config: tasks/jpgg.yaml: no such file.* did you mean tasks/jpeg.yaml",
        ),
        (["fotos"], "fotos: no such file or folder"),
        (["photos", "one.tar"], "give one folder"),
        (["photos/*.jpg"], "give pictures as their folder"),
        (["own.yaml"], "expected a folder, a picture or tars"),
        (["a.heic"], r"\.heic pictures cannot be read; convert it"),
    ],
)
def test_unknown_words(folder, argv, says):
    with pytest.raises(ConfigError, match=says):
        expand(argv)


def test_submit_takes_the_same_words(folder, reddiff):
    assert restore_options(["photos", "--to", "r"]) == {"data.measured": "photos", "out": "r.run"}
    code, printed = reddiff("submit", "--tasks", 1, "--dry-run", "photos", "--task", "denoising", "--to", "r")
    assert code == 0 and "1 to do" in printed, printed


def test_configurations_are_listed_and_shown(reddiff, folder):
    code, printed = reddiff("configs")
    assert code == 0 and "tasks/jpeg.yaml" in printed and "JPEG restoration." in printed
    assert reddiff("configs", "show", "tasks/jpeg.yaml")[1] == (CONFIGS / "tasks" / "jpeg.yaml").read_text()
    code, printed = reddiff("configs", "show", "jpeg")
    assert code == 2 and "tasks/jpeg.yaml" in printed


def test_one_picture_is_restored(reddiff, tmp_path, monkeypatch):
    """With its mask, and without its neighbours, from any folder."""
    monkeypatch.chdir(
        fill(tmp_path, {"a.png": png(photo(0)), "a.mask.png": png(LEFT), "b.png": b"", "ab.png": b""})
    )
    quick = ["--prior", "gaussian", "--model.prior.init_args.shape=[3,16,16]", "--evaluations=4"]
    code, printed = reddiff("restore", "a.png", "--task", "inpainting_given", *quick, "--out", "out")
    assert code == 0, printed
    assert "1 measurement of Inpainting, masks for all" in printed
    assert "a.png" in read_tar(tmp_path / "out" / "shards" / "measured-000000.tar")


def test_a_task_that_lacks_its_parameters(reddiff, tmp_path):
    """Never does a bare folder mean clean images, to be damaged."""
    fill(tmp_path / "photos", {"a.png": png(photo(0))})
    argv = [
        tmp_path / "photos",
        "--task",
        "inpainting_random",
        "--prior",
        "gaussian",
        "--out",
        tmp_path / "out",
    ]
    code, printed = reddiff("restore", *argv, "--model.prior.init_args.shape=[3,16,16]")
    assert code == 2 and "needs a mask" in printed
