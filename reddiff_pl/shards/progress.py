"""How far a shard that is being written is, who writes it, and how fast a run goes. No torch."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reddiff_pl.shards.tar import BLOCK, RECORD

WINDOW = 600.0  # seconds that images/s looks back
SKEW = 60.0  # seconds that the clocks of two hosts may be apart


def lock_state(path: Path) -> tuple[bool | None, dict[str, Any], int]:
    """Whether a lock is held (None: cannot be said), the last line of its file, and its number of lines.

    Asks with F_GETLK, which takes nothing: a task that came by meanwhile would not get the shard. Closing the
    file drops the locks that this very process has on it.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False, {}, 0
    except OSError:
        return None, {}, 0
    held: bool | None = None
    with os.fdopen(fd, "rb") as file:
        with contextlib.suppress(OSError):
            request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # Linux's struct flock
            held = struct.unpack("h", fcntl.fcntl(fd, fcntl.F_GETLK, request)[:2])[0] != fcntl.F_UNLCK
        lines = file.read().splitlines()
    for text in reversed(lines):
        with contextlib.suppress(ValueError):  # a line that is just being written
            if isinstance(line := json.loads(text), dict):
                return held, line, len(lines)
    return held, {}, len(lines)


def count_samples(path: Path, most: int) -> tuple[int, bool, float]:
    """Whole samples in a shard that is being written: headers are read, contents are not.

    Args:
        path: the .partial.
        most: members looked at; beyond, the number is estimated from the size.

    Returns:
        samples, whether the number is exact, time of the last write.
    """
    with open(path, "rb", buffering=0) as file:
        stat = os.fstat(file.fileno())
        offset = end = samples = 0
        long_name = b""
        for _ in range(most):
            header = os.pread(file.fileno(), BLOCK, offset)
            try:
                size = int(header[124:135], 8)
            except ValueError:  # the end, or a cut header
                return samples, True, stat.st_mtime
            content, offset = offset + BLOCK, offset + BLOCK + size + -size % BLOCK
            if offset > stat.st_size:
                return samples, True, stat.st_mtime
            if header[156:157] == b"L":  # GNU: the next member's name, if longer than 100 bytes
                long_name = os.pread(file.fileno(), size, content)
                continue
            if (long_name or header[:100]).rstrip(b"\0").endswith(RECORD.encode()):
                samples, end = samples + 1, offset
            long_name = b""
    return round(samples * stat.st_size / end) if end else 0, False, stat.st_mtime


def images_per_second(spans: Iterable[tuple[float, float, int]], now: float) -> float | None:
    """Images of all tasks over the time in which any of them worked, within the last `WINDOW` seconds.

    Args:
        spans: (start, end, images) of each stretch of work, unix time.
        now: unix time.

    Returns:
        None when it cannot be said. What lies in the future (a clock was set back) does not count.
    """
    images, busy, covered = 0.0, 0.0, now - WINDOW
    for start, end, count in sorted(spans):
        end = min(end, now) if end <= now + SKEW else -math.inf
        if end <= max(start, now - WINDOW) or count < 0:
            continue
        images += count * (end - max(start, now - WINDOW)) / (end - start)
        busy += max(end - max(start, covered), 0.0)
        covered = max(end, covered)
    return images / busy if images and busy >= 1 else None
