"""How many CPU cores a process may use. No torch, which reads OMP_NUM_THREADS when it is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_QUOTAS = ("cpu.max", "cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us")  # of control groups, version 2 and 1


def cores(env: Mapping[str, str] = os.environ) -> int:
    """Cores that this process is bound to, no more than its SLURM task or its container was given; at least 1.

    Two hardware threads of one core count once. Left to itself torch takes all cores that it sees: 64 threads share
    the 4 cores of a container.
    """
    counts = [_bound()]
    if (given := env.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        counts.append(int(given))
    for files in _QUOTAS:
        if (quota := _quota(files)) is not None:
            counts.append(quota)
    return max(min(counts), 1)


def share(children: int, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that give each of so many processes its share of the cores; none where the user has set them."""
    return {} if "OMP_NUM_THREADS" in env else {"OMP_NUM_THREADS": str(max(cores(env) // children, 1))}


def _bound() -> int:
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    return len({_siblings(cpu) for cpu in os.sched_getaffinity(0)})


def _siblings(cpu: int) -> str:
    """The hardware threads of a CPU's core."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _quota(files: str) -> int | None:
    """Cores that a control group allows, rounded up; None without a limit."""
    try:
        words = [word for file in files.split() for word in Path("/sys/fs/cgroup", file).read_text().split()]
        quota, period = int(words[0]), int(words[1])
    except (OSError, ValueError, IndexError):  # ValueError: "max"
        return None
    return -(-quota // period) if quota > 0 < period else None
