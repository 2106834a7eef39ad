"""The record of `benchmarks.scaling` as Markdown."""

from __future__ import annotations

from typing import Any


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    header = [
        *("tasks", "images/s", "of one task, times", "efficiency", "with both ends, images/s"),
        *(
            "to the last task's first shard, s",
            "whole command, s",
            "CPU cores a task",
            "GiB of RAM (of the device) a task",
        ),
        *("MB read a task", "MB written a task"),
    ]
    lines = [f"`{record['command']}`, {record['began']}, {record['host_cores']} cores", ""]
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    alone = next(
        (row["images_per_s"] for row in record["runs"] if row["tasks"] == 1 and "error" not in row), None
    )
    for row in record["runs"]:
        if "error" in row:
            lines.append(f"| {row['tasks']} | {row['error'].replace('|', '/')} |" + " |" * (len(header) - 2))
            continue
        times = row["images_per_s"] / alone if alone else None
        cells = [
            *(row["images_per_s"], times, times and times / row["tasks"], row["images_per_s_with_ends"]),
            *(row["start_seconds"], row["whole_seconds"], row["cores_a_task"], row["rss_gib_a_task"]),
            *(row["bytes_in"] / 1e6, row["bytes_out"] / 1e6),
        ]
        text = ["" if cell is None else f"{cell:.3f}" if cell < 10 else f"{cell:.1f}" for cell in cells]
        if row.get("device_gib_a_task"):
            text[7] += f" ({row['device_gib_a_task']:.1f})"
        lines.append(f"| {row['tasks']} | {' | '.join(text)} |")
    if kill := record.get("kill"):
        lines += ["", killed(kill)]
    return "\n".join(lines)


def killed(kill: dict[str, Any]) -> str:
    """What became of the run whose tasks were killed, in one line."""
    if "error" in kill:
        return f"Killed tasks: {kill['error']}"
    return (
        f"{kill['killed']} of {kill['tasks']} tasks killed with -9 half way, the command given again (exit codes "
        f"{', '.join(map(str, kill['exit_codes']))}): {kill['exactly_once']} of {kill['keys']} keys exactly once, "
        f"{kill['missing']} missing, {kill['more_than_once']} more than once; {kill['shards_equal']} of "
        f"{kill['shards_compared']} shards byte for byte those of the undisturbed run."
    )
