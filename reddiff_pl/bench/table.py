"""What the bench says, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NAMES = {
    "forward": "network alone",
    "loop": "RED-diff",
    "proximal": "RED-diff, proximal",
    "disk": "disk to disk",
    "reference": "RED-diff",
    "dps": "DPS",
}
_HALF = ("plain, 16", "plain, bf16", "plain, 32")


def render(record: dict[str, Any]) -> str:
    """All tables of a bench.json."""
    rows = record["rows"]
    parts = [_head(record), _speed(rows)]
    if disk := [row for row in rows if row["what"] == "disk"]:
        parts.append(_disk(disk))
    if start := [row for row in rows if row["what"] == "start"]:
        parts.append(_start(start))
    parts += _notes(record)
    return "\n\n".join(part for part in parts if part)


def row_line(row: dict[str, Any]) -> str:
    """A row in one line, for the terminal."""
    text = f"{NAMES.get(row['what'], row['what'])}, {row['which']}, batch {row['batch_size']}: "
    if "error" in row:
        return text + row["error"]
    if row["what"] == "start":
        return text + f"{row['start_seconds']:.1f} s to the first batch, {row['whole_seconds']:.1f} s in all"
    return text + f"{_number(row['ms'])} ms an image and step"


def _head(record: dict[str, Any]) -> str:
    lines = [f"`{record['command']}`, {record['began']}, {record.get('seconds', 0):.0f} s so far or in all"]
    if machine := record.get("machine"):
        versions = [f"{name} {machine[name]}" for name in ("torch", "diffusers", "python") if name in machine]
        code = f"reddiff_pl {machine['reddiff_pl']} {machine.get('commit', '')}".strip()
        lines.append(f"{machine['device']}; {machine['cpu_cores']} cores; {', '.join(versions)}; {code}")
    if network := record.get("network"):
        peak, zeros = record["peak"], network["zeros"]
        size = "x".join(map(str, network["shape"]))
        lines.append(
            f"network: {network['parameters'] / 1e6:.1f} million parameters, {size}, "
            f"{network['flop'] / 1e9:,.1f} GFLOP a forward pass"
        )
        lines.append(f"measured peak, {peak['product']}: {_number(peak['tflops'])} TFLOP/s")
        lines.append(
            f"zeros: at most {100 * zeros['largest']:.3f} % of the output of each of {zeros['tensors']} layers"
            + ("" if zeros["alive"] else "; **not all alive, see bench.json: timings may flatter**")
        )
    return "\n".join(f"- {line}" for line in lines)


def _speed(rows: Sequence[dict[str, Any]]) -> str:
    found = [row for row in rows if row["what"] in NAMES]
    if not found:
        return ""
    forward = {row["batch_size"]: row["ms"] for row in _measured(rows, "forward", "as shipped")}
    plain = _plain(rows)
    header = [
        *("what", "how", "batch", "ms / image / step", "images/s at 100 steps", "TFLOP/s", "of the peak"),
        *("network alone = 1", "faster than plain", "GiB peak (reserved)", "first call, s"),
    ]
    lines = []
    for row in found:
        cells = [NAMES[row["what"]], _how(row), str(row["batch_size"])]
        if "error" in row:
            lines.append([*cells, row["error"], *[""] * 7])
            continue
        size = row["batch_size"]
        memory = _number(row.get("peak_gib"))
        if row.get("reserved_gib"):
            memory += f" ({_number(row['reserved_gib'])})"
        cells += [_number(row["ms"]), _number(row["images_per_s"]), _number(row.get("tflops"))]
        cells.append(f"{100 * row['share_of_peak']:.0f} %" if "share_of_peak" in row else "")
        cells.append(f"{row['ms'] / forward[size]:.3f}" if size in forward else "")
        cells.append(f"{plain[size][1] / row['ms']:.2f}" if size in plain else "")
        lines.append([*cells, memory, _number(row.get("first_seconds"))])
    names = sorted({name for name, _ in plain.values()})
    note = (
        f'\n\n"faster than plain": than RED-diff {" or ".join(names)} at the same batch size.'
        if names
        else ""
    )
    return _table(header, lines) + note + _best(rows)


def _how(row: dict[str, Any]) -> str:
    """As what, and which share of its evaluations ran in which precision where there is more than one."""
    shares = row.get("precisions", {})
    if len(shares) < 2:
        return row["which"]
    return f"{row['which']} ({', '.join(f'{100 * shares[name]:.0f} % {name}' for name in sorted(shares))})"


def _best(rows: Sequence[dict[str, Any]]) -> str:
    """The best batch size of each against each other."""
    ours = _measured(rows, "loop", "as shipped")
    theirs = [row for name in _HALF for row in _measured(rows, "reference", name)]
    if not ours or not theirs:
        return ""
    mine, other = (min(found, key=lambda row: row["ms"]) for found in (ours, theirs))
    return (
        f"\n\nBest against best: {_number(mine['ms'])} ms (batch {mine['batch_size']}) to {_number(other['ms'])} ms "
        f"({other['which']}, batch {other['batch_size']}): {other['ms'] / mine['ms']:.2f} times as fast."
    )


def _plain(rows: Sequence[dict[str, Any]]) -> dict[int, tuple[str, float]]:
    """The plain loop that a batch size is compared with, the first precision of `_HALF` that ran: name and ms."""
    found: dict[int, tuple[str, float]] = {}
    for name in _HALF:
        for row in _measured(rows, "reference", name):
            found.setdefault(row["batch_size"], (name, row["ms"]))
    return found


def _disk(rows: Sequence[dict[str, Any]]) -> str:
    header = [
        *("disk to disk, batch", "images timed", "ms / image / step", "loop alone = 1", "with both ends"),
        *("to the first batch, s", "first batch to last commit, s", "whole command, s", "CPU cores used"),
    ]
    lines = []
    for row in rows:
        if "error" in row:
            lines.append([str(row["batch_size"]), "", row["error"], *[""] * 6])
            continue
        ratios = [
            f"{row[name]:.3f}" if name in row else "" for name in ("ratio_to_loop", "ratio_to_loop_with_ends")
        ]
        seconds = [_number(row[name]) for name in ("start_seconds", "work_seconds", "whole_seconds")]
        lines.append(
            [
                *(str(row["batch_size"]), str(row["steady_images"]), _number(row["ms"]), *ratios, *seconds),
                _number(row["cores"]),
            ]
        )
    return (
        _table(header, lines)
        + '\n\nTimed between the commits of the first shard and the second. "With both ends" counts from the first '
        "shard's opening to the last commit, what is compiled or captured included."
    )


def _start(rows: Sequence[dict[str, Any]]) -> str:
    header = [
        "start, one batch of one step",
        "batch",
        "to the first batch, s",
        "to the commit, s",
        "whole command, s",
    ]
    lines = []
    for row in rows:
        cells = [row["which"], str(row["batch_size"])]
        if "error" in row:
            lines.append([*cells, row["error"], "", ""])
        else:
            commit = row["start_seconds"] + row["work_seconds"]
            lines.append([*cells, *map(_number, (row["start_seconds"], commit, row["whole_seconds"]))])
    return _table(header, lines) + "\n\nCold: nothing compiled is there. Warm: the same again."


def _notes(record: dict[str, Any]) -> list[str]:
    strange = [row for row in record["rows"] if row.get("finite") is False]
    return [f"**Not finite: {row_line(row)}**" for row in strange]


def _measured(rows: Sequence[dict[str, Any]], what: str, which: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["what"], row["which"]) == (what, which) and "ms" in row]


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def _number(value: float | None) -> str:
    """Three digits that mean something."""
    if value is None:
        return ""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"
