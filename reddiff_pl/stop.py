"""Stopping on a signal: a flag, set here and looked at between steps. Imported before anything heavy."""

from __future__ import annotations

import signal
import time
from types import FrameType

from reddiff_pl.errors import Stopped

REQUEUE_ME, TERMINATED, INTERRUPTED = 85, 143, 130
_CODES = {
    signal.SIGUSR1: REQUEUE_ME,
    signal.SIGUSR2: REQUEUE_ME,
    signal.SIGTERM: TERMINATED,
    signal.SIGINT: INTERRUPTED,
}
_received: list[int] = []
_began = [time.monotonic()]


def listen() -> None:
    """Let USR1, USR2, TERM and Ctrl-C set the flag. A second Ctrl-C interrupts at once."""
    _began[0] = time.monotonic()
    for number in _CODES:
        signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def receive(number: int) -> None:
    """Take a signal that another process got as one's own."""
    _received.append(number)


def running() -> float:
    """Seconds since the command began."""
    return time.monotonic() - _began[0]


def requested() -> bool:
    """Whether a signal has come."""
    return bool(_received)


def first() -> int:
    """The first signal that came."""
    return _received[0]


def check() -> None:
    """Raise `Stopped` if a signal has come."""
    if _received:
        raise Stopped(signal.Signals(_received[0]).name)


def exit_code() -> int:
    """What the first signal asks for: 85 (requeue me), 143 or 130."""
    return _CODES[signal.Signals(_received[0])] if _received else 0
