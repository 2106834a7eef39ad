"""`reddiff report OUT`: a page of numbers and pictures about a run, finished or not."""

from __future__ import annotations

from reddiff_pl.errors import ConfigError
from reddiff_pl.evaluation.pairs import Results
from reddiff_pl.files import write_atomically
from reddiff_pl.options.report import parse_report
from reddiff_pl.report.collect import collect
from reddiff_pl.report.page import render
from reddiff_pl.report.pictures import album
from reddiff_pl.report.rows import Metric, Rows, choose, read_rows
from reddiff_pl.report.summary import read_summary

MEGABYTE = 1_000_000


def report(argv: list[str]) -> int:
    """Write OUT/report/index.html.

    Returns:
        0 when it is written, 1 when it cannot be.

    Raises:
        ConfigError: there is no run, or a bad option.
    """
    options = parse_report(argv)
    results = Results(options.out, options.inputs, partial=True)
    try:
        others = [Results(out, partial=True) for out in options.beside]
    except ConfigError as error:
        raise ConfigError(f"--beside: {error}") from error
    facts = collect(results)
    rows = read_rows(results)
    by = _metric(rows, options.by)
    choice = choose(rows, by, options.images)
    large = [*choice.best, *choice.median, *choice.worst]
    # as text, bytes take a third more
    pictures = album(results, rows, large, choice.sample, options.megabytes * MEGABYTE, others)
    summary = read_summary(results.run, rows.metrics)
    if pictures.thumbs and not any("measurement" in one.pictures for one in pictures.thumbs):
        results.notes.append(
            "no pictures of measurements: `reddiff restore --model.keep_start true` keeps what the sampler starts from"
        )
    notes = [
        *facts.survey["notes"],
        *results.notes,
        *summary.notes,
    ]
    page = render(facts, rows, choice, pictures, by, summary, notes, results.config)
    path = results.run.report
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page.encode("utf-8", "replace"))
    except OSError as error:
        print(f"reddiff report: error: cannot write {path}: {error.strerror}")
        return 1
    print(f"look at {path} ({len(page) / MEGABYTE:.1f} MB)")
    return 0


def _metric(rows: Rows, name: str | None) -> Metric | None:
    """The metric that orders the images; None where there is none."""
    shown = {metric.name: metric for metric in rows.shown}
    if name is not None:
        if name not in shown:
            raise ConfigError(f"--by: no {name} in this run; there is {', '.join(shown) or 'nothing'}")
        return shown[name]
    return next((shown[name] for name in ("psnr", "misfit") if name in shown), None)
