"""`reddiff submit` and the scripts it fills in, without SLURM."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import CONFIGS, write_shard

from reddiff_pl.shards.placement import place
from reddiff_pl.submit import arrays

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "slurm").glob("*.sbatch"))
TASK = str(CONFIGS / "tasks" / "inpainting_random.yaml")


@pytest.fixture(autouse=True)
def no_slurm(tmp_path, monkeypatch):
    """A machine without SLURM's commands, and three shards."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        write_shard(tmp_path / "in" / f"{name}.tar", [])


@pytest.fixture
def dry(reddiff):
    """Runs `reddiff submit --dry-run` on the three shards; returns plan and scripts by their names."""

    def run(*argv: str) -> tuple[str, dict[str, str]]:
        code, printed = reddiff("submit", "--dry-run", *argv, "--data.shards", "in/*.tar", "--out", "out")
        assert code == 0, printed
        plan, *parts = re.split(r"^# \S*/slurm/(\S+\.sbatch)\n", printed, flags=re.MULTILINE)
        assert not Path("out").exists(), "nothing is written"
        return plan, dict(zip(parts[::2], parts[1::2], strict=True))

    return run


def directives(script: str) -> list[str]:
    return re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)


def words(script: str, variable: str) -> list[str]:
    """The shell's own reading of the program's name or its options in a script."""
    lines = script.split("# srun does not", 1)[0]
    done = subprocess.run(
        ["/bin/bash", "-c", f'{lines}\nprintf "%s\\0" "{variable}"'], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shipped_scripts_are_sound(path):
    assert subprocess.run(["/bin/bash", "-n", path], capture_output=True).stderr == b""
    lines = path.read_text().splitlines()
    body = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[body:] if line.startswith("#SBATCH")], "SLURM would not see them"
    for before, line in zip(lines, lines[1:], strict=False):
        if line.startswith("#SBATCH"):
            assert before.startswith("# "), f"{line} says why it is there"
    assert "--job-name=bash" not in path.read_text()


def test_the_plan_counts_what_is_left(dry, tmp_path, reddiff):
    plan, scripts = dry("--tasks", "2")
    assert "3, 0 finished, 3 to do" in plan and "2, about 2 shards a task" in plan
    assert list(scripts) == ["restore.sbatch"]
    plan, _ = dry("--tasks", "5")
    assert "warning: 5 tasks for 3 shards: 2 will find nothing to do" in plan


def test_a_finished_run_is_not_submitted_again(reddiff, shard_of_nothing_left):
    command = ["submit", "--tasks", "1", "--dry-run", *shard_of_nothing_left]
    code, printed = reddiff(*command)
    assert code == 0 and "nothing is left to do" in printed and "#SBATCH" not in printed
    for option in ("--overwrite=true", "--retry-failed=true"):
        code, printed = reddiff(*command, option)
        assert code == 0 and "#SBATCH" in printed
