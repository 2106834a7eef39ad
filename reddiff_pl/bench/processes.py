"""The side of the bench that starts processes, listens, and ends those that take too long. No torch."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reddiff_pl import stop
from reddiff_pl.bench.disk import last_line
from reddiff_pl.errors import ConfigError


class TimeIsUp(Exception):
    """A process was ended because its time was."""


class Patience:
    """How long to wait.

    Args:
        silence: seconds after which a process that says nothing is ended.
        minutes: after which the whole bench ends; None: never.
    """

    def __init__(self, silence: float, minutes: float | None) -> None:
        self.silence = silence
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    def left(self) -> float:
        """Seconds that a process may take from now on; 0 when the bench is at its end."""
        return self.silence if self._end is None else min(self.silence, max(self._end - time.monotonic(), 0))

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of a process; ends it when its time is up or a signal comes.

        Raises:
            TimeIsUp: it was ended.
            Stopped: a signal came.
        """
        until = time.monotonic() + self.left()
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                    return
                stop.check()
                if time.monotonic() > until:
                    raise TimeIsUp
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that still runs."""
    if process.poll() is None:
        process.kill()
        process.wait()


def ask(job: dict[str, Any], log: Path, patience: Patience) -> Iterator[tuple[str, dict[str, Any]]]:
    """Have a job's rows measured; yields each row's name and its result, or {"error": TEXT}, as they come.

    A process that dies has its row reported and is started again for the rest.

    Raises:
        ConfigError: the options are at fault.
        Stopped: a signal came.
    """
    rest = list(job["rows"])
    while rest:
        failed = ""
        for message in _lines({**job, "rows": rest}, log, patience):
            if "bad" in message:
                raise ConfigError(message["bad"])
            name = message.get("row") or rest[0]
            if "result" in message or message.get("row"):
                rest.remove(name)
                yield name, message.get("result") or {"error": message["error"]}
            else:  # not even begun, so that none of the rows can be
                failed = message["error"]
        if failed:
            yield from ((name, {"error": failed}) for name in rest)
            return


def _lines(job: dict[str, Any], log: Path, patience: Patience) -> Iterator[dict[str, Any]]:
    """What a worker says, without its "begin" lines; the last is an error of its row if it died."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if not patience.left():
        yield {"error": "not measured: no time left"}
        return
    with open(log, "ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "reddiff_pl.bench.worker", json.dumps(job)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
        )
    heard: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(process, heard), daemon=True).start()
    current, count = "", 0
    until = time.monotonic() + patience.left()
    try:
        while True:
            try:
                line = heard.get(timeout=0.2)
            except queue.Empty:
                stop.check()
                if process.poll() is not None:
                    break  # what it started may hold its stdout open
                if time.monotonic() > until:
                    yield _error(current, "took too long")
                    return
                continue
            if not line:
                break
            message = json.loads(line)
            until = time.monotonic() + patience.left()
            if "begin" in message:
                current = "" if message["begin"] == "start" else message["begin"]
                continue
            current, count = "", count + 1
            yield message
        process.wait()
        if current or not count:
            yield _error(current, f"its process ended with {process.returncode}: {last_line(log)}")
    finally:
        end(process)


def _error(row: str, text: str) -> dict[str, Any]:
    return {"row": row, "error": text} if row else {"error": text}


def _listen(process: subprocess.Popen[bytes], heard: queue.Queue[bytes]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        heard.put(line)
    heard.put(b"")
