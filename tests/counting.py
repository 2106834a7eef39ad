"""RED-diff that counts its work, waits, runs out of memory, or crashes."""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from reddiff_pl.samplers import REDDiff


class CountingREDDiff(REDDiff):
    """Appends a line with the number of rows to $COUNT_FILE for each batch begun."""

    def init(self, y: Any, *args: Any, **kwargs: Any) -> Any:
        if args[2].keys[0] != "check":  # the start-up check is no work
            with open(os.environ["COUNT_FILE"], "a") as file:
                file.write(f"{len(y)}\n")
        return super().init(y, *args, **kwargs)


class WaitingREDDiff(REDDiff):
    """Begins its second batch when the file $GATE exists."""

    begun = 0

    def step(self, state: Any) -> Any:
        if state.step == 0:
            WaitingREDDiff.begun += 1
        while WaitingREDDiff.begun > 1 and not os.path.exists(os.environ["GATE"]):
            time.sleep(0.01)
        return super().step(state)


class NarrowREDDiff(REDDiff):
    """Has memory for one image at a time."""

    def init(self, y: Any, *args: Any, **kwargs: Any) -> Any:
        if len(y) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().init(y, *args, **kwargs)


class RoomlessREDDiff(REDDiff):
    """Has no memory for images of some keys.

    Args:
        keys: what is in these.
    """

    def __init__(self, keys: str = "s0-", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keys = keys

    def init(self, y: Any, physics: Any, prior: Any, noise: Any, *args: Any, **kwargs: Any) -> Any:
        if any(self.keys in key for key in noise.keys):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().init(y, physics, prior, noise, *args, **kwargs)


class EndingREDDiff(REDDiff):
    """Raises StopIteration in its second batch."""

    begun = 0

    def step(self, state: Any) -> Any:
        if state.step == 0:
            EndingREDDiff.begun += 1
        if EndingREDDiff.begun == 2:
            raise StopIteration
        return super().step(state)


class CrashingREDDiff(REDDiff):
    """Crashes in its third batch."""

    begun = 0

    def step(self, state: Any) -> Any:
        if state.step == 0:
            CrashingREDDiff.begun += 1
        if CrashingREDDiff.begun == 3:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return super().step(state)


class DivergingREDDiff(REDDiff):
    """Takes images whose measurement is bright out of all range in its third step."""

    value = float("inf")

    def step(self, state: Any) -> Any:
        state = super().step(state)
        if state.step == 3:
            bright = (state.y.flatten(1).mean(1) > 0.5)[:, None, None, None]
            with torch.no_grad():
                state.x.copy_(torch.where(bright, self.value, state.x))
        return state


class GrowingREDDiff(DivergingREDDiff):
    """The same, but all stays finite."""

    value = 3e4
