"""The shards' metrics added up: metrics.parquet, summary.json, tables.

Shards are taken in the order of their names, whoever evaluated them, so the result is the same to the last bit.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from reddiff_pl.evaluation import tables
from reddiff_pl.evaluation.pairs import Results
from reddiff_pl.evaluation.patches import PATCHES
from reddiff_pl.evaluation.records import features_path, read
from reddiff_pl.evaluation.sets import of_network, of_patches
from reddiff_pl.evaluation.statistics import finite, interval
from reddiff_pl.files import write_atomically

MEANS = {
    "infinite_psnr": "equal images have an infinite PSNR: null in files, counted, and left out of the mean",
    "interval": "95 %, over images: bootstrap percentiles; normal above 20,000 images; Wilson's score for shares",
    "kid": "kid and kd: squared MMD, unbiased; to be read times 1000",
}


def merge(results: Results, seed: int = 0, left_out: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Add up what was computed of the shards, and write it: summary.json and its tables, metrics.parquet.

    Args:
        results: the run.
        seed: of the bootstrap and of kernel subsets.
        left_out: {metric: why it could not be had}.

    Returns:
        What is in summary.json.
    """
    records = {name: record for name in results.names if (record := read(results, name)) is not None}
    families, notes = _common_families(records)
    columns = _columns(records, families)
    notes += [note for record in records.values() for note in record["notes"]]
    metrics = _means(columns, seed)
    paths = [features_path(results.run, name) for name, record in records.items() if record["features"]]
    for family in families:
        if family.startswith("net:"):
            metrics |= of_network(paths, family.removeprefix("net:"), seed)
    if PATCHES in families:
        metrics |= of_patches(paths, seed)
    metrics = {
        name: metrics[name] | {"better": tables.metric(name).better, "about": tables.metric(name).about}
        for name in sorted(metrics, key=tables.order)
    }
    missing = [name for name in results.names if name not in records]
    summary = {
        "out": str(results.run.out),
        "shards": {"evaluated": len(records), "missing": missing, "in_run": len(results.planned) or None},
        "images": sum(record["images"] for record in records.values()),
        "references": sum(record["references"] for record in records.values()),
        "failed": sum(1 for _ in results.failures()),
        "metrics": metrics,
        "not_judged": _skipped(records),
        "left_out": dict(left_out or {}),
        "notes": notes[:100] + ([f"... and {len(notes) - 100} more"] if len(notes) > 100 else []),
        "families": families,
        "seed": seed,
        "meaning": MEANS,
    }
    run = results.run
    write_atomically(run.metrics, _parquet(columns))
    head, rows = tables.summary_rows(summary)
    lines = [f"- {line}" for line in [*tables.legend(metrics), *_not_judged(summary)]]
    text = "\n".join([tables.markdown(head, rows), *lines, ""])
    write_atomically(run.summary.with_suffix(".md"), text.encode())
    write_atomically(run.summary.with_suffix(".tex"), tables.tex(head, rows).encode())
    write_atomically(run.summary, json.dumps(summary, indent=1, allow_nan=False).encode() + b"\n")
    return summary


def _common_families(records: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, str], list[str]]:
    """The families that all shards have from the same networks, and a line for each of the others."""
    each = [record["families"] for record in records.values()]
    names = sorted({family for families in each for family in families})
    common = {
        name: each[0].get(name) for name in names if all(f.get(name) == each[0].get(name) for f in each)
    }
    lines = [
        f"{name.removeprefix('net:')} is left out: not every shard has it, or not from the same network; run "
        "evaluate again"
        for name in names
        if common.get(name) is None
    ]
    return {name: what for name, what in common.items() if what is not None}, lines


def _skipped(records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """{measure: {why: images that it could not judge}} over all shards."""
    found: dict[str, dict[str, int]] = {}
    for record in records.values():
        for measure, reasons in record.get("skipped", {}).items():
            total = found.setdefault(measure, {})
            for why, images in reasons.items():
                total[why] = total.get(why, 0) + images
    return dict(sorted(found.items(), key=lambda item: tables.order(item[0])))


def _not_judged(summary: Mapping[str, Any]) -> list[str]:
    """A line for each measure that could not judge some images."""
    return [
        f"{tables.metric(measure).label}: n/a for {images:,} of {summary['images']:,} images: {why}"
        for measure, reasons in summary["not_judged"].items()
        for why, images in reasons.items()
    ]


def _belongs(column: str, families: Mapping[str, str]) -> bool:
    """Whether a column is no metric, or one of these families."""
    kind, _, rest = column.partition("-")
    if kind in ("prediction", "top1", "top5"):
        return any(f"net:{rest.removesuffix(end)}" in families for end in ("", "-reference", "-start"))
    # another weights' LPIPS is a family of its own, msssim-3 a column of its family
    return column in ("key", "label", *families) or kind in families


def _columns(records: Mapping[str, Mapping[str, Any]], families: Mapping[str, str]) -> dict[str, list[Any]]:
    """One column each over all images; empty where a shard does not have it."""
    names = {name for record in records.values() for name in record["columns"] if _belongs(name, families)}
    columns: dict[str, list[Any]] = {name: [] for name in ("shard", "key", *sorted(names - {"key"}))}
    for shard, record in records.items():
        n = record["images"]
        for name, column in columns.items():
            column += [shard] * n if name == "shard" else record["columns"].get(name) or [None] * n
    return columns


def _parquet(columns: Mapping[str, list[Any]]) -> bytes:
    """A row an image."""
    import pyarrow as pa
    import pyarrow.parquet

    def kind(name: str) -> Any:
        if name in ("shard", "key"):
            return pa.string()
        return pa.int32() if name.startswith(("label", "prediction", "top1", "top5")) else pa.float64()

    table = pa.table({name: pa.array(column, kind(name)) for name, column in columns.items()})
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out)
    return out.getvalue()


def _means(columns: Mapping[str, list[Any]], seed: int) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, column in columns.items():
        if name in ("shard", "key", "label") or name.startswith("prediction"):
            continue
        values = np.array([value for value in column if value is not None], dtype=np.float64)
        share = name.startswith(("top1", "top5"))
        ends = interval(values, name, seed, share)
        infinite = 0
        if name == "psnr" and "ssim" in columns:
            infinite = sum(p is None and s is not None for p, s in zip(column, columns["ssim"], strict=True))
        if not len(values) and not infinite:
            continue
        entry: dict[str, Any] = {
            "n": ends.n,
            "mean": finite(ends.mean),
            "low": finite(ends.low),
            "high": finite(ends.high),
        }
        entry["interval"] = ends.method
        if not share and len(values):
            low, middle, high = np.quantile(values, [0, 0.5, 1])
            entry |= {
                "std": float(values.std()),
                "min": float(low),
                "median": float(middle),
                "max": float(high),
            }
        found[name] = entry | ({"infinite": infinite} if infinite else {})
    return found


def render(summary: Mapping[str, Any]) -> str:
    """The summary for a terminal."""
    shards = summary["shards"]
    whole = f" of {shards['in_run']}" if shards["in_run"] else ""
    lines = [
        f"{summary['out']}: {summary['images']} images, {summary['references']} with a reference, "
        f"{summary['failed']} failed, {shards['evaluated']}{whole} shards",
        tables.plain(*tables.summary_rows(summary)).rstrip(),
    ]
    psnr: Mapping[str, Any] = summary["metrics"].get("psnr", {})
    if psnr.get("infinite"):
        lines.append(
            f"{psnr['infinite']} images equal their reference: their PSNR is infinite and not in the mean"
        )
    for name, entry in summary["metrics"].items():
        if "note" in entry:
            lines.append(f"{tables.metric(name).label}: {entry['note']}")
    lines += [*tables.legend(summary["metrics"]), *_not_judged(summary)]
    if summary["left_out"]:
        lines.append(f"left out: {', '.join(summary['left_out'])}; summary.json says how to get them")
    if shards["missing"]:
        lines.append(f"{len(shards['missing'])} finished shards are not evaluated yet")
    lines += [f"note: {note}" for note in summary["notes"][:10]]
    return "\n".join("".join(c if c.isprintable() or c == "\n" else "?" for c in line) for line in lines)
