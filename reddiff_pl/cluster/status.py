"""`reddiff status OUT`: how far a run is, read from its files alone. No torch, no webdataset: it answers at once."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from reddiff_pl.errors import ConfigError
from reddiff_pl.exit_codes import ALL_RESTORED, INTERRUPTED, SOME_FAILED
from reddiff_pl.options.parser import Parser
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.progress import WINDOW
from reddiff_pl.shards.survey import planned_shards, survey

LINES = 10  # entries of a list shown on the terminal


def status(argv: list[str]) -> int:
    """Show how far a run is. Not for a process that holds shards itself: see `survey`.

    Returns:
        0 when all is restored or work is left, 3 when all is done and samples failed, 130 after Ctrl-C.

    Raises:
        ConfigError: there is no run, or a bad option.
    """
    parser = Parser("reddiff status", description="Shards, samples, failures, speed and time left of a run.")
    parser.add_argument("out", metavar="OUT", help="output directory of the run")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        const=10.0,
        type=_seconds,
        help="draw again every so many seconds (default: 10) until all is done",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object; with --watch one a line")
    options = parser.parse_args(argv)
    try:
        with _ordinary_signals():
            return _watch(Run(options.out), options.watch, options.json)
    except KeyboardInterrupt:
        return INTERRUPTED


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expects seconds, got {text}; give OUT before it") from None
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"must be more than 0 seconds, got {text}")
    return seconds


@contextlib.contextmanager
def _ordinary_signals() -> Iterator[None]:
    """Ctrl-C and TERM end the command at once, whatever handlers wait for the end of a sampler step."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _watch(run: Run, seconds: float | None, as_json: bool) -> int:
    planned: dict[str, int] | None = None
    accounts: dict[tuple[str, int], dict[str, Any]] = {}
    while True:
        note = None
        if planned is None:
            try:
                planned = planned_shards(run)
            except ConfigError as error:
                note = f"only the shards found in OUT are shown; the inputs are not known: {error}"
        report = survey(run, planned, accounts)
        report["notes"] += [note] if note else []
        text = json.dumps(report) if as_json else render(report)
        if seconds is not None and not as_json and sys.stdout.isatty():
            text = f"\x1b[H\x1b[2J{text}"
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
        if seconds is None or (report["complete"] and planned is not None):
            return SOME_FAILED if report["complete"] and report["samples"]["failed"] else ALL_RESTORED
        time.sleep(seconds)


def render(report: Mapping[str, Any]) -> str:
    """The report as lines for a terminal."""
    shards, samples = report["shards"], report["samples"]
    counts = [f"{shards['done']:,} of {shards['total']:,} shards done", f"{shards['running']:,} running"]
    if shards["left_behind"]:
        counts.append(f"{shards['left_behind']:,} left behind")
    counts.append(f"{shards['pending']:,} pending")
    lines = [f"{report['out']}: {', '.join(counts)}"]
    if shards["cut_by_limit"]:
        lines.append(f"note      {shards['cut_by_limit']:,} of the pending shards were cut short by --limit")
    lines += [f"note      {note}" for note in report["notes"]]
    about = "" if all(entry["exact"] for entry in report["working"]) else "about "
    more = f"; {about}{samples['in_progress']:,} more in unfinished shards" if report["working"] else ""
    lines.append(f"samples   {samples['restored']:,} restored, {samples['failed']:,} failed{more}")
    if report["metrics"]:
        means = (f"{name} {value:.4g}" for name, value in sorted(report["metrics"].items()))
        lines.append(f"mean      {', '.join(means)}")
    if report["images_per_second"]:
        left = f", about {_span(report['eta_seconds'])} left" if report["eta_seconds"] is not None else ""
        rate = report["images_per_second"]
        lines.append(f"speed     {rate:.3g} images/s over the last {_span(WINDOW)}{left}")

    def block(title: str, entries: list[str]) -> None:
        rest = [f"... and {len(entries) - LINES:,} more; --json lists all"] if len(entries) > LINES else []
        lines.extend([title, *(f"  {entry}" for entry in entries[:LINES] + rest)] if entries else [])

    block("failed", [f"{one['count']:7,}  {one['reason']} ({_example(one)})" for one in report["failures"]])
    order = {"left behind": 0, "running": 2}
    working = sorted(report["working"], key=lambda entry: order[entry["state"]] - entry["stale"])
    block("unfinished", [_line(entry) for entry in working])
    block("damaged", [f"{entry['name']}  {entry['reason']}" for entry in report["damaged"]])
    # keys and reasons come with the data: nothing in them may steer the terminal
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def _example(failure: Mapping[str, Any]) -> str:
    key = f"{failure['key']} in " if failure["key"] else ""
    return f"{'e.g. ' if failure['count'] > 1 else ''}{key}{failure['shard']}"


def _line(entry: Mapping[str, Any]) -> str:
    task = "" if entry["task"] is None else f"task {entry['task']}, "
    who = f"{task}{entry['host']} process {entry['pid']}" if entry["host"] else "an unknown task"
    age = entry["seconds_since_sample"]
    samples = f"{'' if entry['exact'] else 'about '}{entry['samples']:,} samples"
    last = "" if age is None else f", {'the last' if entry['samples'] else 'taken up'} {_span(age)} ago"
    if entry["state"] == "left behind":
        return f"{entry['name']}  {samples}{last}; left behind by {who}: will be taken up"
    return f"{entry['name']}  {samples}{last}; {who}{': looks stale' if entry['stale'] else ''}"


def _span(seconds: float) -> str:
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} {int(seconds % size // smaller)} {name}"
    return f"{int(seconds // 60)} min" if seconds >= 60 else f"{int(seconds)} s"
