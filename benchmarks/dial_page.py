"""The page's part on the dial: tables, curves, and rows of pictures."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.dial_methods import TASKS, TURNS

MARKS = "<!-- dial: begin -->", "<!-- dial: end -->"
Records = dict[str, dict[str, dict[str, Any]]]
PICTURES = {  # task -> neighbours beside the dial
    "superresolution_4x": (
        "DDRM 20, eta .85",
        "DiffPIR 100, zeta .3",
        "PiGDM 100, eta 1",
        "DDNM+ 100, eta .5",
    ),
    "inpainting_box": ("DDRM 100, eta .85", "DiffPIR 100, zeta 1", "PiGDM 100, eta 1", "DDNM+ 100, eta .85"),
    "deblur_aniso": ("DDRM 100, eta .85", "DiffPIR 100, zeta 1", "PiGDM 100, eta 1", "DPS 250"),
    "jpeg": ("DiffPIR 100, zeta 1", "DiffPIR 100, zeta .3", "PiGDM 100, eta 1", "DPS 250"),
    "colorization": ("DDRM 100, eta .85", "DiffPIR 100, zeta .3", "PiGDM 100, eta 1", "DDNM+ 100, eta .5"),
}
SHAPES = {"DDRM": "s", "DiffPIR": "^", "DDNM+": "v", "PiGDM": "D", "DPS": "P", "PnP-DM": "X", "DAPS": "*"}


def write(records: list[dict[str, Any]], page: Path) -> None:
    """Put the tables between the marks of the page, and draw the pictures beside it."""
    found: Records = {task: {} for task in TASKS}
    for record in records:
        if "psnrs" in record:
            found.setdefault(record["task"], {})[record["name"]] = record
    curves(found, page.parent / "dial.png")
    for task in PICTURES:
        rows(found[task], task, page.parent / f"dial_{task}.jpg")
    text = page.read_text()
    begin, end = (text.index(mark) for mark in MARKS)
    page.write_text(text[: begin + len(MARKS[0])] + "\n" + tables(found) + text[end:])


def mean(record: dict[str, Any], name: str) -> float:
    return float(np.mean(record[name]))


def drawn(n: int) -> np.ndarray:
    """Weights of photos in bootstrap samples."""
    return np.random.default_rng(0).multinomial(n, [1 / n] * n, 400) / n


def half_width(values: list[float]) -> float:
    """Of the 95 % interval of a mean over photos."""
    low, high = np.quantile(drawn(len(values)) @ np.array(values), [0.025, 0.975])
    return float(high - low) / 2


def moved(draws: np.ndarray, value: float) -> tuple[float, float]:
    """The percentile interval of a distance, moved to be about its value."""
    low, high = np.quantile(draws - draws.mean() + value, [0.025, 0.975])
    return max(float(low), 0.0), float(high)


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 20 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


def tables(found: Records) -> str:
    lines = ["", "| task | " + " | ".join(f"{turn:g}" for turn in TURNS) + " | a sample of the posterior |"]
    lines.append("|" + "---|" * (len(TURNS) + 2))
    for task, runs in found.items():
        cells = [cell(runs.get(name)) for name in (*(f"dial {turn:g}" for turn in TURNS), "open")]
        lines.append(f"| {task} | " + " | ".join(cells) + " |")
    lines += ["", "From 0 to 1, with 95 % intervals over photos:", ""]
    lines.append(
        "| task | PSNR lost | patch FD at 0 | at 1 | share | patch KD | last octave, dB | misfit at 1 |"
    )
    lines.append("|" + "---|" * 8)
    for task, runs in found.items():
        if "dial 0" in runs and "dial 1" in runs:
            lines.append(from_to(task, runs["dial 0"], runs["dial 1"]))
    lines += [
        "",
        "\\* the default is within twice the distance of two halves of the references.",
        "",
        "Neighbours:",
        "",
    ]
    names = sorted({n for runs in found.values() for n in runs if not n.startswith(("dial", "open"))})
    lines += ["| task | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 1)]
    for task, runs in found.items():
        lines.append(f"| {task} | " + " | ".join(cell(runs.get(name)) for name in names) + " |")
    lines += ["", better(found), ""]
    return "\n".join(lines)


def cell(record: dict[str, Any] | None) -> str:
    if record is None:
        return "-"
    failed = f" ({record['nan']} not finite)" if record["nan"] else ""
    return f"{mean(record, 'psnrs'):.2f} / {mean(record, 'ssims'):.3f} / {number(record['fd'])}{failed}"


def from_to(task: str, zero: dict[str, Any], one: dict[str, Any]) -> str:
    lost = [a - b for a, b in zip(zero["psnrs"], one["psnrs"], strict=True)]
    before, after = (moved(np.array(r["fds"]), r["fd"]) for r in (zero, one))
    share = one["fd"] / zero["fd"]
    measured = "" if zero["fd"] > 2 * zero["halves"] else " *"
    misfit = np.mean(one["misfit"])
    fits = f"{misfit / one['std']:.2f} of the noise" if one["std"] else f"{misfit * 255:.2f} / 255"
    return (
        f"| {task} | {np.mean(lost):.2f} ± {half_width(lost):.2f} | {number(zero['fd'])} [{number(before[0])}, "
        f"{number(before[1])}] | {number(one['fd'])} [{number(after[0])}, {number(after[1])}] | {share:.0%}{measured}"
        f" | {number(zero['kd'])} to {number(one['kd'])} | {zero['sp'][0]:.1f} to {one['sp'][0]:.1f} | {fits} |"
    )


def better(found: Records) -> str:
    """Where a neighbour has more PSNR and less patch FD than a turn of the dial, both beyond their intervals."""
    said = []
    for task, runs in found.items():
        for name, record in runs.items():
            if name.startswith(("dial", "open")) or record["nan"]:
                continue
            beaten = []
            for turn in TURNS:
                own = runs.get(f"dial {turn:g}")
                if own is None:
                    continue
                gain = np.array(record["psnrs"]) - np.array(own["psnrs"])
                less = np.array(own["fds"]) - np.array(record["fds"])
                low = np.quantile(drawn(len(gain)) @ gain, 0.025)
                if low > 0 and np.quantile(less, 0.025) - less.mean() + own["fd"] - record["fd"] > 0:
                    beaten.append(
                        f"{turn:g} (+{gain.mean():.2f} dB, {number(record['fd'])} for {number(own['fd'])})"
                    )
            if beaten:
                said.append(f"{task}, {name} against {', '.join(beaten)}")
    return "Better in both measures, each beyond its interval: " + ("; ".join(said) or "none") + "."


def curves(found: Records, path: Path) -> None:
    """PSNR against patch FD, a panel a task: the dial as a line, the neighbours as points."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks = [task for task in found if "dial 1" in found[task]]
    columns = 5
    height = -(-len(tasks) // columns)
    figure, axes = plt.subplots(height, columns, figsize=(3.0 * columns, 2.5 * height), squeeze=False)
    for axis in axes.flat[len(tasks) :]:
        axis.axis("off")
    for task, axis in zip(tasks, axes.flat, strict=False):
        runs = found[task]
        own = [runs[f"dial {turn:g}"] for turn in TURNS if f"dial {turn:g}" in runs]
        points = [(mean(r, "psnrs"), r["fd"]) for r in own]
        axis.plot(*zip(*points, strict=True), "o-", color="C3", ms=4, zorder=3)
        shown = [p for p, _ in points]
        if "open" in runs:
            last = (mean(runs["open"], "psnrs"), runs["open"]["fd"])
            axis.plot(*zip(points[-1], last, strict=True), "o:", color="C3", ms=3, mfc="w")
            shown.append(last[0])
        for name, record in runs.items():
            method = name.split()[0]
            if method in SHAPES and not record["nan"] and mean(record, "psnrs") > min(shown) - 2.5:
                colour = f"C{list(SHAPES).index(method)}" if method != "PiGDM" else "k"
                axis.plot(mean(record, "psnrs"), record["fd"], SHAPES[method], color=colour, ms=5)
        axis.axhline(own[0]["halves"], color="grey", lw=0.6, ls="--")
        axis.set_yscale("log")
        axis.set_title(task, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    handles = [plt.Line2D([], [], color="C3", marker="o", ms=4, label="dial, 0 to 1")]
    handles += [
        plt.Line2D([], [], ls="", marker=shape, color="k" if name == "PiGDM" else f"C{i}", label=name)
        for i, (name, shape) in enumerate(SHAPES.items())
    ]
    figure.legend(handles=handles, loc="lower center", ncol=len(handles), fontsize=8)
    figure.supxlabel("PSNR, dB", fontsize=9, y=0.022)
    figure.supylabel("patch FD (dashed: two halves of the references)", fontsize=9)
    figure.tight_layout(rect=(0.01, 0.03, 1, 1))
    figure.savefig(path, dpi=75)
    image = Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    image.save(path, optimize=True)


def rows(runs: dict[str, dict[str, Any]], task: str, path: Path) -> None:
    """Some photos: reference, measurement, the dial at 0, .5 and 1, neighbours."""
    zero = runs.get("dial 0", {})
    if "img" not in zero:
        return
    columns = [("reference", zero["ref"]), ("measured (A_dagger)", zero["meas"])]
    columns += [(f"dial {t}", runs[f"dial {t}"]["img"]) for t in ("0", "0.5", "1")]
    columns += [(name, runs[name]["img"]) for name in PICTURES[task] if name in runs]
    strips = [Image.open(io.BytesIO(base64.b64decode(data))) for _, data in columns]
    side, scale, top = strips[0].height, 2, 16
    places = range(0, strips[0].width // side, max(strips[0].width // side // 3, 1))
    sheet = Image.new(
        "RGB", (len(columns) * (side * scale + 4), top + len(places) * (side * scale + 4)), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for column, ((name, _), picture) in enumerate(zip(columns, strips, strict=True)):
        x = column * (side * scale + 4)
        pen.text((x + 2, 2), re.sub(r", eta .85$", "", name), fill="black")
        for row, place in enumerate(places):
            crop = picture.crop((place * side, 0, (place + 1) * side, side))
            y = top + row * (side * scale + 4)
            sheet.paste(crop.resize((side * scale, side * scale), Image.Resampling.NEAREST), (x, y))
    sheet.save(path, quality=88)
