"""Sidecars: what became of each shard. No torch, no webdataset."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reddiff_pl.files import sha256
from reddiff_pl.shards.layout import Run


def sidecar_path(run: Run, name: str) -> Path:
    """Where a shard's sidecar is: beside its tar where an earlier version finished it."""
    path, older = run.sidecar(name), run.older_sidecar(name)
    return older if not os.path.exists(path) and os.path.exists(older) else path


def read_sidecar(run: Run, name: str) -> dict[str, Any] | None:
    """A committed shard's sidecar; None when it is not there, damaged, or not that of the tar beside it.

    The tar is synced before its sidecar is written. One that is newer was replaced afterwards (by a crash between
    the two, or by hand), and only then is its hash worth reading it.
    """
    path, tar = sidecar_path(run, name), run.tar(name)
    try:
        sidecar = json.loads(path.read_text())
        committed, found = path.stat(), tar.stat()
        if found.st_size != sidecar["tar_bytes"]:
            return None
        _check(sidecar)
        if found.st_mtime_ns > committed.st_mtime_ns and sha256(tar) != sidecar["tar_sha256"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return sidecar


def _check(sidecar: dict[str, Any]) -> None:
    """Raise where a sidecar cannot be added up."""
    complete, restored = sidecar["complete"], sidecar["restored"]
    if not (isinstance(complete, bool) and isinstance(restored, int)):
        raise TypeError
    for failure in sidecar["failed"]:
        if not isinstance(failure["index"], int) or not isinstance(failure["reason"], str):
            raise TypeError
    for value, count in sidecar["metrics"].values():
        value + count


def finished(run: Run, name: str) -> dict[str, Any] | None:
    """The sidecar of a shard in which nothing is left to do. One cut short by --limit is not finished."""
    sidecar = read_sidecar(run, name)
    return sidecar if sidecar is not None and sidecar.get("complete") else None


@dataclass
class Sums:
    """Metric sums that add up over samples and shards: {name: [sum, count]}."""

    metrics: dict[str, list[float]] = field(default_factory=dict)

    def add(self, values: Mapping[str, float | None]) -> None:
        """Count one sample's metrics; a null (an infinite PSNR) is left out."""
        for name, value in values.items():
            if value is not None:
                total = self.metrics.setdefault(name, [0.0, 0])
                total[0] += value
                total[1] += 1

    def means(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self.metrics.items() if count}


@dataclass
class Totals:
    """What became of a set of shards."""

    shards: int = 0
    restored: int = 0
    failed: int = 0
    unfinished: int = 0
    far: int = 0  # whose misfit stands far from the noise level
    sums: Sums = field(default_factory=Sums)
    not_looked_at: Counter[str] = field(default_factory=Counter)

    def line(self, done: str = "restored") -> str:
        means = ", ".join(f"{name} {value:.4g}" for name, value in sorted(self.sums.means().items()))
        text = f"{self.restored} {done}, {self.failed} failed, {self.shards} shards"
        return f"{text}; mean {means}" if means else text


def total(run: Run, names: Iterable[str]) -> Totals:
    """Add up the sidecars of some shards."""
    totals = Totals()
    for name in names:
        sidecar = read_sidecar(run, name)
        if sidecar is None:
            totals.unfinished += 1
            continue
        totals.shards += 1
        totals.restored += sidecar["restored"]
        totals.failed += len(sidecar["failed"])
        totals.far += number if isinstance(number := sidecar.get("misfit_far"), int) else 0
        passed = sidecar.get("not_looked_at")
        for kind, count in passed.items() if isinstance(passed, dict) else ():
            totals.not_looked_at[kind] += count if isinstance(count, int) else 0
        for metric, (value, count) in sidecar["metrics"].items():
            entry = totals.sums.metrics.setdefault(metric, [0.0, 0])
            entry[0] += value
            entry[1] += count
    return totals
