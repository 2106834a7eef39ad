"""`reddiff compare RUN RUN ...`: runs on the same images, beside each other."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reddiff_pl.errors import ConfigError
from reddiff_pl.evaluation import tables
from reddiff_pl.evaluation.grid import Key, Source, draw
from reddiff_pl.evaluation.patches import PATCHES
from reddiff_pl.evaluation.records import features_path
from reddiff_pl.evaluation.resampling import drawn
from reddiff_pl.evaluation.sets import PhotoPatches
from reddiff_pl.evaluation.statistics import Interval, interval
from reddiff_pl.files import write_atomically
from reddiff_pl.options.evaluate import parse_compare
from reddiff_pl.shards.layout import Run


@dataclass
class Evaluated:
    """A run that `reddiff evaluate` has been through.

    Attributes:
        name: what it is called in tables.
        out: its directory.
        rows: {(shard, key): {metric: value}}; null where there is none.
        summary: its summary.json.
    """

    name: str
    out: str
    rows: dict[Key, dict[str, float | None]]
    summary: dict[str, Any]

    def source(self) -> Source:
        """What the picture needs of it."""
        return Source(self.name, self.out, {key: row.get("psnr") for key, row in self.rows.items()})


def compare(argv: list[str]) -> int:
    """Compare runs on the images they share: a table, paired differences to the first run, a picture.

    Raises:
        ConfigError: a bad option, a run that is not evaluated, no image in common.
    """
    options = parse_compare(argv)
    runs = [_read(spec) for spec in options.runs]
    if len({run.name for run in runs}) < len(runs):
        raise ConfigError(
            f"RUN: {', '.join(run.name for run in runs)}: give them names of their own: NAME=directory"
        )
    keys, notes = _common(runs)
    result = _compare(runs, keys, options.seed)
    result["notes"] = notes + result["notes"]
    wanted = keys
    if options.keys is not None:
        names = options.keys.split(",")
        wanted = [key for name in names for key in keys if key[1] == name]
        if lacking := [name for name in names if name not in {key for _, key in wanted}]:
            raise ConfigError(f"--keys: {lacking[0]}: the runs have no such image in common")
    elif len(keys) > options.images:
        wanted = [keys[round(i)] for i in np.linspace(0, len(keys) - 1, options.images)]
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    draw(out / "grid.png", [run.source() for run in runs], wanted, options.inputs)
    _write(out, result)
    return 0


def _read(spec: str) -> Evaluated:
    name, _, out = (
        spec.rpartition("=") if re.match(r"[^=/]+=", spec) else (Path(spec).resolve().name, "", spec)
    )
    run = Run(out)
    try:
        summary = json.loads(run.summary.read_bytes())
        import pyarrow.parquet as parquet

        columns = parquet.read_table(run.metrics).to_pydict()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{out}: not evaluated; run: reddiff evaluate {out}") from error
    shards, keys = columns.pop("shard"), columns.pop("key")
    # what a classifier makes of the references and of A_dagger(y) is the same for every run
    shown = {
        k: v
        for k, v in columns.items()
        if not re.match(r"label$|prediction-|(niqe|top.*)-(reference|start)$", k)
    }
    rows = {
        (shard, key): {metric: values[i] for metric, values in shown.items()}
        for i, (shard, key) in enumerate(zip(shards, keys, strict=True))
    }
    return Evaluated(name, out, rows, summary)


def _common(runs: Sequence[Evaluated]) -> tuple[list[Key], list[str]]:
    """The images that all runs have, in the first one's order; and what is to be said of the others."""
    keys = [key for key in runs[0].rows if all(key in run.rows for run in runs)]
    if not keys:
        raise ConfigError("RUN: the runs have no image in common (shard and key)")
    return keys, [
        f"{run.name} has {len(run.rows) - len(keys):,} images that others lack; only the {len(keys):,} in common count"
        for run in runs
        if len(run.rows) > len(keys)
    ]


def _compare(runs: Sequence[Evaluated], keys: Sequence[Key], seed: int) -> dict[str, Any]:
    """Means over the common images, and paired differences to the first run."""
    means: dict[str, dict[str, Any]] = {run.name: {} for run in runs}
    differences: dict[str, dict[str, Any]] = {run.name: {} for run in runs[1:]}
    notes = []
    there = {m for run in runs for row in run.rows.values() for m, value in row.items() if value is not None}
    for metric in sorted(there, key=tables.order):
        values = np.array([[run.rows[key].get(metric) for key in keys] for run in runs], dtype=np.float64)
        values = values[:, np.isfinite(values).all(0)]
        n = values.shape[1]
        if n == 0:
            notes.append(f"{metric} is left out: the runs have it for no image in common")
            continue
        if n < len(keys) and not metric.startswith(("top1", "top5")):
            notes.append(f"{tables.metric(metric).label}: over the {n:,} images for which all runs have it")
        for run, one in zip(runs, values, strict=True):
            ends = interval(one, metric, seed, metric.startswith(("top1", "top5")))
            means[run.name][metric] = _entry(ends)
        for run, one in zip(runs[1:], values[1:], strict=True):
            differences[run.name][metric] = _entry(interval(one - values[0], metric, seed))
    whole = all(len(run.rows) == len(keys) for run in runs)
    for metric in _set_metrics(runs):
        if not whole:
            notes.append(f"{tables.metric(metric).label} is left out: the runs do not have the same images")
            continue
        for run in runs:
            means[run.name][metric] = run.summary["metrics"][metric]
    if whole and "patch-fd" in means[runs[0].name]:
        for run in runs[1:]:
            if (patches := _patch_difference(runs[0], run, seed)) is not None:
                differences[run.name]["patch-fd"] = _entry(patches)
    return {
        "runs": {run.name: run.out for run in runs},
        "images": len(keys),
        "means": means,
        "differences": differences,
        "notes": notes,
    }


def _patch_difference(first: Evaluated, other: Evaluated, seed: int) -> Interval | None:
    """Patch FD of a run less that of the first, the same photos drawn for both; None where features are gone."""
    pair = []
    for run in (first, other):
        shards = sorted({shard for shard, _ in run.rows})
        paths = [path for name in shards if (path := features_path(Run(run.out), name)).is_file()]
        pair.append(PhotoPatches.read(paths, seed))
    one, two = pair
    if one is None or two is None or len(one) != len(two):
        return None
    whole = torch.ones(1, len(one), dtype=torch.float64)
    value = (two.frechet(whole, whole) - one.frechet(whole, whole)).item()
    weights = drawn(len(one), "patch-fd", seed)
    draws = two.frechet(weights, weights) - one.frechet(weights, weights)
    low, high = (draws - draws.mean() + value).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return Interval(len(one), value, low, high, "bootstrap")


def _set_metrics(runs: Sequence[Evaluated]) -> list[str]:
    """Distances between sets that all runs have from the same network."""
    found = [m for m, entry in runs[0].summary["metrics"].items() if "value" in entry]
    family = {m: _family(m) for m in found}
    return [
        m
        for m in found
        if all(m in run.summary["metrics"] for run in runs)
        and len({run.summary["families"].get(family[m]) for run in runs}) == 1
    ]


def _family(metric: str) -> str:
    kind, _, rest = metric.partition("-")
    return PATCHES if kind == "patch" else "net:inception" if metric in ("fid", "kid") else f"net:{rest}"


def _entry(ends: Any) -> dict[str, Any]:
    low, high = (None, None) if ends.low != ends.low else (ends.low, ends.high)
    return {"n": ends.n, "mean": ends.mean, "low": low, "high": high, "interval": ends.method}


def tables_of(
    result: Mapping[str, Any],
) -> list[tuple[str, list[str], list[list[str]], list[tuple[int, int]]]]:
    """The tables of a comparison: (title, headings, rows, cells of the best run)."""
    names = list(result["means"])
    metrics = [
        m for m in sorted(next(iter(result["means"].values())), key=tables.order) if tables.metric(m).shown
    ]
    shown = [tables.metric(m) for m in metrics]
    numbers = [[tables.value_of(result["means"][name][m]) for m in metrics] for name in names]
    rows = [
        [name, *(s.text(v) for s, v in zip(shown, row, strict=True))]
        for name, row in zip(names, numbers, strict=True)
    ]
    best = []
    for j, one in enumerate(shown):
        column = [row[j] for row in numbers]
        top = one.best(v for v in column if v is not None)
        best += [(i, j + 1) for i, v in enumerate(column) if v is not None and v == top]
    found = [(f"Means over {result['images']:,} images", ["run", *(s.heading() for s in shown)], rows, best)]
    paired = [m for m in metrics if all(m in entry for entry in result["differences"].values())]
    rows = [
        [f"{name} - {names[0]}", *(_difference(tables.metric(m), entry[m]) for m in paired)]
        for name, entry in result["differences"].items()
    ]
    title = "Differences image by image, with 95 % intervals"
    return [*found, (title, ["run", *(tables.metric(m).heading() for m in paired)], rows, [])]


def _difference(metric: tables.Metric, entry: Mapping[str, Any]) -> str:
    if entry["low"] is None:
        return metric.text(entry["mean"])
    return f"{metric.text(entry['mean'])} [{metric.text(entry['low'])}, {metric.text(entry['high'])}]"


def _write(out: Path, result: Mapping[str, Any]) -> None:
    """The tables on the terminal and as files."""
    found = tables_of(result)
    first = next(iter(result["means"].values()))
    notes = tables.legend({m: first[m] for m in sorted(first, key=tables.order)})
    notes += [f"note: {note}" for note in result["notes"]]
    for title, head, rows, _ in found:
        print(f"{title}\n{tables.plain(head, rows)}")
    print("\n".join([*notes, f"look at {out / 'grid.png'}"]))
    text = "\n".join(f"{title}\n\n{tables.markdown(head, rows)}" for title, head, rows, _ in found)
    write_atomically(out / "comparison.md", "\n".join([text, *(f"- {note}" for note in notes), ""]).encode())
    text = "\n".join(f"% {title}\n{tables.tex(head, rows, best)}" for title, head, rows, best in found)
    write_atomically(out / "comparison.tex", text.encode())
    write_atomically(out / "comparison.json", json.dumps(result, indent=1, allow_nan=False).encode() + b"\n")
