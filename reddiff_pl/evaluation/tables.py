"""Tables of metrics: for the terminal, in Markdown, in LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        label: its name in tables.
        better: higher, lower, or nothing.
        digits: after the point; None: four significant ones.
        factor: what its values are multiplied by.
    """

    label: str
    better: str = ""
    digits: int | None = 4
    factor: float = 1.0

    def text(self, value: float | None) -> str:
        """A value as tables show it."""
        if value is None or not math.isfinite(value):
            return "-"
        value *= self.factor
        return f"{value:.4g}" if self.digits is None else f"{value:.{self.digits}f}"

    def heading(self, arrows: tuple[str, str] = ("↑", "↓")) -> str:
        arrow = {"higher": f" {arrows[0]}", "lower": f" {arrows[1]}"}.get(self.better, "")
        return f"{self.label}{arrow}"


_KNOWN = {
    "psnr": Metric("PSNR [dB]", "higher", 2),
    "ssim": Metric("SSIM", "higher"),
    "lpips": Metric("LPIPS", "lower"),
    "misfit": Metric("misfit"),
    "fid": Metric("FID", "lower", 2),
    "kid": Metric("KID x1000", "lower", 3, 1000),
}


def metric(name: str) -> Metric:
    """How a metric of this name is shown; networks keep their names, so that nothing else is called FID."""
    if name in _KNOWN:
        return _KNOWN[name]
    kind, _, rest = name.partition("-")
    if kind == "lpips":
        return Metric(f"LPIPS ({rest.replace('-', ' ')})", "lower")
    if kind == "fd":
        return Metric(f"FD-{rest}", "lower", None)
    if kind == "kd":
        return Metric(f"KD-{rest} x1000", "lower", 3, 1000)
    if kind in ("top1", "top5"):
        of = next((which for which in ("reference", "start") if rest.endswith(f"-{which}")), "")
        network = rest.removesuffix(f"-{of}") if of else rest
        return Metric(f"top-{kind[3]} [%] ({network}){f' of {of}' if of else ''}", "higher", 1, 100)
    return Metric(name)


def order(name: str) -> tuple[int, str]:
    """Sorts metrics as papers list them."""
    kinds = ("psnr", "ssim", "lpips", "misfit", "fid", "kid", "fd", "kd", "top1", "top5")
    kind = name.partition("-")[0]
    return (kinds.index(kind) if kind in kinds else len(kinds), name)


def value_of(entry: Mapping[str, Any]) -> float | None:
    """The number of a metric in a summary: a mean over images, or a distance between sets."""
    return entry.get("mean", entry.get("value"))


def summary_rows(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of one run's table."""
    rows = []
    for name, entry in summary["metrics"].items():
        shown = metric(name)
        spread = "-"
        if entry.get("low") is not None:
            spread = f"{shown.text(entry['low'])} .. {shown.text(entry['high'])}"
        elif entry.get("std") is not None and "value" in entry:
            spread = f"± {shown.text(entry['std'])} over {entry['subsets']} subsets"
        rows.append([shown.heading(), shown.text(value_of(entry)), spread, f"{entry['n']}"])
    return ["metric", "mean", "95 % interval", "images"], rows


def plain(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned by spaces, the first to the left."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "".join(c if c.isprintable() else "?" for c in "  ".join(cells).rstrip())

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)]) + "\n"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""

    def line(row: Sequence[str]) -> str:
        return f"| {' | '.join(re.sub(r'([|<>&])', _entity, ' '.join(cell.split())) for cell in row)} |"

    rule = f"|{'|'.join([' --- ', *[' ---: '] * (len(head) - 1)])}|"
    return "\n".join([line(head), rule, *map(line, rows)]) + "\n"


def _entity(match: re.Match[str]) -> str:
    return f"&#{ord(match[1])};"


_TEX = {
    "\\": r"\textbackslash{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "±": r"$\pm$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def tex(head: Sequence[str], rows: Sequence[Sequence[str]], bold: Sequence[tuple[int, int]] = ()) -> str:
    """A LaTeX tabular with the rules of booktabs.

    Args:
        head: headings.
        rows: cells.
        bold: (row, column) of cells to set in bold.
    """

    def cell(text: str, strong: bool = False) -> str:
        escaped = "".join(_TEX.get(c, c) for c in " ".join(text.split()))
        return f"\\textbf{{{escaped}}}" if strong else escaped

    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        "\\toprule",
        f"{' & '.join(map(cell, head))} \\\\",
        "\\midrule",
        *(
            f"{' & '.join(cell(text, (i, j) in bold) for j, text in enumerate(row))} \\\\"
            for i, row in enumerate(rows)
        ),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"
