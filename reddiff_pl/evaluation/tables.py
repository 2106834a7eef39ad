"""Tables of metrics: for the terminal, in Markdown, in LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        label: its name in tables.
        better: higher, lower, zero (the nearer to it), or nothing.
        digits: after the point; None: four significant ones.
        factor: what its values are multiplied by.
        about: what it is, in a line.
        shown: whether tables have it; files always do.
    """

    label: str
    better: str = ""
    digits: int | None = 4
    factor: float = 1.0
    about: str = ""
    shown: bool = True

    def text(self, value: float | None) -> str:
        """A value as tables show it."""
        if value is None or not math.isfinite(value):
            return "-"
        value *= self.factor
        return f"{value:.4g}" if self.digits is None else f"{value:.{self.digits}f}"

    def heading(self, arrows: tuple[str, str, str] = ("↑", "↓", "→0")) -> str:
        arrow = dict(zip(("higher", "lower", "zero"), arrows, strict=True)).get(self.better)
        return self.label if arrow is None else f"{self.label} {arrow}"

    @property
    def direction(self) -> str:
        """Which values are good, in words."""
        return {"zero": "best at 0"}.get(self.better, f"{self.better} is better" if self.better else "")

    def best(self, values: Iterable[float]) -> float | None:
        """The best of values; None where there is none, or no better and worse."""
        known = list(values)
        if not known or self.better not in ("higher", "lower", "zero"):
            return None
        return (
            max(known) if self.better == "higher" else min(known, key=abs if self.better == "zero" else None)
        )


_FLAT = (
    "restored over reference, power of the luminance from a quarter to half a cycle a pixel; blur is negative"
)
_KNOWN = {
    "psnr": Metric("PSNR [dB]", "higher", 2, about="mean square error of the pixels"),
    "ssim": Metric("SSIM", "higher", about="structure in windows of 11 pixels"),
    "msssim": Metric("MS-SSIM", "higher", about="SSIM at five scales"),
    "msssim-3": Metric(
        "MS-SSIM, 3 scales", "higher", about="SSIM at the three finest scales, for images below 176 pixels"
    ),
    "haarpsi": Metric("HaarPSI", "higher", about="likeness of edges, by Haar wavelets"),
    "gmsd": Metric("GMSD", "lower", about="how unevenly the gradients differ"),
    "flip": Metric("FLIP", "lower", about="difference seen when the two images alternate on a screen"),
    "lpips": Metric("LPIPS", "lower", about="difference of AlexNet's features, weighted by what people saw"),
    "spectrum": Metric("last octave [dB]", "zero", 2, about=_FLAT),
    "niqe": Metric(
        "NIQE (own photos)",
        "lower",
        2,
        about="how far from photos' statistics, without a reference; fitted on this project's photos",
    ),
    "niqe-reference": Metric(
        "NIQE (own photos) of references", "", 2, about="what the references themselves have"
    ),
    "patch-fd": Metric(
        "patch FD",
        "lower",
        None,
        about="Frechet distance of EfficientNet-Lite0's features of patches, 784 a photo",
    ),
    "patch-kd": Metric("patch KD", "lower", None, about="kernel distance of the same features, 64 a photo"),
    "misfit": Metric("misfit", about="distance to the measurement; good near the noise level"),
    "misfit_ratio": Metric("misfit / noise", digits=2, about="over the noise level told; should be about 1"),
    "fid": Metric("FID", "lower", 2, about="Frechet distance of Inception's features"),
    "kid": Metric("KID x1000", "lower", 3, 1000, about="kernel distance of Inception's features"),
}


def metric(name: str) -> Metric:
    """How a metric of this name is shown; networks keep their names, so that nothing else is called FID."""
    if name in _KNOWN:
        return _KNOWN[name]
    kind, _, rest = name.partition("-")
    if kind == "lpips":
        return replace(_KNOWN[kind], label=f"LPIPS ({rest.replace('-', ' ')})")
    if kind == "spectrum":
        octave = int(rest) if rest.isdecimal() else 0
        label = f"octave 1/{2 ** (octave + 1)} to 1/{2**octave} [dB]"
        return Metric(label, "zero", 2, about="the same of this octave, in cycles a pixel", shown=False)
    if kind == "fd":
        return Metric(f"FD-{rest}", "lower", None, about="Frechet distance of this network's features")
    if kind == "kd":
        return Metric(f"KD-{rest} x1000", "lower", 3, 1000, "kernel distance of this network's features")
    if kind in ("top1", "top5"):
        of = next((which for which in ("reference", "start") if rest.endswith(f"-{which}")), "")
        network = rest.removesuffix(f"-{of}") if of else rest
        label = f"top-{kind[3]} [%] ({network}){f' of {of}' if of else ''}"
        return Metric(label, "higher", 1, 100, "share of images whose class the network names")
    return Metric(name)


ORDER = (
    *("psnr", "ssim", "msssim", "haarpsi", "gmsd", "flip", "lpips", "spectrum", "niqe", "misfit"),
    *("patch", "fid", "kid", "fd", "kd", "top1", "top5"),
)


def order(name: str) -> tuple[int, str]:
    """Sorts metrics: those of the pixels first, as papers list them, then those of the eye, then those of sets."""
    kind = name.partition("-")[0]
    return (ORDER.index(kind) if kind in ORDER else len(ORDER), name)


def value_of(entry: Mapping[str, Any]) -> float | None:
    """The number of a metric in a summary: a mean over images, or a distance between sets."""
    return entry.get("mean", entry.get("value"))


def summary_rows(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of one run's table."""
    rows = []
    for name, entry in summary["metrics"].items():
        one = metric(name)
        if not one.shown:
            continue
        spread = "-"
        if entry.get("low") is not None:
            spread = f"{one.text(entry['low'])} .. {one.text(entry['high'])}"
        elif entry.get("std") is not None and "value" in entry:
            spread = f"± {one.text(entry['std'])} over {entry['subsets']} subsets"
        rows.append([one.heading(), one.text(value_of(entry)), spread, f"{entry['n']}"])
    return ["metric", "mean", "95 % interval", "images"], rows


def legend(metrics: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """A line for each metric that a table shows: what it is, which values are good, what it can tell apart."""
    lines = []
    for name, entry in metrics.items():
        one = metric(name)
        halves = (entry or {}).get("halves")
        apart = f"two halves of the references are {one.text(halves)} apart" if halves is not None else ""
        if one.shown and (text := "; ".join(filter(None, (one.about, one.direction, apart)))):
            lines.append(f"{one.label}: {text}")
    return lines


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
    "→": r"$\rightarrow$",
    "|": r"\textbar{}",
    "<": r"$<$",
    ">": r"$>$",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def tex_text(text: str) -> str:
    """A text for LaTeX, in one line."""
    return "".join(_TEX.get(c, c) for c in " ".join(text.split()))


def tex(head: Sequence[str], rows: Sequence[Sequence[str]], bold: Sequence[tuple[int, int]] = ()) -> str:
    """A LaTeX tabular with the rules of booktabs.

    Args:
        head: headings.
        rows: cells.
        bold: (row, column) of cells to set in bold.
    """

    def cell(text: str, strong: bool = False) -> str:
        escaped = tex_text(text)
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
