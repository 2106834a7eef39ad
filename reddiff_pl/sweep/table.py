"""What came of the cells of a sweep: sweep.csv, sweep.md, and a table for the terminal. No torch."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reddiff_pl.evaluation import tables
from reddiff_pl.files import write_atomically
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import read_sidecar, total
from reddiff_pl.sweep.cells import Cell, Varied

_NOTE = 200  # characters of a reason in tables; sweep.csv has the whole


@dataclass(frozen=True)
class Outcome:
    """What came of a cell.

    Attributes:
        code: the exit code of its run.
        note: why it has no numbers, or not all.
        images: restored.
        failed: samples that failed.
        means: {metric: mean over the images}.
        seconds: an image; None where nothing is known of it.
    """

    code: int = 0
    note: str = ""
    images: int = 0
    failed: int = 0
    means: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None


def outcome(run: Run, names: Sequence[str], code: int) -> Outcome:
    """What the sidecars of a cell's shards say.

    Args:
        run: the cell's paths.
        names: its shards.
        code: the exit code of its run.
    """
    totals = total(run, names)
    seconds, images = 0.0, 0
    for sidecar in filter(None, (read_sidecar(run, name) for name in names)):
        seconds += sidecar["seconds"]
        images += (
            sidecar["restored"] - sidecar["resumed"]
        )  # a resumed shard knows the time of its last part alone
    notes = [f"{totals.failed} failed"] if totals.failed else []
    if code == 1:
        notes.append(f"{totals.unfinished} shards are not finished")
    return Outcome(
        code,
        ", ".join(notes),
        totals.restored,
        totals.failed,
        totals.sums.means() | _evaluated(run, totals.restored),
        seconds / images if images else None,
    )


def _evaluated(run: Run, images: int) -> dict[str, float]:
    """What `reddiff evaluate` found; nothing where it did not see all images."""
    try:
        summary = json.loads(run.summary.read_bytes())
        if summary["images"] != images:
            return {}
        values = {name: tables.value_of(entry) for name, entry in summary["metrics"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: float(value) for name, value in values.items() if value is not None}


def best(outcomes: Mapping[str, Outcome], metric: str) -> set[str]:
    """Names of the best cells by a metric; none where it has no better and worse, or there is one cell only."""
    values = {name: done.means[metric] for name, done in outcomes.items() if metric in done.means}
    top = tables.metric(metric).best(values.values())
    return {name for name, value in values.items() if value == top} if len(values) > 1 else set()


def metrics(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Those of all cells, as papers list them."""
    found = {metric for done in outcomes.values() for metric in done.means}
    return sorted((metric for metric in found if not metric.endswith("-reference")), key=tables.order)


def _table(
    grid: Sequence[Varied], cells: Sequence[Cell], outcomes: Mapping[str, Outcome], mark: str
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows in the order of the grid, the best value of each metric as `mark` says."""
    shown = [metric for metric in metrics(outcomes) if tables.metric(metric).shown]
    tops = {metric: best(outcomes, metric) for metric in shown}
    noted = any(outcomes.get(cell.name, Outcome(note="-")).note for cell in cells)
    head = [
        *(one.label for one in grid),
        *(tables.metric(metric).heading() for metric in shown),
        "s/image",
        "images",
    ]
    rows = []
    for cell in cells:
        done = outcomes.get(cell.name, Outcome(note="not done yet"))
        row = list(cell.labels)
        for metric in shown:
            text = tables.metric(metric).text(done.means.get(metric))
            row.append(mark.format(text) if cell.name in tops[metric] else text)
        note = done.note if len(done.note) <= _NOTE else f"{done.note[:_NOTE]}..."
        seconds = "-" if done.seconds is None else f"{done.seconds:.3g}"
        rows.append([*row, seconds, f"{done.images}", *([note] if noted else [])])
    return [*head, *(["note"] if noted else [])], rows


def _warning(outcomes: Mapping[str, Outcome]) -> str:
    counts = {done.images for done in outcomes.values() if done.images}
    if len(counts) < 2:
        return ""
    return f"note: the cells have different numbers of images, {min(counts)} to {max(counts)}\n"


def render(grid: Sequence[Varied], cells: Sequence[Cell], outcomes: Mapping[str, Outcome]) -> str:
    """The table for a terminal; * is the best."""
    return tables.plain(*_table(grid, cells, outcomes, "* {}")) + _warning(outcomes)


def write(
    out: Path,
    grid: Sequence[Varied],
    cells: Sequence[Cell],
    outcomes: Mapping[str, Outcome],
    base: Sequence[str],
) -> None:
    """OUT/sweep.csv, with full names and digits, and OUT/sweep.md; cells that are not done yet too.

    Args:
        out: OUT.
        grid: what is varied.
        cells: all cells, in order.
        outcomes: by the cells' names.
        base: the options that all cells share.
    """
    shown = metrics(outcomes)
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    names = [one.option for one in grid]
    rows.writerow(["cell", *names, *shown, "seconds_per_image", "images", "failed", "exit_code", "note"])
    for cell in cells:
        done = outcomes.get(cell.name, Outcome(note="not done yet"))
        numbers = [*(done.means.get(metric) for metric in shown), done.seconds]
        written = ["" if value is None else f"{value:.7g}" for value in numbers]
        rows.writerow([cell.name, *cell.values, *written, done.images, done.failed, done.code, done.note])
    write_atomically(out / "sweep.csv", file.getvalue().encode())
    text = f"Options of every cell: `{shlex.join(base)}`\n\n"
    text += tables.markdown(*_table(grid, cells, outcomes, "**{}**"))
    text += "".join(f"\n- {line}" for line in tables.legend(dict.fromkeys(shown))) + "\n"
    if warning := _warning(outcomes):
        text += f"\n{warning}"
    write_atomically(out / "sweep.md", text.encode())
