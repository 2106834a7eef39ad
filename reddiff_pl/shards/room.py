"""A bound for the memory that decoding takes: what is larger than the room left waits, the largest is decoded alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Room:
    """Memory that threads share by their estimates.

    Args:
        total: bytes. One thread alone may take more.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._used = 0
        self._change = threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are left, or nobody else takes any."""
        with self._change:
            self._change.wait_for(lambda: not self._used or self._used + size <= self.total)
            self._used += size
        try:
            yield
        finally:
            with self._change:
                self._used -= size
                self._change.notify_all()
