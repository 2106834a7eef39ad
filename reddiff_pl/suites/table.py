"""The table of a suite: what the cells came to, with intervals, beside what was published. Markdown, LaTeX, JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reddiff_pl.evaluation import tables
from reddiff_pl.files import write_atomically
from reddiff_pl.options.shipped import shipped_of
from reddiff_pl.shards.layout import Run
from reddiff_pl.suites.cells import Row
from reddiff_pl.suites.suite import Figure, Suite
from reddiff_pl.sweep.table import Outcome


@dataclass(frozen=True)
class Result:
    """What a row came to.

    Attributes:
        row: the row.
        images: that count.
        metrics: {metric: entry}, as in summary.json.
        why: there is none, or not all.
        left_out: {metric: why it could not be had}.
    """

    row: Row
    images: int = 0
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    why: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """What is shown.

    Attributes:
        suite: the suite.
        found: its rows.
        side: of the images in pixels.
        options: that all runs share.
    """

    suite: Suite
    found: Sequence[Result]
    side: int
    options: Sequence[str]


def results(rows: Sequence[Row], outcomes: Mapping[str, Outcome], out: Path) -> list[Result]:
    """What lies in OUT of each row."""
    return [_result(row, outcomes, out) for row in rows]


def _result(row: Row, outcomes: Mapping[str, Outcome], out: Path) -> Result:
    if row.why:
        return Result(row, why=row.why)
    done = outcomes.get(row.cell, Outcome(note="not done yet"))
    if not done.images:
        return Result(row, why=done.note or "no image was restored")
    try:
        summary = json.loads(Run(out / row.cell).summary.read_bytes())
        return Result(row, done.images, summary["metrics"], done.note, summary["left_out"])
    except (OSError, ValueError, KeyError) as error:
        return Result(row, why=done.note or f"not judged: {error}")


def _family(name: str) -> str:
    """The word of `evaluate --metrics` that a metric comes with."""
    kind = name.partition("-")[0]
    return {"top1": "top", "top5": "top", "patch": "patches"}.get(kind, kind)


def columns(suite: Suite, found: Sequence[Result]) -> list[str]:
    """The metrics that the table shows: those of the suite that were found or may be, and those that were published."""
    there = {
        name for result in found for name in result.metrics if not name.endswith(("-reference", "-start"))
    }
    names = {name for name in there if _family(name) in suite.metrics}
    have = {_family(name) for name in names}
    names |= {name for name in suite.metrics if name in tables.ORDER and name not in have}
    names |= {metric for figure in suite.published for metric in figure.figures}
    return sorted((name for name in names if tables.metric(name).shown), key=tables.order)


def _published(suite: Suite, row: Row) -> list[Figure]:
    return [f for f in suite.published if (f.task, f.method) == (row.task.name, row.sampler)]


def layout(table: Table) -> tuple[list[str], list[list[str]], list[str]]:
    """Headings, rows, and the lines below the table."""
    suite, found = table.suite, table.found
    shown = columns(suite, found)
    figures = [figure for result in found for figure in _published(suite, result.row)]
    head = ["task", "sampler"]
    for name in shown:
        head += [tables.metric(name).heading(), "published"]
    body = []
    for result in found:
        row = [result.row.task.title, result.row.sampler]
        for name in shown:
            said = [
                f"{_as_written(figure.figures[name], name)} [{i}]"
                for i, figure in enumerate(figures, 1)
                if name in figure.figures and any(figure is one for one in _published(suite, result.row))
            ]
            row += [_with_ends(name, result.metrics.get(name), result.images), ", ".join(said) or "-"]
        body.append([*row, f"{result.images}" if result.images else "-"])
    lines = [*_about(table), *_gaps(suite, found)]
    lines += [f"[{i}] {figure.line()}" for i, figure in enumerate(figures, 1)]
    if figures and suite.differs:
        lines.append(f"published: {suite.differs}")
    return [*head, "images"], body, lines


def _as_written(value: float, name: str) -> str:
    """A published figure: decibels with two digits, as papers have them, others as they are entered."""
    return f"{value:.2f}" if tables.metric(name).digits == 2 else f"{value:g}"


def _with_ends(name: str, entry: Mapping[str, Any] | None, images: int) -> str:
    metric = tables.metric(name)
    if entry is None:
        return "-"
    text = metric.text(tables.value_of(entry))
    if entry.get("low") is not None:
        text += f" [{metric.text(entry['low'])}, {metric.text(entry['high'])}]"
    return text if entry["n"] == images else f"{text} of {entry['n']}"


def _about(table: Table) -> list[str]:
    """What the rows and columns are."""
    suite, found, side = table.suite, table.found, table.side
    lines = [f"tasks: {suite.source}"] if suite.source else []
    lines.append(f"options of all runs: {shlex.join(table.options)}")
    lines.append(
        f"images of {side}x{side} pixels; brackets are 95 % intervals over images; of N: over N images"
    )
    if side != suite.side:
        lines.append(
            f"the suite is for {suite.side} pixels: lengths of boxes and kernels are scaled to {side}, and what was "
            "published of larger or smaller images is no yardstick"
        )
    shipped = shipped_of("samplers")
    for sampler in dict.fromkeys(result.row.sampler for result in found):
        if sampler in shipped:
            lines.append(
                f"{sampler}: {shipped[sampler].read_text().splitlines()[0].removeprefix('#').strip()}"
            )
    return lines + tables.legend({name: None for name in columns(suite, found)})


def _gaps(suite: Suite, found: Sequence[Result]) -> list[str]:
    """Why cells are empty."""
    rows = [result.row for result in found]
    lines = [f"{where}: {why}" for why, where in _where(rows, {id(r.row): r.why for r in found if r.why})]
    left_out = {name: why for result in found for name, why in result.left_out.items()}
    lines += [f"{name}: left out; {why}" for name, why in left_out.items()]
    have = {_family(name) for result in found for name in result.metrics}
    lacking = [name for name in suite.metrics if name not in have and name not in ", ".join(left_out)]
    if have and lacking:
        lines.append(f"{', '.join(lacking)}: no image could be judged; each cell's summary.json says why")
    none = {
        id(row): suite.why_not(row.task.name, row.sampler)
        or "none is entered; --published takes a file of them"
        for row in rows
        if not _published(suite, row)
    }
    lines += [f"nothing published, {where}: {why}" for why, where in _where(rows, none)]
    if len({result.images for result in found if result.images}) > 1:
        lines.append("the rows have different numbers of images")
    return lines


def _where(rows: Sequence[Row], reasons: Mapping[int, str]) -> list[tuple[str, str]]:
    """Each reason and the rows that it holds for, in few words."""
    found = []
    for why in dict.fromkeys(reasons.values()):
        mine = [row for row in rows if reasons.get(id(row)) == why]
        parts = []
        for sampler in dict.fromkeys(row.sampler for row in mine):
            tasks = [row.task.title for row in mine if row.sampler == sampler]
            every = len(tasks) == sum(row.sampler == sampler for row in rows)
            parts.append(sampler if every else f"{sampler} ({'; '.join(tasks)})")
        found.append((why, ", ".join(parts)))
    return found


def render(table: Table) -> str:
    """The table for a terminal."""
    head, body, lines = layout(table)
    return "\n".join([table.suite.title, "", tables.plain(head, body), *lines])


def write(out: Path, table: Table) -> None:
    """OUT/tables.md, .tex and .json, rows that are not done yet too."""
    suite = table.suite
    head, body, lines = layout(table)
    text = "\n".join(
        [f"# {suite.title}", "", tables.markdown(head, body), *(f"- {line}" for line in lines), ""]
    )
    write_atomically(out / "tables.md", text.encode())
    notes = [f"\\par\\noindent {tables.tex_text(line)}" for line in lines]
    text = "\n".join([f"% {suite.title}", tables.tex(head, body), "{\\footnotesize", *notes, "}", ""])
    write_atomically(out / "tables.tex", text.encode())
    content = {
        "suite": suite.name,
        "source": suite.source,
        "side": table.side,
        "options": list(table.options),
        "rows": [
            {
                "task": result.row.task.name,
                "sampler": result.row.sampler,
                "cell": result.row.cell if result.row.options else None,
                "images": result.images,
                "metrics": dict(result.metrics),
                "published": [asdict(figure) for figure in _published(suite, result.row)],
                "note": result.why,
            }
            for result in table.found
        ],
    }
    write_atomically(out / "tables.json", json.dumps(content, indent=1, allow_nan=False).encode() + b"\n")
