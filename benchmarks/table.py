"""docs/quality.md, from what `benchmarks.quality` left."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import methods as m
from benchmarks.jobs import Job, best, job, mean, shipped, with_evaluations

DIFFUSION = (
    *("DPS", "PiGDM", "DDRM", "DiffPIR", "DDNM+", "PnP-DM", "DAPS"),
    *("RED-diff, paper", "RED-diff, shipped"),
)
COLUMNS = ("A_dagger", "classical", "PnP-FFDNet", *DIFFUSION)


def table_run(out: Path, task: str, column: str) -> Job | None:
    """The run behind a cell."""
    if column == "A_dagger":
        return job("table", task, "A_dagger", {})
    if column == "RED-diff, shipped":
        return job("table", task, *shipped(task))
    if column == "RED-diff, paper":
        return job("table", task, "REDDiff", m.PAPER)
    tuned = best(out, task, column) or best(out, m.TUNED_AS.get(task, task), column)
    return replace(tuned, stage="table", task=task) if tuned else None


def cell(record: dict[str, Any] | None) -> str:
    if record is None:
        return "-"
    return f"{mean(record):.2f} / {mean(record, 'ssim'):.3f} / {record['evaluations']}"


def write(out: Path, to: Path, text: str) -> None:
    """Write the table, and the picture of PSNR against evaluations beside it."""
    head = "| task | " + " | ".join(COLUMNS) + " | shipped - best other |"
    lines = [head, "|" + "---|" * (len(COLUMNS) + 2)]
    behind = []
    for task in m.TASKS:
        runs = {column: table_run(out, task, column) for column in COLUMNS}
        records = {column: run.result(out) if run else None for column, run in runs.items()}
        ours = records["RED-diff, shipped"]
        others = {c: mean(r) for c, r in records.items() if c not in ("A_dagger", DIFFUSION[-1]) and r}
        gap = mean(ours) - max(others.values()) if ours and others else math.nan
        if gap < -0.2:
            behind.append(f"{task} ({gap:.2f} dB against {max(others, key=others.__getitem__)})")
        cells = []
        top = max((mean(records[c]) for c in DIFFUSION if records[c]), default=math.nan)
        for column in COLUMNS:
            shown = cell(records[column])
            star = column in DIFFUSION and records[column] is not None and mean(records[column]) == top
            cells.append(f"**{shown}**" if star else shown)
        lines.append(f"| {task} | " + " | ".join(cells) + f" | {'-' if math.isnan(gap) else f'{gap:+.2f}'} |")
    curves = _curves(out, to.with_suffix(".png"))
    verdict = "; ".join(behind) if behind else "none"
    body = text.format(
        table="\n".join(lines), behind=verdict, curves=curves, times=_times(out), settings=_settings(out)
    )
    to.write_text(body)


def _curves(out: Path, picture: Path) -> str:
    """PSNR against evaluations as a table, and as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(m.CURVES), figsize=(4.2 * len(m.CURVES), 3.4), squeeze=False)
    lines = ["| task | settings | " + " | ".join(map(str, m.EVALUATIONS)) + " |"]
    lines.append("|" + "---|" * (len(m.EVALUATIONS) + 2))
    for axis, task in zip(axes[0], m.CURVES, strict=True):
        for name, (class_name, settings) in {"paper": ("REDDiff", m.PAPER), "shipped": shipped(task)}.items():
            runs = [
                job("table", task, class_name, with_evaluations(class_name, settings, n))
                for n in m.EVALUATIONS
            ]
            values = [run.result(out) for run in runs]
            lines.append(
                f"| {task} | {name} | " + " | ".join(f"{mean(v):.2f}" if v else "-" for v in values) + " |"
            )
            points = [(n, mean(v)) for n, v in zip(m.EVALUATIONS, values, strict=True) if v]
            axis.plot(*zip(*points, strict=True), marker="o", label=name) if points else None
        axis.set(title=task, xlabel="network evaluations", ylabel="PSNR, dB", xscale="log")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=110)
    return "\n".join(lines)


def _times(out: Path) -> str:
    """Median seconds an image and evaluation on the GPUs, by method."""
    lines = ["| method | ms an image and evaluation |", "|---|---|"]
    for column in DIFFUSION:
        costs = []
        for task in m.TASKS:
            run = table_run(out, task, column)
            record = run.result(out) if run else None
            if record and record.get("device") != "cpu" and record["evaluations"]:
                costs.append(1e3 * record["seconds"] / record["evaluations"] / record["photos"])
        if costs:
            lines.append(f"| {column} | {statistics.median(costs):.2f} |")
    return "\n".join(lines)


def _settings(out: Path) -> str:
    """The chosen settings, a line a task and method."""
    lines = []
    for task in m.TASKS:
        for column in DIFFUSION[:-2]:
            if tuned := best(out, task, column):
                chosen = ", ".join(f"{k} {v}" for k, v in sorted(json.loads(tuned.settings).items()))
                lines.append(f"- {task}, {column}: {chosen}")
    return "\n".join(lines)
