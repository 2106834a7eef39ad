"""A bad option is one line that names it, before any work; nothing is left behind by a start that was refused."""

from __future__ import annotations

import errno
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import CONFIGS, QUICK, VAL_SHARD, png, read_json, restored_keys, write_shard
from lightning.pytorch import Trainer

from reddiff_pl import exit_codes
from reddiff_pl.restoring.trainer_options import FREE, REFUSED

TASK = ["--config", str(CONFIGS / "tasks" / "inpainting_random.yaml")]
SHARDS = ["--data.shards", str(VAL_SHARD)]
OUT = ["--out", "OUT"]
SAMPLER = "--model.sampler.init_args."
MASK = "--model.physics.init_args.mask.init_args."
FILES = {
    "bad": "seed: [1\n",
    "twice": "seed: 1\nseed: 2\n",
    "within": "model:\n  sampler:\n    init_args:\n      steps: 3\n      steps: 4\n",
    "empty": "# seed: 1\n",
    "list": "- seed\n",
    "itself": "model: &a [*a]\n",
    "typo": "modle:\n  seed: 1\n",
    "null": "data:\n",
}
# a task with settings of its own for the default sampler
TUNED = ["--config", str(CONFIGS / "tasks" / "colorization.yaml")]
DPS = ["--config", str(CONFIGS / "samplers" / "dps.yaml")]

BAD = {
    "no out": ([*TASK, *SHARDS], "--out: give the output directory"),
    "option": ([*TASK, *SHARDS, *OUT, "--data.batchsize", "4"], "did you mean --data.batch_size?"),
    "single dash": ([*TASK, *SHARDS, *OUT, "-limit", "3"], "did you mean --limit?"),
    "sampler's option": ([*TASK, *SHARDS, *OUT, f"{SAMPLER}stps=1"], "did you mean steps?"),
    "type": (
        [*TASK, *SHARDS, *OUT, "--data.batch_size=many"],
        "--data.batch_size: expected an int or one of",
    ),
    "class": (
        [*TASK, *SHARDS, *OUT, "--model.sampler=reddiff_pl.samplers.DSP", f"{SAMPLER}steps=4"],
        "--model.sampler: no DSP in reddiff_pl.samplers; did you mean DPS?",
    ),
    "operator": (
        [*SHARDS, *OUT, "--model.physics={class_path: deepinv.physics.Inpaintin}"],
        "--model.physics: no Inpaintin in deepinv.physics; did you mean Inpainting?",
    ),
    "order": ([*DPS, *TUNED, *SHARDS, *OUT], "the task's --config first, then the sampler's"),
    "task": (
        ["--config", str(CONFIGS / "tasks" / "inpainting_rndom.yaml"), *SHARDS, *OUT],
        "did you mean tasks/inpainting_random.yaml",
    ),
    "seed": ([*TASK, *SHARDS, *OUT, "--seed", "9" * 20], "--seed: "),
    "value without option": ([*TASK, *SHARDS, *OUT, "extra"], "extra: "),
    "latin-1": ([*TASK, *SHARDS, *OUT, "--config", "latin.yaml"], "latin.yaml is not UTF-8"),
    "utf-16": ([*TASK, *SHARDS, *OUT, "--config=utf16.yaml"], "utf16.yaml is not UTF-8 but UTF-16"),
    "not yaml": ([*TASK, *SHARDS, *OUT, "--config=bad.yaml"], "bad.yaml is not YAML"),
    "a key twice": ([*TASK, *SHARDS, *OUT, "--config=twice.yaml"], "seed stands twice, in lines 1 and 2"),
    "a key twice within": (
        [*TASK, *SHARDS, *OUT, "--config=within.yaml"],
        "steps stands twice, in lines 4 and 5",
    ),
    "nothing in it": ([*TASK, *SHARDS, *OUT, "--config=empty.yaml"], "empty.yaml holds no options"),
    "a list": ([*TASK, *SHARDS, *OUT, "--config=list.yaml"], "list.yaml holds no options"),
    "itself": ([*TASK, *SHARDS, *OUT, "--config=itself.yaml"], "itself.yaml: line 1 refers to itself"),
    "unknown in a file": ([*TASK, *SHARDS, *OUT, "--config=typo.yaml"], "--modle.seed: no such option"),
    "no value": ([*TASK, *SHARDS, *OUT, "--config=null.yaml"], "--config: "),
    "within an operator": (
        [*SHARDS, *OUT, "--task=deblur_motion", "--model.physics.init_args.taps=8"],
        "error: model.physics.init_args.taps: must be odd, got 8",
    ),
    "within its mask": (
        [*TASK, *SHARDS, *OUT, f"{MASK}keep=2"],
        "error: model.physics.init_args.mask.init_args.keep: ",
    ),
    "of no type": ([*TASK, *SHARDS, *OUT, f"{SAMPLER}steps=null"], "--model.sampler: TypeError"),
    "devices": ([*TASK, *SHARDS, *OUT, "--trainer.accelerator=cpu", "--trainer.devices=-1"], "--trainer: "),
    "share": ([*TASK, *SHARDS, *OUT, "--max-failed=2"], "--max-failed: must be a share from 0 to 1, got 2"),
    "no number": ([*TASK, *SHARDS, *OUT, "--max-failed=nan"], "--max-failed: "),
    "prior's folder": (
        [*TASK, *SHARDS, *OUT, "--prior=/no/where"],
        "model.prior.init_args.path: no folder /no/where",
    ),
    "no prior there": (
        [
            *TASK,
            *SHARDS,
            *OUT,
            "--model.prior=reddiff_pl.priors.UNet",
            "--model.prior.init_args.path=/nowhere",
        ],
        "/nowhere",
    ),
    **{
        f"trainer's {name}": ([*TASK, *SHARDS, *OUT, f"--trainer.{name}={value}"], f"--trainer.{name}: ")
        for name, value in {
            "num_nodes": 2,
            "limit_predict_batches": 1,
            "fast_dev_run": "true",
            "max_time": "00:00:01:00",
            "strategy": "ddp",
            "detect_anomaly": "true",
            "callbacks": "{class_path: lightning.pytorch.callbacks.Timer, init_args: {duration: 00:00:00:01}}",
        }.items()
    },
}


@pytest.mark.parametrize("name", BAD)
def test_one_line_and_nothing_left(reddiff, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("latin.yaml").write_bytes("# größe\nseed: 1\n".encode("latin-1"))
    Path("utf16.yaml").write_bytes("seed: 1\n".encode("utf-16"))
    for file, text in FILES.items():
        Path(f"{file}.yaml").write_text(text)
    options, says = BAD[name]
    code, printed = reddiff("restore", *options)
    assert code == 2, printed
    lines = printed.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("reddiff restore: error: ") and says in lines[0], printed
    assert "NestedArg" not in printed and not Path("OUT").exists()


def test_all_of_the_trainers_options_were_looked_at():
    assert set(inspect.signature(Trainer).parameters) == {*REFUSED, *FREE}


@pytest.mark.parametrize("operator", ["Demosaicing", "SinglePixelCamera"])
def test_operators_whose_annotations_say_a_tuple_of_one(reddiff, tmp_path, operator):
    more = ", m: 30" if operator == "SinglePixelCamera" else ""
    init = f"{{img_size: [3, 64, 64]{more}}}"
    options = [f"--model.physics={{class_path: deepinv.physics.{operator}, init_args: {init}}}", "--limit=1"]
    code, printed = reddiff("restore", *QUICK, *options, *SHARDS, "--out", tmp_path / "out")
    assert code == 0 and "1 restored" in printed, printed
    code, printed = reddiff("restore", *QUICK, *options, *SHARDS, "--out", tmp_path / "out")
    assert code == 0, printed  # what was resolved is read again


def test_a_bare_overwrite_deletes_nothing_before_all_is_checked(reddiff, tmp_path):
    out = tmp_path / "out"
    command = ["restore", *QUICK, *TASK, *SHARDS, "--limit=1", "--out", out]
    assert reddiff(*command)[0] == 0
    before = (out / "shards" / "val-000000.tar").read_bytes()
    assert reddiff(*command, "--overwrite", "--model.num_samples=0")[0] == 2
    assert (out / "shards" / "val-000000.tar").read_bytes() == before
    assert reddiff(*command, "--overwrite", "--seed=1")[0] == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["seed"] == 1


def test_out_is_not_where_the_inputs_are(reddiff, tmp_path):
    picture = png(np.zeros((64, 64, 3), np.uint8))
    shard = write_shard(tmp_path / "shards" / "a.tar", [("a", {"png": picture})])
    before = shard.read_bytes()
    for out in (tmp_path, tmp_path / "shards"):
        code, printed = reddiff("restore", *QUICK, *TASK, "--data.shards", shard, "--out", out)
        assert code == 2 and "--out: " in printed and "holds the inputs" in printed, printed
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(picture)
    code, printed = reddiff("restore", *QUICK, *TASK, "--data.images", photos, "--out", photos)
    assert code == 2 and "--out: " in printed, printed
    assert shard.read_bytes() == before and not list(tmp_path.rglob("logs"))
    assert sorted(path.name for path in photos.iterdir()) == ["a.png"]


def test_degrade_says_measured_and_the_log_has_what_came_before_it(reddiff, tmp_path):
    command = [*QUICK, *TASK, *SHARDS, "--limit=2"]
    code, printed = reddiff("degrade", *command, "--out", tmp_path / "y")
    assert code == 0 and "2 measured, 0 failed" in printed and "restored" not in printed


def test_what_a_task_took_over_is_told(reddiff, tmp_path):
    picture = png(np.zeros((64, 64, 3), np.uint8))
    for i in range(3):
        bad = [("b", {"png": b"no image"})] if i == 1 else []
        write_shard(tmp_path / "in" / f"{i}.tar", [("a", {"png": picture}), *bad])
    options = [*QUICK, *TASK, "--data.shards", tmp_path / "in" / "*.tar", "--rank=0", "--world=2"]
    code, printed = reddiff("restore", *options, "--out", tmp_path / "out")
    assert "and of other tasks' shards: 1 restored, 1 failed, 1 shards" in printed, printed
    assert "2 restored, 0 failed, 2 shards" in printed and code == 3


@pytest.fixture(scope="module")
def latin(tmp_path_factory) -> dict[str, str]:
    """A real locale whose texts are ISO-8859-1, made for these tests."""
    folder = tmp_path_factory.mktemp("locales")
    if (localedef := shutil.which("localedef")) is None:
        pytest.skip("needs localedef to make a locale")
    command = [localedef, "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    env = {"LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1", "LANG": "en_US.ISO-8859-1"}
    program = "import locale; print(locale.getpreferredencoding(False))"
    told = subprocess.run(
        [sys.executable, "-c", program], env=elsewhere(env), capture_output=True, text=True, check=False
    )
    if told.stdout.strip() != "ISO-8859-1":
        pytest.skip(f"cannot make an ISO-8859-1 locale here: {made.stderr.strip()}")
    return env


def elsewhere(env: dict[str, str]) -> dict[str, str]:
    """The environment of a process in another locale, in which nothing asks Python for UTF-8."""
    ours = ("LC_", "LANG", "PYTHONIOENCODING", "PYTHONUTF8")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)} | env


@pytest.fixture
def umlauts(reddiff, tmp_path):
    """A command that restores `größe` and a name that no encoding has, and what it makes of them in UTF-8."""
    picture = png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    samples = [("größe", {"png": picture}), ("bad\udcff", {"png": b"no image"})]
    shard = write_shard(tmp_path / "ein" / "Käse.tar", samples)
    (tmp_path / "ü.yaml").write_text("# größe\nseed: 0\n", encoding="utf-8")
    command = ["restore", *QUICK, *TASK, "--config", tmp_path / "ü.yaml", "--data.shards", shard]
    code, printed = reddiff(*command, "--out", tmp_path / "utf-8")
    assert code == 3 and "Traceback" not in printed, printed
    return [*map(str, command)], tmp_path / "utf-8"


def in_a_process(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "reddiff_pl", *command], env=elsewhere(env), capture_output=True, check=False
    )
    printed = (done.stdout + done.stderr).decode()
    assert "Traceback" not in printed and "Logging error" not in printed, printed
    return done.returncode, printed


def assert_the_same(out: Path, expected: Path) -> None:
    """The same keys, masks and pictures, whatever the locale; the name without an encoding is told."""
    assert restored_keys(out / "shards" / "Käse.tar") == ["größe"]
    assert (out / "shards" / "Käse.tar").read_bytes() == (expected / "shards" / "Käse.tar").read_bytes()
    assert r"key bad\udcff: " in (out / "logs" / "task-00000.log").read_text(encoding="utf-8")
    [failure] = read_json(out / "accounts" / "Käse.json")["failed"]
    assert failure["key"] == "bad\udcff"


def test_a_locale_of_ascii(umlauts, tmp_path):
    """Which may not be coerced to UTF-8."""
    command, expected = umlauts
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code, _ = in_a_process([*command, "--out", str(tmp_path / "out")], env)
    assert code == 3
    assert_the_same(tmp_path / "out", expected)


def test_a_locale_of_iso_8859_1(umlauts, tmp_path, latin):
    """And what evaluates the run prints an arrow."""
    command, expected = umlauts
    out = tmp_path / "aus gäbe"
    code, printed = in_a_process([*command, "--out", str(out)], latin)
    assert code == 3 and "aus gäbe" in printed
    assert_the_same(out, expected)
    code, printed = in_a_process(["evaluate", str(out), "--metrics", "psnr"], latin)
    assert code == 0 and "↑" in printed, printed


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_place_that_cannot_be_written_is_one_line(number, caplog):
    def write(argv):
        raise OSError(number, os.strerror(number), "out/file")

    assert exit_codes.run("evaluate", write, []) == exit_codes.CRASHED
    assert caplog.messages == [f"out/file: {os.strerror(number)}"] and not caplog.records[0].exc_info
