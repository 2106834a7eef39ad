"""Charts as inline SVG, drawn by matplotlib in the page's own colours and font."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reddiff_pl.report.collect import Stretch, Task
from reddiff_pl.report.rows import Metric

TASKS_DRAWN = 24
BARS = 80  # bars of a task at most
COLUMNS = 800  # stretches closer than this share of the time axis are drawn as one

# drawn in these, which the page replaces by its own, so that one chart serves both themes
INK, MUTED, RULE, ACCENT, SOFT = "#010101", "#020202", "#030303", "#040404", "#050505"
COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    ACCENT: "var(--accent)",
    SOFT: "var(--soft)",
}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "axes.labelcolor": MUTED,
    "axes.spines.left": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.color": RULE,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
    "text.parse_math": False,  # labels come with the data
    "axes.unicode_minus": True,
}


def histogram(values: NDArray[np.float64], metric: Metric, tag: str) -> str:
    """Distribution of a metric over images, with its median.

    Args:
        values: one an image; what is not finite is left out.
        metric: its name and digits.
        tag: tells this chart's ids from others of the page.
    """
    finite = values[np.isfinite(values)]
    low = np.percentile(finite, 0.5, method="lower")  # values themselves: a few are never left out
    high = np.percentile(finite, 99.5, method="higher")
    inside = finite[(finite >= low) & (finite <= high)]
    bins = int(np.clip(np.sqrt(len(inside)) * 1.5, 8, 40))
    with _figure(3.6, 1.75, tag) as (figure, out):
        axes = figure.subplots()
        pad = 0.0 if high > low else max(abs(low) * 0.05, 1e-6)  # all are equal
        counts, edges = np.histogram(inside, bins=bins, range=(inside.min() - pad, inside.max() + pad))
        axes.bar(edges[:-1], counts, np.diff(edges) * 0.9, align="edge", color=ACCENT)
        middle = float(np.median(finite))
        axes.axvline(middle, color=INK, linewidth=1)
        side = "left" if middle < (edges[0] + edges[-1]) / 2 else "right"
        axes.annotate(
            f"median {middle:.{metric.digits}f}",
            (middle, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4 if side == "left" else -4, 1),
            textcoords="offset points",
            ha=side,
            va="bottom",
        )
        axes.set_yticks([])
        axes.xaxis.set_major_locator(_ticks(5))
        axes.margins(x=0.01)
        axes.set_ylim(0, max(counts.max() * 1.02, 1))
    return out[0]


def timeline(stretches: Sequence[Stretch], tasks: Sequence[Task], width: float, tag: str) -> str:
    """Images per second of all tasks over the time, and below when each of them worked.

    Args:
        stretches: by start.
        tasks: rows from the top; those beyond `TASKS_DRAWN` are left out.
        width: of the chart in inches.
        tag: tells this chart's ids from others of the page.
    """
    names = [task.name for task in tasks[:TASKS_DRAWN]]
    begin, end = min(one.start for one in stretches), max(one.end for one in stretches)
    unit, size = next(
        ((unit, size) for unit, size in (("h", 3600), ("min", 60)) if end - begin >= 3 * size), ("s", 1)
    )
    height = 1.5 + 0.24 * len(names)
    with _figure(width, height, tag) as (figure, out):
        rate, work = figure.subplots(2, 1, sharex=True, height_ratios=[1, 0.24 * len(names) + 0.1])
        edges, values = images_per_second(stretches)
        rate.stairs(values, (edges - begin) / size, fill=True, color=SOFT)
        rate.stairs(values, (edges - begin) / size, color=ACCENT, linewidth=1.4)
        rate.set_ylim(0, max(values.max() * 1.15, 1e-9))
        rate.yaxis.set_major_locator(_ticks(2))
        rate.grid(axis="y", color=RULE, linewidth=0.6)
        rate.set_axisbelow(True)
        rate.tick_params(length=0)
        rate.set_title("images/s", loc="left", fontsize=9, color=MUTED)
        gap = (end - begin) / COLUMNS
        for place, name in enumerate(names):
            spans = merged([(one.start, one.end) for one in stretches if one.task == name], gap)
            closer = gap
            while len(spans) > BARS:
                closer *= 2
                spans = merged(spans, closer)
            bars = [((start - begin) / size, max(stop - start - gap, gap) / size) for start, stop in spans]
            work.broken_barh(bars, (place - 0.3, 0.6), color=ACCENT, linewidth=0)
        work.set_yticks(range(len(names)), [_short(name) for name in names])
        work.tick_params(axis="y", length=0, labelcolor=INK)
        work.set_ylim(len(names) - 0.4, -0.6)
        work.xaxis.set_major_locator(_ticks(6))
        started = datetime.fromtimestamp(begin, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        work.set_xlabel(f"{unit} since {started}")
        work.set_xlim(0, (end - begin) / size or 1)
    return out[0]


def images_per_second(
    stretches: Sequence[Stretch], most: int = 120
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rate of all tasks together in equal parts of the time, each shard's images spread evenly over its own.

    Args:
        stretches: with at least one.
        most: parts.

    Returns:
        edges (n + 1,), unix time; rates (n,), whose integral is the number of images.
    """
    begin, end = min(one.start for one in stretches), max(one.end for one in stretches)
    edges = np.linspace(begin, end, min(most, 12 + 4 * len(stretches)) + 1)
    # images restored until each edge, a sum of ramps
    until = np.zeros_like(edges)
    for one in stretches:
        until += one.images * np.clip((edges - one.start) / (one.end - one.start), 0, 1)
    return edges, np.diff(until) / np.diff(edges)


def merged(spans: Sequence[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    """Spans, by start, joined where they are so short that several would be one dot."""
    joined: list[tuple[float, float]] = []
    for start, end in spans:
        if (
            joined
            and start - joined[-1][1] < gap
            and min(end - start, joined[-1][1] - joined[-1][0]) < 4 * gap
        ):
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:8]}…{name[-8:]}"


def _ticks(count: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, steps=[1, 2, 2.5, 5, 10])


class _figure:
    """A figure whose SVG, on leaving, is the only entry of a list.

    Not pyplot's: that keeps figures and wants a display.
    """

    def __init__(self, width: float, height: float, tag: str) -> None:
        self.size, self.tag = (width, height), tag
        self.out: list[str] = []

    def __enter__(self) -> tuple[Any, list[str]]:
        import matplotlib
        from matplotlib.figure import Figure

        style: Any = {**STYLE, "svg.hashsalt": self.tag}
        self._context = contextlib.ExitStack()
        self._context.enter_context(matplotlib.rc_context(style))
        self._context.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Glyph")  # the page's font has what matplotlib's has not
        self.figure = Figure(figsize=self.size, layout="constrained")
        return self.figure, self.out

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                file = io.StringIO()
                self.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
                self.out.append(themed(file.getvalue(), self.size[0], self.tag))
        finally:
            self._context.close()


def themed(svg: str, inches: float, tag: str) -> str:
    """matplotlib's file as a part of a page: scales with it up to its own size, takes its colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    # ids are the page's, as its styles would be
    svg = re.sub(r'\bid="', f'id="{tag}-', svg)
    svg = re.sub(r'href="#', f'href="#{tag}-', svg)
    svg = re.sub(r"url\(#", f"url(#{tag}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg aria-hidden="true" style="max-width: {inches * 96:.0f}px" ', 1)
    svg = re.sub(r"font-family:[^;\"]*;?", "", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for drawn, own in COLOURS.items():
        svg = svg.replace(drawn, own)
    return svg.strip()
