"""Signals: the flag is set before anything heavy is imported, what is written stays, the exit code says what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_tasks import TINY, assert_everything_once, tars, tiny_shards, wait_until, written

CODES = {signal.SIGUSR1: 85, signal.SIGUSR2: 85, signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_stopped_between_steps_and_taken_up(tasks, tmp_path, number):
    pattern = tiny_shards(tmp_path / "in", 2, 8)
    command = ["restore", *TINY, "--model.sampler.init_args.steps=400", "--data.shards", pattern]
    out = tmp_path / "out"
    pid = tasks.start(*command, "--out", out)
    wait_until(lambda: written(out) > 0)
    tasks.kill(pid, number)
    assert tasks.wait(pid) == CODES[number]
    assert "run the same command again" in tasks.printed.read_text()
    assert tasks.run(*command, "--out", out) == 0
    assert_everything_once(out, 2, 8)
    log = (out / "logs" / "task-00000.log").read_text()
    assert "stopped by a signal" in log and "begun with" in log


@pytest.mark.parametrize("seconds", [0.3, 1.5])
def test_a_signal_during_the_imports_is_not_missed(tmp_path, seconds):
    """The interpreter's own start, some hundredths of a second, is all that is not covered."""
    pattern = tiny_shards(tmp_path / "in", 1, 4)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "reddiff_pl", "restore", *TINY, "--data.shards", pattern, "--out", out]
    process = subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE)
    wait_until(lambda: catches(process.pid, signal.SIGUSR2))
    time.sleep(seconds)
    process.send_signal(signal.SIGUSR2)
    process.communicate(timeout=900)
    assert process.returncode == 85
    assert not list(out.rglob("*.tar*")), "no work was begun"


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(mask >> (number - 1) & 1)


def test_the_launcher_passes_signals_on(tmp_path):
    pattern = tiny_shards(tmp_path / "in", 2, 30)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "reddiff_pl", "restore", *TINY, "--trainer.devices=2"]
    command += ["--model.sampler.init_args.steps=300", "--data.shards", pattern, "--out", out]
    process = subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE)
    wait_until(lambda: written(out) > 0)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=900)
    assert process.returncode == 85
    assert not list((out / "accounts").glob("*.json"))


def test_a_stop_does_not_change_the_result(tasks, tmp_path):
    pattern = tiny_shards(tmp_path / "in", 1, 20)
    command = ["restore", *TINY, "--model.sampler.init_args.steps=100", "--data.shards", pattern]
    assert tasks.run(*command, "--out", tmp_path / "calm") == 0
    out = tmp_path / "out"
    for _ in range(50):
        pid = tasks.start(*command, "--out", out)
        before = written(out)
        wait_until(lambda: written(out) != before or (out / "accounts" / "000000.json").exists())  # noqa: B023
        if os.path.exists(out / "accounts" / "000000.json"):
            tasks.wait(pid)
            break
        tasks.kill(pid, signal.SIGUSR2)
        tasks.wait(pid)
    assert tars(out) == tars(tmp_path / "calm")
