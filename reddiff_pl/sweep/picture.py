"""The picture of a sweep: a line for one option, a map for two, points in order for more."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reddiff_pl.evaluation import tables
from reddiff_pl.files import write_atomically
from reddiff_pl.sweep.cells import Cell, Varied
from reddiff_pl.sweep.table import Outcome, best, metrics

_MOST = 20.0  # inches
_LOG = 15  # largest by smallest value from which an axis is logarithmic
_COLOUR, _BEST = "#33638d", "#c8401e"


def draw(path: Path, grid: Sequence[Varied], cells: Sequence[Cell], outcomes: Mapping[str, Outcome]) -> bool:
    """Draw the first metric that papers would list: PSNR, or the misfit where there are no references.

    Args:
        path: the PNG.
        grid: what is varied.
        cells: all cells, in order.
        outcomes: by the cells' names; a cell without numbers is left blank.

    Returns:
        False when there is nothing to draw.
    """
    shown = metrics(outcomes)
    if not shown:
        return False
    values = [outcomes.get(cell.name, Outcome()).means.get(shown[0]) for cell in cells]
    metric, tops = tables.metric(shown[0]), best(outcomes, shown[0])
    top = [cell.name in tops for cell in cells]

    from matplotlib.figure import Figure  # not pyplot's: that keeps figures and wants a display

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    if len(grid) == 1:
        size = _line(axes, grid[0], values, top, metric)
    elif len(grid) == 2:
        size = _map(axes, grid, values, top, metric)
    else:
        size = _points(axes, grid, cells, values, top, metric)
    figure.set_size_inches(min(size[0], _MOST), min(size[1], _MOST))
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    write_atomically(path, file.getvalue())
    return True


def _line(
    axes: Any, one: Varied, values: Sequence[float | None], top: Sequence[bool], metric: tables.Metric
) -> tuple[float, float]:
    """A line where the option is a number, else points."""
    places: Sequence[float] = range(len(values))
    numbers = [_number(value) for value in one.values]
    known = [number for number in numbers if number is not None]
    if len(known) == len(numbers):
        places = known
        if min(known) > 0 and max(known) >= _LOG * min(known):
            axes.set_xscale("log")
        points = sorted((x, y) for x, y in zip(places, values, strict=True) if y is not None)
        axes.plot(*zip(*points, strict=True), color=_COLOUR)
    else:
        axes.set_xticks(places, one.labels, **_slant(one.labels))
    for x, y, is_top in zip(places, values, top, strict=True):
        if y is not None:
            axes.plot(x, y, "o", color=_BEST if is_top else _COLOUR)
            axes.annotate(metric.text(y), (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=9)
    axes.margins(0.08, 0.15)
    axes.grid(alpha=0.3)
    axes.set_xlabel(one.option)
    axes.set_ylabel(metric.heading())
    return max(5.0, 0.9 * len(values)), 3.6


def _map(
    axes: Any,
    grid: Sequence[Varied],
    values: Sequence[float | None],
    top: Sequence[bool],
    metric: tables.Metric,
) -> tuple[float, float]:
    """The first option down, the second across, the values in the fields."""
    down, across = grid
    width = len(across.values)
    field = [
        [math.nan if value is None else value for value in values[i : i + width]]
        for i in range(0, len(values), width)
    ]
    image = axes.imshow(field, cmap="viridis", aspect="auto")
    for i, value in enumerate(values):
        if value is not None:
            dark = image.norm(value) < 0.6
            weight = "bold" if top[i] else "normal"
            where = (i % width, i // width)
            axes.text(
                *where,
                metric.text(value),
                ha="center",
                va="center",
                color="w" if dark else "k",
                weight=weight,
            )
    axes.set_xticks(range(width), across.labels, **_slant(across.labels))
    axes.set_yticks(range(len(down.values)), down.labels)
    axes.set_xlabel(across.option)
    axes.set_ylabel(down.option)
    axes.figure.colorbar(image, label=metric.heading())
    longest = max(map(len, down.labels))
    return max(5.0, 0.9 * width + 0.1 * longest + 2), max(3.6, 0.5 * len(down.values) + 1.4)


def _points(
    axes: Any,
    grid: Sequence[Varied],
    cells: Sequence[Cell],
    values: Sequence[float | None],
    top: Sequence[bool],
    metric: tables.Metric,
) -> tuple[float, float]:
    """The best on top. Points, not bars: an axis from 0 would hide differences of a dB."""
    order = [i for i, value in enumerate(values) if value is not None]
    order.sort(key=lambda i: values[i] or 0.0, reverse=metric.better == "lower")
    names = ["  ".join(cells[i].labels) for i in order]
    axes.hlines(
        range(len(order)), min(values[i] or 0.0 for i in order), [values[i] for i in order], color=_COLOUR
    )
    axes.scatter(
        [values[i] for i in order],
        range(len(order)),
        c=[_BEST if top[i] else _COLOUR for i in order],
        zorder=3,
    )
    for place, i in enumerate(order):
        text = metric.text(values[i])
        axes.annotate(text, (values[i], place), (8, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(order)), names)
    axes.margins(0.12, 0.5 / len(order))
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(metric.heading())
    axes.set_title(", ".join(one.label for one in grid), fontsize=10)
    return 5 + 0.09 * max(map(len, names)), max(3.0, 0.28 * len(order) + 1.2)


def _slant(labels: Sequence[str]) -> dict[str, Any]:
    """Long labels side by side."""
    return {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, labels)) > 8 else {}


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
