"""The report as one HTML file that needs nothing else: no server, no network, no script to be read."""

from __future__ import annotations

import base64
import hashlib
import math
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np

import reddiff_pl
from reddiff_pl.report.charts import TASKS_DRAWN, histogram, timeline
from reddiff_pl.report.collect import Facts
from reddiff_pl.report.pictures import Album, Shown, gradient
from reddiff_pl.report.rows import Choice, Metric, Rows
from reddiff_pl.report.settings import class_name, clean
from reddiff_pl.report.summary import Summary

WIDE, NARROW = 10.6, 3.5  # widths of the timeline in inches, for a desk and for a phone


def render(
    facts: Facts,
    rows: Rows,
    choice: Choice,
    shown: Album,
    by: Metric | None,
    summary: Summary,
    notes: Sequence[str],
    config: dict[str, Any],
) -> str:
    """The page.

    Args:
        facts: the run.
        rows: metrics of its images.
        choice: rows that are shown.
        shown: their pictures.
        by: the metric that says best and worst.
        summary: of `reddiff evaluate`, empty if it did not run.
        notes: what could not be had, and why.
        config: config.yaml as plain data.
    """
    templates = files("reddiff_pl.report") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (templates / name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "span": span, "moment": moment, "share": share}
    script = (templates / "report.js").read_text("utf-8")
    early = (templates / "early.js").read_text("utf-8")
    return environment.get_template("page.html.j2").render(
        facts=facts,
        by=by,
        charts=[
            (metric, histogram(rows.metrics[metric.name], metric, f"h{i}"))
            for i, metric in enumerate(rows.shown)
            if np.isfinite(rows.metrics[metric.name]).any()
        ],
        table=statistics(rows, summary),
        sets=summary.sets,
        summary_intervals=bool(summary.means) and rows.source == "evaluate",
        groups=_groups(rows, choice, shown, by),
        hero=_hero(rows, choice, shown),
        timelines=_timelines(facts),
        tasks=facts.tasks,
        drawn=TASKS_DRAWN,
        data=_data(rows, shown, by),
        rows=rows,
        album=shown,
        kinds=shown.kinds,
        gradient=gradient(),
        found={kind for one in [*shown.large.values(), *shown.thumbs] for kind in one.pictures},
        notes=list(dict.fromkeys(clean(note, 400) for note in notes)),
        method={part: class_name(config, part) for part in ("physics", "sampler")},
        version=reddiff_pl.__version__,
        made=time.time(),
        style=(templates / "report.css").read_text("utf-8"),
        script=script,
        early=early,
        hashes=[_hash(early), _hash(script)],
    )


def _hash(script: str) -> str:
    """What the page's own policy lets run; nothing else does, should a text ever get through unescaped."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def statistics(rows: Rows, summary: Summary) -> list[dict[str, Any]]:
    """A row a metric: mean (with the interval of `reddiff evaluate`), median, and where most images lie."""
    table = []
    for metric in rows.shown:
        values = rows.metrics[metric.name]
        finite = values[np.isfinite(values)]
        if not len(finite):
            continue
        low, middle, high = np.percentile(finite, [5, 50, 95])
        whole = summary.means.get(metric.name) if rows.source == "evaluate" else None
        table.append(
            {
                "metric": metric,
                "mean": digits(whole.mean if whole else float(finite.mean()), metric),
                "interval": f"{digits(whole.low, metric)} to {digits(whole.high, metric)}"
                if whole and whole.low is not None
                else "",
                "median": digits(float(middle), metric),
                "low": digits(float(low), metric),
                "high": digits(float(high), metric),
                "count": whole.images if whole else len(finite),
                "exact": int(np.isinf(values).sum()),
            }
        )
    return table


def digits(value: float | None, metric: Metric) -> str:
    """A value as the page shows it."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞"
    return f"{value:.{metric.digits}f}"


def _values(rows: Rows, row: int) -> list[tuple[Metric, str]]:
    return [(metric, digits(float(rows.metrics[metric.name][row]), metric)) for metric in rows.shown]


def _entry(rows: Rows, one: Shown) -> dict[str, Any]:
    row = one.row
    return {
        "row": row,
        "key": clean(rows.keys[row]),
        "shard": clean(rows.shards[int(rows.shard[row])]),
        "values": _values(rows, row),
        "one": one,
    }


def _groups(rows: Rows, choice: Choice, shown: Album, by: Metric | None) -> list[dict[str, Any]]:
    parts = [
        ("best", "Best", choice.best),
        ("median", "Median" if choice.best else "Samples", choice.median),
        ("worst", "Worst", choice.worst),
    ]
    return [
        {"id": name, "title": title, "entries": [_entry(rows, shown.large[row]) for row in chosen]}
        for name, title, chosen in [(n, t, [row for row in c if row in shown.large]) for n, t, c in parts]
        if chosen
    ]


def _hero(rows: Rows, choice: Choice, shown: Album) -> dict[str, Any] | None:
    """The image in the middle of the median ones, with what it is compared to."""
    for row in [*choice.median[len(choice.median) // 2 :], *choice.median, *choice.best]:
        one = shown.large.get(row)
        if one is None or "restored" not in one.pictures:
            continue
        for kind in ("beside0", "measurement", "reference"):
            if kind in one.pictures:
                return {**_entry(rows, one), "before": kind}
    return None


def _timelines(facts: Facts) -> list[tuple[str, str]]:
    if not facts.stretches:
        return []
    return [
        (name, timeline(facts.stretches, facts.tasks, width, f"t{name}"))
        for name, width in (("wide", WIDE), ("narrow", NARROW))
    ]


def _data(rows: Rows, shown: Album, by: Metric | None) -> dict[str, Any]:
    """What the script draws the images from. Infinite values are strings: JSON has none."""
    metrics = rows.shown

    def value(name: str, row: int) -> float | str | None:
        number = float(rows.metrics[name][row])
        if math.isnan(number):
            return None
        return "inf" if math.isinf(number) else round(number, 5)

    return {
        "metrics": [
            {
                "name": metric.name,
                "label": clean(metric.label),
                "unit": metric.unit,
                "better": metric.better,
                "digits": metric.digits,
            }
            for metric in metrics
        ],
        "by": next((i for i, metric in enumerate(metrics) if by and metric.name == by.name), -1),
        "kinds": shown.kinds,
        "items": [
            {
                "row": one.row,
                "key": clean(rows.keys[one.row]),
                "shard": clean(rows.shards[int(rows.shard[one.row])]),
                "values": [value(metric.name, one.row) for metric in metrics],
                "pictures": one.pictures,
                "size": one.size,
                "meta": one.meta,
                "note": one.note,
            }
            for one in shown.thumbs
        ],
    }


def count(number: float, noun: str = "") -> str:
    """12,345 images; 1 image."""
    text = f"{number:,.0f}"
    return f"{text} {noun}{'' if number == 1 else 's'}" if noun else text


def span(seconds: float) -> str:
    """2 h 05 min, 3 min 20 s, 4.2 s."""
    if seconds >= 86400:
        return f"{int(seconds // 86400)} d {int(seconds % 86400 // 3600)} h"
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{seconds:.3g} s"


def moment(seconds: float) -> str:
    """A unix time for people."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def share(part: float, whole: float) -> str:
    """In percent; no failure is ever rounded to none."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.1f} %" if percent >= 0.05 or not part else "< 0.1 %"
