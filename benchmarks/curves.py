"""docs/quality.png: PSNR against network evaluations for every row of the table in docs/quality.md, drawn from it.

python -m benchmarks.curves docs/quality.md
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

METHODS = {
    "DDRM": ("^", "C2"),
    "DiffPIR": ("s", "C1"),
    "DDNM+": ("v", "C3"),
    "PnP-DM": ("X", "C5"),
    "PnP-FFDNet": ("*", "C7"),
}
OURS = "RED-diff"
ACROSS = 6


def table(page: str) -> list[tuple[str, dict[tuple[str, int], float]]]:
    """Of each row of the page's first table its task, and PSNR by method and evaluations.

    A cell is `PSNR / SSIM`, with a word behind it or not, or `PSNR (N)` where the head says no number; of the last
    column's `gap (METHOD N)` the named method's PSNR at N is that of RED-diff at 20 less the gap. `-` and the other
    columns are left out.
    """
    lines = page[page.index("| task |") :].split("\n\n")[0].splitlines()
    heads, rows = _cells(lines[0]), []
    for line in lines[2:]:
        task, *cells = _cells(line)
        found: dict[tuple[str, int], float] = {}
        for head, cell in zip(heads[1:], cells, strict=True):
            column, number = re.fullmatch(r"(.+) (\d+)", head), re.match(r"[\d.]+", cell)
            if column and number:
                found[column[1], int(column[2])] = float(number[0])
            elif own := re.fullmatch(r"([\d.]+) \((\d+)\)", cell):
                found[head, int(own[2])] = float(own[1])
        best = re.match(r"([+-][\d.]+) .*\((DDNM|DDRM|DiffPIR|PnP-DM)\+? (\d+)\)", cells[-1])
        if best:
            name, count = best[2].replace("DDNM", "DDNM+"), int(best[3])
            found.setdefault((name, count), found[OURS, 20] - float(best[1]))
        rows.append((task, found))
    return rows


def draw(rows: list[tuple[str, dict[tuple[str, int], float]]], to: Path) -> None:
    """A small picture a row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    down = -(-len(rows) // ACROSS)
    figure, grid = pyplot.subplots(
        down, ACROSS, figsize=(2.15 * ACROSS, 1.75 * down), layout="constrained", squeeze=False
    )
    for axes, (task, found) in zip(grid.flat, rows, strict=False):
        for name, (mark, colour) in {OURS: ("o", "C0"), **METHODS}.items():
            points = sorted((count, value) for (method, count), value in found.items() if method == name)
            if points:
                # a neighbour has one or two points: no line between, which would say what nobody measured
                style = "-" if name == OURS else "none"
                axes.plot(*zip(*points, strict=True), ls=style, marker=mark, ms=4, color=colour, label=name)
        axes.set_title(task, fontsize=7)
        axes.set_xscale("log")
        axes.set_xticks([10, 20, 50, 100], ["10", "20", "50", "100"])
        axes.set_xlim(7, 120)
        axes.minorticks_off()
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.3)
    for axes in list(grid.flat)[len(rows) :]:
        axes.axis("off")
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower right", fontsize=8)
    figure.supxlabel("network evaluations an image", fontsize=9)
    figure.supylabel("PSNR, dB", fontsize=9)
    figure.savefig(to, dpi=100)


def _cells(line: str) -> list[str]:
    return [cell.strip(" *") for cell in line.strip().strip("|").split("|")]


if __name__ == "__main__":
    page = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/quality.md")
    draw(table(page.read_text()), page.with_suffix(".png"))
