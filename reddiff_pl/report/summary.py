"""What `reddiff evaluate` left in summary.json, as the report shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from reddiff_pl.evaluation import tables
from reddiff_pl.report.settings import clean, number
from reddiff_pl.shards.layout import Run

ROWS_SHOWN = 50


@dataclass(frozen=True)
class Mean:
    """Mean of a metric over images, with its interval where there is one."""

    mean: float
    low: float | None
    high: float | None
    images: int


@dataclass(frozen=True)
class OfSet:
    """A line of the table of what belongs to the whole set: distances, shares of a classifier."""

    label: str
    hint: str
    value: str
    spread: str
    images: int


@dataclass
class Summary:
    """summary.json without what the report cannot use.

    Attributes:
        means: {metric of images: its mean}.
        sets: everything else.
        notes: what was left out, and why.
    """

    means: dict[str, Mean] = field(default_factory=dict)
    sets: list[OfSet] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_summary(run: Run, columns: Mapping[str, Any]) -> Summary:
    """Read summary.json; what is not as `evaluate` writes it is passed over.

    Args:
        run: the run.
        columns: metrics that each image has; their means are not of the whole set.
    """
    summary = Summary()
    try:
        content = json.loads(run.summary.read_bytes())
        metrics, left_out = content["metrics"].items(), content.get("left_out", {}).items()
    except FileNotFoundError:
        return summary
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        summary.notes.append("summary.json cannot be read: run `reddiff evaluate` again")
        return summary
    for name, entry in islice(metrics, ROWS_SHOWN):
        if not isinstance(entry, dict):
            continue
        value, images = number(tables.value_of(entry)), number(entry.get("n"))
        if value is None or images is None:
            continue
        low, high = number(entry.get("low")), number(entry.get("high"))
        if name in columns:
            summary.means[name] = Mean(value, low, high, int(images))
            continue
        shown, spread = tables.metric(name), ""
        if low is not None and high is not None:
            spread = f"{shown.text(low)} to {shown.text(high)}"
        elif (deviation := number(entry.get("std"))) is not None:
            spread = f"± {shown.text(deviation)}"
        hint = "; ".join(filter(None, (shown.about, shown.direction)))
        if (halves := number(entry.get("halves"))) is not None:
            hint = f"{hint}; two halves of the references are {shown.text(halves)} apart"
        if isinstance(entry.get("note"), str):
            hint = f"{hint}; {clean(entry['note'])}" if hint else clean(entry["note"])
        summary.sets.append(OfSet(clean(shown.label), hint, shown.text(value), spread, int(images)))
    summary.notes += [
        f"{clean(name)} was not evaluated: {clean(why, 300)}" for name, why in islice(left_out, 20)
    ]
    return summary
