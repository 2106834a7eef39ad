"""`--trainer.devices N`: N independent processes with one device each. No torch.

Lightning would make them one process group with a rendezvous, where the end of one is the end of all. Tasks need
nothing of each other: each has its rank and world, and the locks decide.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from reddiff_pl import stop
from reddiff_pl.devices.cores import share
from reddiff_pl.errors import ConfigError
from reddiff_pl.exit_codes import joint
from reddiff_pl.import_path import python_command
from reddiff_pl.shards.placement import place

_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


def option(argv: Sequence[str], name: str) -> Any:
    """The value of an option as the command line and its --config files give it, the last one wins; or None."""
    value = None
    items = iter(argv)
    for item in items:
        flag, _, given = item.partition("=")
        if flag in ("--config", "-c", f"--{name}"):
            given = given or next(items, "")
            if flag == f"--{name}":
                value = _parsed(given)
            elif (found := _in_file(given, name)) is not None:
                value = found
    return value


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _in_file(path: str, name: str) -> Any:
    try:
        node = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # the real parser will say so
    for key in name.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def devices(value: Any) -> list[str] | None:
    """What each process gets: indices of GPUs, or empty strings where there is none. None: a single process.

    Args:
        value: `trainer.devices`: a number, a list of indices, "auto" or -1 for all GPUs.

    Raises:
        ConfigError: it is none of these.
    """
    if value in (None, 1, "1"):
        return None
    visible = _visible_gpus()
    if value in ("auto", -1, "-1"):
        return visible if len(visible) > 1 else None
    if isinstance(value, str) and all(part.strip().isdigit() for part in value.split(",")):
        value = [int(part) for part in value.split(",")]
        value = value[0] if len(value) == 1 else value
    if isinstance(value, int) and value > 1:
        if visible and value > len(visible):
            raise ConfigError(f"--trainer.devices: {value} asked for, {len(visible)} there")
        return visible[:value] if visible else [""] * value
    if (
        isinstance(value, list)
        and value
        and all(isinstance(i, int) and (not visible or 0 <= i < len(visible)) for i in value)
    ):
        return [visible[i] for i in value] if visible else [""] * len(value)
    raise ConfigError(f"--trainer.devices: must be a number, a list of GPU indices or auto, got {value}")


def _visible_gpus() -> list[str]:
    if (listed := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu for gpu in listed.split(",") if gpu.strip()]
    try:
        lines = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(i) for i, line in enumerate(lines) if line.startswith("GPU")]


def launch(command: str, argv: list[str], gpus: Sequence[str]) -> int:
    """Run a command in one process a device; returns their joint exit code.

    Each gets its share of the CPU cores, unless OMP_NUM_THREADS is set.
    Signals are passed on. A process that dies leaves the others working, and one more finishes what it left.
    """
    rank, world = place(option(argv, "rank"), option(argv, "world"))
    threads = share(len(gpus))
    children = [
        _start(command, argv, gpu, rank * len(gpus) + i, world * len(gpus), threads)
        for i, gpu in enumerate(gpus)
    ]

    def forward(number: int, frame: FrameType | None) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    for number in _SIGNALS:
        signal.signal(number, forward)
    if stop.requested():  # it came before there was anyone to pass it on to
        forward(stop.first(), None)
    codes = [child.wait() for child in children]
    dead = [i for i, code in enumerate(codes) if code < 0 or code == 1]
    if dead and not any(code in (2, 4, stop.REQUEUE_ME, 143, 130) for code in codes):
        first = dead[0]
        print(
            f"reddiff {command}: {len(dead)} of {len(codes)} processes died; one more finishes their shards",
            file=sys.stderr,
        )
        last = _start(command, argv, gpus[first], rank * len(gpus) + first, world * len(gpus), threads)
        children.append(last)
        code = last.wait()
        codes = [code if i in dead else c for i, c in enumerate(codes)]
    return joint(codes)


def _start(
    command: str, argv: list[str], gpu: str, rank: int, world: int, threads: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    options = ["--trainer.devices=1", f"--rank={rank}", f"--world={world}"]
    env = {**os.environ, **threads, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}
    # in a session of its own: Ctrl-C reaches the parent alone, which passes it on once
    return subprocess.Popen([*python_command(), command, *argv, *options], env=env, start_new_session=True)
