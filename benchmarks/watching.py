"""What the processes of a command use while they run, from /proc."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tasks_of(pid: int) -> dict[int, int]:
    """The tasks that a launching process has, {rank: pid}; a command with one task is its own.

    A launcher names its children's ranks on their command lines.
    """
    found = {}
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return {}
    for child in map(int, children):
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if rank := re.search(r"--rank=(\d+)", line):
            found[int(rank.group(1))] = child
    return found or {0: pid}


class Usage:
    """CPU time and memory of each task over time.

    Args:
        pid: the launching process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.samples: dict[int, list[tuple[float, float]]] = {}
        self._rss = 0

    def watch(self, running: Callable[[], bool], every: float = 0.5) -> None:
        """Look until the command has ended."""
        while running():
            for rank, pid in tasks_of(self.pid).items():
                try:
                    # behind the name, which may hold spaces: utime and stime are the 14th and 15th fields
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                seconds = (int(fields[11]) + int(fields[12])) / _TICKS
                self._rss = max(self._rss, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))
                self.samples.setdefault(rank, []).append((time.time(), seconds))
            time.sleep(every)

    def cores(self, rank: int, begin: float, end: float) -> float | None:
        """CPU seconds a second of a task between two times; None where it was not looked at twice."""
        inside = [sample for sample in self.samples.get(rank, []) if begin <= sample[0] <= end]
        if len(inside) < 2:
            return None
        (t0, cpu0), (t1, cpu1) = inside[0], inside[-1]
        return (cpu1 - cpu0) / (t1 - t0)

    def largest_rss(self) -> float:
        """The largest resident memory of a task, GiB."""
        return self._rss / 2**30
