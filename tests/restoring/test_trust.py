"""physics.yaml comes with the data, from anyone: it names operators, and runs nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import CONFIGS, QUICK, npy, write_shard
from jsonargparse import Namespace

from reddiff_pl.errors import ConfigError
from reddiff_pl.import_path import python_command
from reddiff_pl.restoring.physics_yaml import check_parsed, physics_beside

MASK = "model: {physics: {class_path: reddiff_pl.physics.Inpainting, init_args: {mask: %s}}}"
DOWN = "model: {physics: {class_path: deepinv.physics.Downsampling, init_args: %s}}"
NETWORK = "model: {physics: {class_path: reddiff_pl.physics.NonlinearBlur, init_args: %s}}"
PHYSICS = "model: {physics: {class_path: deepinv.physics.Physics, init_args: %s}}"

EVIL = {
    "a class": "model: {physics: {class_path: evil.X}}",
    "a class by its path alone": "model: {physics: evil.X}",
    "a class by its name alone": "model: {physics: X}",
    "JSON in a string": """model: {physics: '{"class_path": "evil.X"}'}""",
    "YAML in a string": "model:\n  physics: |\n    class_path: evil.X\n",
    "JSON in a string as the model": """model: '{"physics": {"class_path": "evil.X"}}'""",
    "init_args in a string": MASK.replace("{mask: %s}", """'{"mask": {"class_path": "evil.X"}}'"""),
    "JSON in an argument": MASK % """'{"class_path": "evil.X"}'""",
    "a class in an argument": MASK % "evil.X",
    "a nested class": MASK % "{class_path: evil.X}",
    "a class in a list": "model: {physics: {class_path: reddiff_pl.physics.Compose, init_args: {parts: [evil.X]}}}",
    "a string in a list": "model: {physics: {class_path: reddiff_pl.physics.Compose, init_args: {parts: "
    """['{"class_path": "evil.X"}']}}}""",
    "a list in a string": "model: {physics: {class_path: reddiff_pl.physics.Compose, init_args: {parts: "
    """'[{"class_path": "evil.X"}]'}}}""",
    "deep in plain mappings": PHYSICS % "{fan: {one: {two: [{three: {class_path: evil.X}}]}}}",
    "dict_kwargs": "model: {physics: {class_path: deepinv.physics.Physics, dict_kwargs: {A: evil.X}}}",
    "dict_kwargs in an argument": MASK
    % "{class_path: reddiff_pl.physics.RandomMask, dict_kwargs: {keep: evil.X}}",
    "other case": MASK % "{Class_Path: evil.X}",
    "other case of init_args": "model: {physics: {class_path: reddiff_pl.physics.JPEG, INIT_ARGS: {}}}",
    "keys with dots": "model: {physics.class_path: evil.X}",
    "keys with dots at the top": "model.physics: evil.X",
    "a merge key": "model: {physics: {<<: {class_path: evil.X}}}",
    "anchors": "model: {physics: &a {class_path: deepinv.physics.Decolorize}, noise: *a}",
    "a python tag": "model: {physics: !!python/object/apply:os.system [id]}",
    "a string tag": "model: {physics: !!str evil.X}",
    "a tag of one's own": "model: {physics: !include other.yaml}",
    "another file": "model: {physics: other.yaml}",
    "another file without a suffix": "model: {physics: other}",
    "another file in an argument": MASK % "other",
    "an absolute file": "model: {physics: /tmp/other.yaml}",
    "another file as a word": DOWN % "{filter: other}",
    "a function": PHYSICS % "{A: torch.exp}",
    "a function through an allowed module": PHYSICS % "{A: deepinv.physics.forward.torch.exp}",
    "a function as a class": PHYSICS % "{sensor_model: {class_path: torch.nn.ReLU}}",
    "an allowed class as a function": PHYSICS % "{A: {class_path: deepinv.physics.Decolorize}}",
    "a function of the allowed modules": "model: {physics: deepinv.physics.compose}",
    "a foreign class through an allowed module": "model: {physics: deepinv.physics.forward.torch.nn.Linear}",
    "a module that begins alike": "model: {physics: deepinv.physics_evil.X}",
    "a private name": "model: {physics: reddiff_pl.physics.unit_range.__builtins__}",
    "TorchScript": NETWORK % "{path: other, trust: true}",
    "TorchScript in a string": "model: {physics: "
    """'{"class_path": "reddiff_pl.physics.NonlinearBlur", "init_args": {"path": "other", "trust": true}}'}""",
    "a file for an operator": NETWORK % "{path: other}",
    "the noise": "model: {physics: deepinv.physics.Decolorize, noise: {class_path: evil.X}}",
    "other settings": "model: {physics: deepinv.physics.Decolorize}\ntrainer: {devices: 2}",
    "a prior": "model: {prior: {class_path: evil.X}}",
    "settings of the data": "data: {size: 64, images: /}",
    "the whole data": "data: evil.X",
    "a size that is a class": "data: {size: {class_path: evil.X}}",
    "a size that takes all memory": "model: {physics: deepinv.physics.Decolorize}\ndata: {size: 1000000}",
    "a list of sizes that takes all memory": "model: {physics: {class_path: deepinv.physics.Inpainting, init_args: "
    "{img_size: [3, 100000, 100000]}}}",
    "a number that takes all memory": "model: {physics: {class_path: deepinv.physics.CompressedSensing, init_args: "
    "{m: 1000000000, img_size: [3, 64, 64]}}}",
    "a number that has no end": "model: {physics: {class_path: reddiff_pl.physics.JPEG, init_args: {quality: .inf}}}",
    "a number of many digits": "data: {size: %s}" % ("9" * 5000),
    "nesting without end": "a: " + "[" * 30000,
    "too long": "# " + "x" * 70000,
    "a date": MASK % "2020-01-01",
    "binary": "model: {physics: \x00}",
    "a list": "[model]",
    "nothing": "",
    "only a number": "1",
    "no yaml": "a: [",
    "two documents": "model: {physics: deepinv.physics.Decolorize}\n---\nmodel: {physics: evil.X}",
}


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A folder as one gets it: shards, and what should not run. It is also the current one, and importable."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass X: pass\n")
    for name in ("other", "other.yaml"):
        (tmp_path / name).write_text("class_path: evil.X\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    assert "evil" not in sys.modules and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", EVIL)
def test_what_it_may_not_say(beside, name):
    """Refused before anything is imported."""
    (beside / "physics.yaml").write_text(EVIL[name])
    with pytest.raises(ConfigError, match=r"physics\.yaml: ") as error:
        physics_beside(str(beside / "s.tar"), trust=False)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    "name", ["JSON in a string", "another file as a word", "init_args in a string", "dict_kwargs"]
)
def test_the_command_runs_nothing(beside, reddiff, name):
    (beside / "physics.yaml").write_text(EVIL[name])
    shard = write_shard(beside / "s.tar", [("a", {"y.npy": npy(np.zeros((1, 64, 64), "f4"))})])
    code, printed = reddiff("restore", *QUICK, "--data.shards", shard, "--out", beside / "out")
    assert code == 2 and printed.count("\n") == 1 and "physics.yaml" in printed, printed
    assert not (beside / "out" / "shards").exists()


def test_bytes_that_are_no_text(beside):
    (beside / "physics.yaml").write_bytes("model: {physics: é}".encode("latin-1"))
    with pytest.raises(ConfigError, match="utf-8"):
        physics_beside(str(beside / "s.tar"), trust=False)


@pytest.mark.parametrize(
    "parsed", ["evil.X", "torch.nn.Linear", "evil.deepinv.physics.Decolorize", "os.system"]
)
def test_what_was_parsed_is_checked_class_by_class(tmp_path, parsed):
    """Whatever the first check may have missed: the second one sees what will be made."""
    good = Namespace(class_path="deepinv.physics.Decolorize", init_args=Namespace(device="cpu", channels=3))
    check_parsed(tmp_path, {"model.physics": good})
    nested = Namespace(class_path="reddiff_pl.physics.UnitRange", init_args=Namespace(physics=good))
    check_parsed(tmp_path, {"model.physics": nested})
    for arguments in (
        {"physics": Namespace(class_path=parsed)},
        {"physics": [{"class_path": parsed}]},
        {"A": parsed},
    ):
        nested.init_args = Namespace(**arguments)
        with pytest.raises(ConfigError, match="init_args"):
            check_parsed(tmp_path, {"model.physics": nested})
    nested.init_args = Namespace(A=os.system)
    with pytest.raises(ConfigError, match="init_args"):
        check_parsed(tmp_path, {"model.physics": nested})


@pytest.mark.parametrize("task", sorted((CONFIGS / "tasks").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_tasks_are_taken(tmp_path, task):
    model = yaml.safe_load(task.read_text())["model"]
    content = {
        "model": {key: model[key] for key in ("physics", "noise") if key in model},
        "data": {"size": 64},
    }
    (tmp_path / "physics.yaml").write_text(yaml.safe_dump(content))
    assert physics_beside(str(tmp_path / "s.tar"), trust=False) == tmp_path / "physics.yaml"


@pytest.mark.parametrize(
    "physics",
    [
        {"class_path": "deepinv.physics.Downsampling", "init_args": {"filter": "bicubic", "factor": 2}},
        {
            "class_path": "deepinv.physics.Demosaicing",
            "init_args": {"img_size": [3, 64, 64], "device": "cuda:1"},
        },
        {"class_path": "deepinv.physics.blur.DownsamplingMatlab", "init_args": {"padding": "reflect"}},
        "deepinv.physics.Decolorize",
    ],
    ids=str,
)
def test_operators_of_deepinv_are_taken(tmp_path, physics):
    (tmp_path / "physics.yaml").write_text(yaml.safe_dump({"model": {"physics": physics}}))
    assert physics_beside(str(tmp_path / "s.tar"), trust=False) is not None


def test_nothing_in_the_current_folder_is_imported(tmp_path, monkeypatch):
    """`python -m` has it before everything, and so would the processes that the command starts."""
    ran = tmp_path / "ran"
    for name in ("yaml", "json", "argparse", "reddiff_pl/__init__", "reddiff_pl/__main__"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(ran)!r}, 'a').write({name!r})\n")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    monkeypatch.chdir(tmp_path)
    commands = [python_command()] if sys.version_info >= (3, 11) else []
    (tmp_path / "reddiff_pl").rename(tmp_path / "aside")
    done = subprocess.run([sys.executable, "-m", "reddiff_pl", "status", "out"], env=env, capture_output=True)
    assert done.returncode == 2 and b"error: " in done.stderr, done.stderr
    (tmp_path / "aside").rename(tmp_path / "reddiff_pl")
    for command in commands:
        done = subprocess.run([*command, "status", "out"], env=env, capture_output=True)
        assert done.returncode == 2 and b"error: " in done.stderr, done.stderr
    assert not ran.exists()


def test_urls_have_no_physics_yaml(tmp_path, monkeypatch):
    """A folder called like a URL's beginning is not that URL's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "http:" / "host").mkdir(parents=True)
    (tmp_path / "http:" / "host" / "physics.yaml").write_text("model: {physics: deepinv.physics.Decolorize}")
    assert physics_beside("http://host/s.tar", trust=False) is None
