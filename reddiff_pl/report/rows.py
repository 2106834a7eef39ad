"""The images of a run as rows of metrics, and which of them are shown."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reddiff_pl.evaluation import tables
from reddiff_pl.evaluation.pairs import Results
from reddiff_pl.report.settings import clean, number
from reddiff_pl.shards.metadata import METRICS

ROWS_READ = (
    200_000  # images whose metrics are read from the tars; beyond, whole shards drawn by their names' hash
)
SHARDS_SHOWN = 64  # shards that the pictures come from, beside those of the best, median and worst


@dataclass(frozen=True)
class Metric:
    """How a metric is shown. `better` is +1 where the best image has the most, -1 where it has the least."""

    name: str
    label: str
    unit: str = ""
    better: int = 0
    digits: int = 3
    hint: str = ""


def _metric(name: str) -> Metric:
    shown = tables.metric(name)
    label, _, unit = shown.label.partition(" [")
    # tables call no misfit the best, since it should be the noise's; images are ordered by it all the same
    better = -1 if name == "misfit" else {"higher": 1, "lower": -1}.get(shown.better, 0)
    digits = 4 if shown.digits is None else shown.digits
    hint = "; ".join(filter(None, (shown.direction, shown.about)))
    return Metric(name, clean(label, 60), clean(unit.rstrip("]"), 20), better, digits, hint)


@dataclass
class Rows:
    """Metrics of images.

    Attributes:
        shards: names of shards.
        shard: index into `shards`, one a row.
        keys: one a row.
        metrics: {name: one value a row}; nan where there is none, inf for the PSNR of an exact image.
        total: images in the run as far as known; more than the rows where they are a sample.
        source: the command that measured them, restore or evaluate.
    """

    shards: list[str]
    shard: NDArray[np.int64]
    keys: list[str]
    metrics: dict[str, NDArray[np.float64]]
    total: int
    source: str

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def shown(self) -> list[Metric]:
        """The metrics that any row has, the known ones first."""
        found = [name for name, values in self.metrics.items() if not np.isnan(values).all()]
        return [_metric(name) for name in sorted(found, key=tables.order) if tables.metric(name).shown]


def read_rows(results: Results, limit: int = ROWS_READ) -> Rows:
    """Metrics of a run's images, from metrics.parquet, or from the shards where `reddiff evaluate` did not run.

    Args:
        results: the run.
        limit: images after which no further shard is opened.
    """
    path = results.run.out / "metrics.parquet"
    if path.is_file():
        try:
            return _from_table(results, path)
        except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's own are ValueErrors
            results.notes.append(f"metrics.parquet cannot be used: {' '.join(str(error).split())[:200]}")
    return from_records(drawn(results.names), lambda name: _records(results, name), _total(results), limit)


def drawn(names: Iterable[str]) -> list[str]:
    """Names in an order that has nothing to do with them, the same every time: a beginning of it is a sample."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())


def from_records(
    names: Iterable[str],
    records: Callable[[str], Iterator[tuple[str, Mapping[str, Any]]]],
    total: int,
    limit: int,
) -> Rows:
    """Rows of whole shards, until there are `limit`.

    Args:
        names: shards in the order in which they are read.
        records: gives a shard's (key, .reddiff.json member).
        total: images in the run.
        limit: rows after which no further shard is read.
    """
    shards: list[str] = []
    shard: list[int] = []
    keys: list[str] = []
    columns: dict[str, list[float]] = {name: [] for name in (*METRICS, "misfit_ratio")}
    for name in names:
        if len(keys) >= limit:
            break
        for key, record in records(name):
            keys.append(key)
            shard.append(len(shards))
            for metric, column in columns.items():
                # what is infinite is null in JSON
                infinite = metric == "psnr" and metric in record and record[metric] is None
                value = np.inf if infinite else number(record.get(metric))
                column.append(np.nan if value is None else value)
        shards.append(name)
    metrics = {name: np.asarray(column, float) for name, column in columns.items()}
    return Rows(shards, np.asarray(shard, np.int64), keys, metrics, max(total, len(keys)), "restore")


def _records(results: Results, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        yield from results.records(name)
    except OSError as error:
        results.notes.append(f"shard {name} cannot be read: {error.strerror}")


def _total(results: Results) -> int:
    return sum(sidecar["restored"] for sidecar in results.sidecars.values() if sidecar is not None)


def _from_table(results: Results, path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    table = table.filter(pyarrow.compute.is_in(table["shard"], pa.array(results.names, pa.string())))
    places = table["shard"].combine_chunks().dictionary_encode()
    metrics = {
        # labels, classes and hits are integers: they have no histogram and no order
        name: table[name].to_numpy().astype(float)
        for name, kind in zip(table.schema.names, table.schema.types, strict=True)
        if pa.types.is_floating(kind)
    }
    if "psnr" in metrics and "ssim" in metrics:  # what is infinite is null in files
        metrics["psnr"][np.isnan(metrics["psnr"]) & ~np.isnan(metrics["ssim"])] = np.inf
    total, keys = _total(results), table["key"].to_pylist()
    if len(keys) < total:
        results.notes.append(
            f"metrics.parquet has {len(keys):,} of the {total:,} images: `reddiff evaluate` adds the others"
        )
    shard = places.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Rows(places.dictionary.to_pylist(), shard, keys, metrics, max(total, len(keys)), "evaluate")


@dataclass
class Choice:
    """Rows that are shown: the best first, the median around its middle, the worst first, and the sample of all."""

    best: list[int]
    median: list[int]
    worst: list[int]
    sample: list[int]


def choose(
    rows: Rows, metric: Metric | None, most: int, each: int = 3, shards_shown: int = SHARDS_SHOWN
) -> Choice:
    """Which images are shown.

    The sample is evenly spaced in the order of the metric, so that it has the distribution of all; it comes from
    few shards, because a picture costs reading its shard up to there.

    Args:
        rows: all images.
        metric: what they are ordered by; None: their place.
        most: images of the sample.
        each: images of best, median and worst; fewer where they would overlap.
        shards_shown: shards that the sample comes from.
    """
    values = rows.metrics[metric.name] if metric else np.arange(len(rows), dtype=float)
    sign = -1.0 if metric is not None and metric.better >= 0 else 1.0
    order = np.argsort(sign * values, kind="stable")  # best first, nan last
    ranked = order[: int((~np.isnan(values)).sum())]
    picked = set(drawn(rows.shards)[:shards_shown])
    if len(rows) > most and len(picked) < len(rows.shards):
        codes = [index for index, name in enumerate(rows.shards) if name in picked]
        order = order[np.isin(rows.shard[order], codes)]
    sample = order if len(order) <= most else order[np.linspace(0, len(order) - 1, most).round().astype(int)]
    n = len(ranked)
    if metric is None or n < 3:
        middle = [int(order[len(order) // 2])] if len(order) else []
        return Choice([], middle, [], sample.tolist())
    each = max(min(each, n // 3), 1)
    start = n // 2 - each // 2
    best, median, worst = ranked[:each], ranked[start : start + each], ranked[::-1][:each]
    shown = dict.fromkeys([*best.tolist(), *median.tolist(), *worst.tolist()])
    return Choice(
        best.tolist(), median.tolist(), worst.tolist(), list(dict.fromkeys([*sample.tolist(), *shown]))
    )
