"""Tasks as processes of their own, to be killed, stopped and started again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from helpers import CONFIGS, png, read_json, restored_keys, write_shard

TINY = [
    *("--config", str(CONFIGS / "priors" / "gaussian.yaml")),
    *("--config", str(CONFIGS / "tasks" / "inpainting_random.yaml")),
    *("--model.prior.init_args.shape", "[3,16,16]", "--data.batch_size=4", "--trainer.accelerator=cpu"),
]


class Zygote:
    """The process that has imported everything and forks the tasks."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def ask(self, message: object) -> int:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Tasks:
    """Starts tasks, and knows how they ended."""

    def __init__(self, zygote: Zygote, folder: Path) -> None:
        self.folder = folder
        self._ask = zygote.ask
        self._alive: set[int] = set()

    def start(self, *argv: object) -> int:
        """Start `reddiff argv...`; returns its process id. What it prints goes to `printed`."""
        pid = self._ask([str(self.folder), *map(str, argv)])
        self._alive.add(pid)
        return pid

    def wait(self, pid: int) -> int:
        """Its exit code; negative for a signal."""
        self._alive.discard(pid)
        return self._ask(pid)

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        os.kill(pid, number)

    def run(self, *argv: object) -> int:
        return self.wait(self.start(*argv))

    def computed(self) -> int:
        """Images that a CountingREDDiff has begun to restore, in all tasks."""
        return sum(map(int, (self.folder / "count").read_text().split()))

    @property
    def printed(self) -> Path:
        return self.folder / "printed.log"

    def close(self) -> None:
        for pid in list(self._alive):
            os.kill(pid, signal.SIGKILL)  # not yet waited for, so it is still this one's
            self.wait(pid)


def tiny_shards(folder: Path, shards: int, samples: int) -> Path:
    """Shards of 16x16 images; returns their pattern."""
    generator = np.random.default_rng(0)
    for i in range(shards):
        images = [
            (f"s{i}-{j:03d}", {"png": png(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8))})
            for j in range(samples)
        ]
        write_shard(folder / f"{i:06d}.tar", images)
    return folder / "*.tar"


def written(out: Path) -> int:
    """Bytes written so far."""
    total = 0
    for path in (out / "shards").glob("*.tar*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            total += path.stat().st_size
    return total


def alive(pid: int) -> bool:
    """Whether a task still runs; one that has ended stays as a zombie until it is waited for."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


def assert_everything_once(out: Path, shards: int, samples: int) -> None:
    """Every key of `tiny_shards` exactly once, in order, and nothing left behind."""
    keys = [key for i in range(shards) for key in restored_keys(out / "shards" / f"{i:06d}.tar")]
    assert keys == [f"s{i}-{j:03d}" for i in range(shards) for j in range(samples)]
    assert max(Counter(keys).values()) == 1
    for i in range(shards):
        sidecar = read_json(out / "accounts" / f"{i:06d}.json")
        assert sidecar["complete"] and sidecar["restored"] == samples and not sidecar["failed"]
    left = [path.name for path in (out / "shards").iterdir() if path.suffix != ".tar"]
    assert not left


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "shards").glob("*.tar"))}
