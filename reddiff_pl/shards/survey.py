"""What the files of a run say of it: shards by state, samples, failures by kind, images/s. No torch."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reddiff_pl.errors import ConfigError
from reddiff_pl.files import plain_yaml
from reddiff_pl.shards.failures import Kinds, add_kind, count_failure
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import Sums, read_sidecar
from reddiff_pl.shards.plan import plan
from reddiff_pl.shards.progress import count_samples, images_per_second, lock_state

STALE = 900.0  # seconds without a sample after which a running shard looks stale
HEADERS = 200_000  # tar headers read at most; samples beyond are estimated from the size


def survey(
    run: Run, planned: Mapping[str, int] | None, accounts: dict[tuple[str, int], dict[str, Any]]
) -> dict[str, Any]:
    """All that the files say now, as one object for JSON.

    Args:
        run: the run's paths.
        planned: {shard: its number of images, 0 where not known}; None where the inputs are not known.
        accounts: what earlier calls read of the sidecars, by shard and inode; filled in.

    Raises:
        ConfigError: there is no run.
    """
    now = time.time()
    files, accounts_there = _files(run, run.shards), _files(run, run.accounts)
    suffixes = re.compile(r"(.+?)(\.tar\.partial|\.tar|\.lock)")
    known = {match[1] for file in files if (match := suffixes.fullmatch(file))}
    sidecars = {  # those of earlier versions lie beside the tars
        name.removesuffix(".json"): inode
        for name, inode in (files | accounts_there).items()
        if name.endswith(".json")
    }
    names = sorted(known.union(sidecars, planned or ()))
    extra = {*known, *sidecars}.difference(planned) if planned is not None else ()

    finished: dict[str, dict[str, Any]] = {}
    damaged, taken = [], []
    for name in names:
        if inode := sidecars.get(name):
            # a sidecar is replaced, never written over: another one is another inode
            account = accounts.get((name, inode)) or _account(run, name)
            if account is not None:
                finished[name] = accounts[name, inode] = account
                continue
            damaged.append({"name": name, "reason": _damage(run, name)})
        if f"{name}.lock" in files or f"{name}.tar.partial" in files:
            taken.append(name)
    working = {name: _work(run, name, now, HEADERS // len(taken)) for name in taken}
    for name in taken:
        if account := _account(run, name):  # it was finished meanwhile
            finished[name] = account
            del working[name]

    done = sum(account["complete"] for account in finished.values())
    running = [entry for entry in working.values() if entry["state"] == "running"]
    sums, kinds = Sums(), Kinds()
    for name, entry in (finished | working).items():
        for metric, (value, count) in entry.get("metrics", {}).items():
            total = sums.metrics.setdefault(metric, [0.0, 0])
            total[0] += value
            total[1] += count
        for kind, one in entry["kinds"].items():
            add_kind(kinds, kind, {**one, "shard": name})
    restored = sum(account["restored"] for account in finished.values())
    rate = images_per_second([entry["span"] for entry in (finished | working).values() if entry["span"]], now)
    eta = None
    if rate and running and (done or any((planned or {}).values())):
        mean = sum(a["restored"] for a in finished.values() if a["complete"]) / max(done, 1)
        left = [name for name in names if not finished.get(name, {}).get("complete")]
        sizes = {name: (planned or {}).get(name) or mean for name in left}
        there = {name: finished[name]["restored"] if name in finished else 0 for name in left}
        there |= {name: entry["samples"] for name, entry in working.items()}
        eta = sum(max(sizes[name] - there[name], 0) for name in left) / rate
    return {
        "out": str(run.out),
        "time": now,
        "complete": 0 < len(names) == done,
        "notes": [f"not among the inputs of config.yaml: {len(extra):,} of the shards in OUT"]
        if extra
        else [],
        "shards": {
            "total": len(names),
            "done": done,
            "running": len(running),
            "left_behind": len(working) - len(running),
            "pending": len(names) - done - len(working),  # those that --limit cut short among them
            "cut_by_limit": len(finished) - done,
        },
        "samples": {
            "restored": restored,
            "in_progress": sum(entry["samples"] for entry in working.values()),
            "failed": sum(one["count"] for one in kinds.values()),
        },
        "failures": sorted(
            ({"reason": kind, **one} for kind, one in kinds.items()), key=lambda e: -e["count"]
        ),
        "metrics": sums.means(),
        "peak_memory_gib": max((a["memory"] for a in finished.values() if a["memory"]), default=None),
        "images_per_second": rate,
        "eta_seconds": eta,
        "working": [
            {"name": name} | {key: entry[key] for key in entry if key not in ("kinds", "span")}
            for name, entry in working.items()
        ],
        "damaged": damaged,
    }


def planned_shards(run: Run) -> dict[str, int]:
    """The shards of config.yaml's inputs, and how many images each has, where that is known.

    Raises:
        ConfigError: there is no config.yaml, or its inputs are not there.
    """
    try:
        data = plain_yaml(run.config.read_bytes())["data"]
        named = {name: data.get(name) for name in ("shards", "images", "measured", "params")}
        shards = plan(**named, out=run.out)
    except OSError as error:
        raise ConfigError(f"{error.filename or run.config}: {error.strerror}") from error
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{run.config} cannot be read") from error
    return {shard.name: len(shard.images or ()) for shard in shards}


def _files(run: Run, folder: Path) -> dict[str, int]:
    """All files under a folder of OUT, {path relative to it: inode}: directories are read, no file is looked at."""

    def walk(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from walk(entry.path, f"{prefix}{entry.name}/")
                else:
                    yield prefix + entry.name, entry.inode()

    try:
        if folder.is_dir():
            return dict(walk(str(folder), ""))
        if run.config.is_file() or run.shards.is_dir():
            return {}
        raise ConfigError(f"OUT: {run.out} is not the output directory of a run")
    except OSError as error:
        raise ConfigError(f"OUT: {error.filename} cannot be read: {error.strerror}") from error


def _damage(run: Run, name: str) -> str:
    if read_sidecar(run, name) is not None:
        return "its sidecar is not as it was written: remove it, and the next run takes the shard up again"
    what = "cannot be read or is not of this tar" if run.tar(name).exists() else "has no tar"
    return f"its sidecar {what}: the next run takes the shard up again"


def _account(run: Run, name: str) -> dict[str, Any] | None:
    """What is kept of a sidecar, in a size that does not depend on its samples; None when it is not there or bad."""
    sidecar = read_sidecar(run, name)
    if sidecar is None:
        return None
    kinds: Kinds = {}
    try:
        restored = int(sidecar["restored"])
        for failure in sidecar["failed"]:
            count_failure(kinds, failure)
        metrics = {
            metric: (float(value), int(count)) for metric, (value, count) in sidecar["metrics"].items()
        }
        # a resumed shard was not all restored in its last `seconds`
        resumed = sidecar.get("resumed", 0 if sidecar.get("attempts") == 1 else restored)
        end, seconds = _number(sidecar.get("finished")), _number(sidecar.get("seconds"))
        span = (end - seconds, end, restored - int(resumed)) if end and seconds else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if not all(math.isfinite(value) for value, _ in metrics.values()):
        return None
    complete = bool(sidecar.get("complete"))
    memory = _number(sidecar.get("peak_memory_gib"))  # of the device; None on a CPU
    return {
        "complete": complete,
        "restored": restored,
        "metrics": metrics,
        "kinds": kinds,
        "span": span,
        "memory": memory,
    }


def _work(run: Run, name: str, now: float, most: int) -> dict[str, Any]:
    """A shard that is being written, or was left by a task that ended."""
    held, line, attempts = lock_state(run.lock(name))
    try:
        samples, exact, last = count_samples(run.partial(name), most)
    except OSError:
        samples, exact, last = 0, True, None
    kinds: Kinds = {}
    with contextlib.suppress(OSError), open(run.failed(name), "rb") as file:
        for entry in file:
            # the last line may be cut
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                count_failure(kinds, json.loads(entry))
    taken, before = _number(line.get("time")), _number(line.get("done"))
    times = [moment for moment in (taken, last) if moment is not None]
    age = max(now - max(times), 0.0) if times else None
    if held is None:  # no answer: fresh samples show that somebody is at work
        held = age is not None and age < STALE
    state = "running" if held else "left behind"
    fresh = samples - int(before) if before is not None else 0
    return {
        "state": state,
        **{key: line.get(key) for key in ("host", "pid", "task")},
        "attempts": attempts,
        "samples": samples,
        "exact": exact,
        "seconds_since_sample": age,
        "stale": state == "running" and age is not None and age > STALE,
        "kinds": kinds,
        "span": (taken, now, fresh) if state == "running" and taken is not None else None,
    }


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None
