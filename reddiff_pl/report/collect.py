"""What a run's files say of it, for the report: state, settings, versions, speed, failures, warnings.

All of it may come from strangers: config.yaml is read as plain data, texts are shortened and lose what does not print.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from reddiff_pl.errors import ConfigError
from reddiff_pl.evaluation.pairs import Results
from reddiff_pl.report.settings import clean, config_text, lookup, number, settings
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.metadata import FAR_LINE, far_line
from reddiff_pl.shards.survey import planned_shards, survey

FAILED_SHOWN = 500
TASKS_SHOWN = 100
WARNINGS_SHOWN = 30
LOG_BYTES = 1 << 18  # read from the end of each log
LOGS_READ = 256


@dataclass(frozen=True)
class Stretch:
    """The last attempt at one finished shard.

    Attributes:
        task: who did it.
        start, end: unix time.
        images: restored in it; what an earlier attempt restored is left out.
        failed: failed samples of the shard.
        attempts: how often the shard was taken up.
    """

    task: str
    host: str
    shard: str
    start: float
    end: float
    images: int
    failed: int
    attempts: int


@dataclass
class Task:
    """A row of the table of tasks; seconds are those in which it worked on finished shards."""

    name: str
    hosts: list[str] = field(default_factory=list)
    shards: int = 0
    images: int = 0
    failed: int = 0
    again: int = 0
    seconds: float = 0.0


@dataclass
class Facts:
    """A run in numbers and lines.

    Attributes:
        title: name of the output directory.
        survey: as `shards.survey.survey` gives it.
        planned: whether the inputs, and so the number of shards, are known.
        stretches: work done, by start.
        failed: (shard, key, reason), at most `FAILED_SHOWN`.
        settings: (name, value), the main ones.
        provenance: (name, values) such as versions, devices, commits; several where tasks differ.
        config: text of config.yaml.
        warnings: lines of the logs that are no sample's failure.
    """

    title: str
    survey: dict[str, Any]
    planned: bool
    stretches: list[Stretch]
    failed: list[tuple[str, str, str]]
    settings: list[tuple[str, str]]
    provenance: list[tuple[str, list[str]]]
    config: str
    warnings: list[str]

    @property
    def tasks(self) -> list[Task]:
        """Work by task, in the order of their names; of more than `TASKS_SHOWN` the busiest."""
        tasks: dict[str, Task] = {}
        for one in self.stretches:
            task = tasks.setdefault(one.task, Task(one.task))
            if one.host not in task.hosts:
                task.hosts.append(one.host)
            task.shards += 1
            task.images += one.images
            task.failed += one.failed
            task.again += one.attempts > 1
            task.seconds += one.end - one.start
        busiest = sorted(tasks.values(), key=lambda task: -task.seconds)[:TASKS_SHOWN]
        return sorted(busiest, key=lambda task: [part.zfill(9) for part in re.split(r"(\d+)", task.name)])

    @property
    def workers(self) -> int:
        """The number of tasks."""
        return len({one.task for one in self.stretches})

    @property
    def busy(self) -> float:
        """Seconds in which any task worked on a shard that is finished."""
        seconds, covered = 0.0, -math.inf
        for one in self.stretches:
            seconds += max(one.end - max(one.start, covered), 0.0)
            covered = max(covered, one.end)
        return seconds

    @property
    def rate(self) -> float | None:
        """Images per second of all tasks together, while any of them worked."""
        images = sum(one.images for one in self.stretches)
        return images / self.busy if images and self.busy else None


def collect(results: Results) -> Facts:
    """Read all but the images.

    Raises:
        ConfigError: there is no run.
    """
    run = results.run
    planned: dict[str, int] | None = None
    with contextlib.suppress(ConfigError):
        if "pipe:" not in str(lookup(results.config, "data", "shards")):  # nothing in OUT runs a command
            planned = planned_shards(run)
    done_by, warnings = _read_logs(run)
    stretches: list[Stretch] = []
    said: dict[str, dict[str, None]] = {}
    for name, sidecar in results.sidecars.items():
        if sidecar is None:
            continue
        for label, value in _provenance(sidecar):
            said.setdefault(label, {})[clean(value, 300)] = None
        if stretch := _stretch(name, sidecar, done_by.get(name)):
            stretches.append(stretch)
    accounts = [sidecar for sidecar in results.sidecars.values() if sidecar is not None]
    if far := sum(int(number(account.get("misfit_far")) or 0) for account in accounts):
        restored = sum(account["restored"] for account in accounts)
        warnings = [far_line(far, restored), *(line for line in warnings if FAR_LINE not in line)]
    failed = islice(results.failures(), FAILED_SHOWN)
    return Facts(
        title=clean(run.out.resolve().name) or str(run.out),
        survey=survey(run, planned, {}),
        planned=planned is not None,
        stretches=sorted(stretches, key=lambda one: (one.start, one.end)),
        failed=[(clean(shard), clean(key or "-"), clean(reason, 400)) for shard, key, reason in failed],
        settings=settings(results.config),
        provenance=[(label, list(values)[:8]) for label, values in said.items()],
        config=config_text(run.config),
        warnings=warnings,
    )


def _stretch(name: str, sidecar: Mapping[str, Any], task: int | None) -> Stretch | None:
    end, seconds = number(sidecar.get("finished")), number(sidecar.get("seconds"))
    if end is None or not seconds or seconds < 0:
        return None
    attempts = int(number(sidecar.get("attempts")) or 1)
    restored = sidecar["restored"]
    resumed = number(sidecar.get("resumed")) or 0
    host = clean(sidecar.get("host") or "unknown host", 60)
    said = number(sidecar.get("task"))
    rank = int(said) if said is not None else task
    return Stretch(
        task=host if rank is None else f"task {rank}",
        host=host,
        shard=clean(name),
        start=end - seconds,
        end=end,
        images=max(restored - int(resumed), 0),
        failed=len(sidecar["failed"]),
        attempts=attempts,
    )


def _provenance(sidecar: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    if sidecar.get("device"):
        yield "device", sidecar["device"]
    versions = sidecar.get("versions")
    if isinstance(versions, Mapping):
        yield (
            "versions",
            ", ".join(
                f"{clean(name, 40)} {clean(value, 60)}" for name, value in islice(versions.items(), 12)
            ),
        )
    if sidecar.get("prior_sha256"):
        yield "prior sha256", str(sidecar["prior_sha256"])[:16]


def _read_logs(run: Run) -> tuple[dict[str, int], list[str]]:
    """Which task finished each shard, as its log says, and what else went wrong."""
    done_by: dict[str, int] = {}
    warnings: dict[str, None] = {}
    for path in islice(sorted((run.out / "logs").glob("task-*.log")), LOGS_READ):
        task = re.fullmatch(r"task-(\d+)", path.stem)
        if task is None:
            continue
        for line in _tail(path).splitlines():
            if done := re.fullmatch(r"\S+ \S+ INFO shard (.+): finished, \d+ samples", line):
                done_by[done[1]] = int(task[1])
            # a sample's failure is listed with the others
            elif re.match(r"\S+ \S+ (WARNING|ERROR) (?!shard .+, key )", line):
                warnings[f"task {int(task[1])}: {clean(line, 400)}"] = None
    return done_by, list(warnings)[:WARNINGS_SHOWN]


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - LOG_BYTES, 0))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
