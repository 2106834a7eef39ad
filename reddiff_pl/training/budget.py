"""How long a training goes on, and the step size over it."""

from __future__ import annotations

import math
from typing import Literal

from reddiff_pl.errors import ConfigError


class Budget:
    """Steps or minutes; with both, the one that is further used up counts.

    Args:
        max_steps: None: no limit.
        max_minutes: None: no limit.
        warmup_steps: steps over which the step size grows from 0.
        decay: how it then falls to 0 over the budget.

    Attributes:
        minutes: used so far. It decides the step size, so it must be the same in all processes.
        begun: minutes until the first step was done; before, nothing is learned, and the step size does not fall.

    Raises:
        ConfigError: there is no limit.
    """

    def __init__(
        self,
        max_steps: int | None,
        max_minutes: float | None,
        warmup_steps: int,
        decay: Literal["cosine", "linear", "constant"],
    ) -> None:
        if max_steps is None and max_minutes is None:
            raise ConfigError("--model.max_steps or --model.max_minutes: give one of them, or both")
        self.max_steps, self.max_minutes = max_steps, max_minutes
        self.warmup_steps, self.decay = warmup_steps, decay
        self.minutes = 0.0
        self.begun: float | None = None

    def is_over(self, step: int) -> bool:
        """Whether it is used up after `step` steps."""
        late = self.max_minutes is not None and self.minutes >= self.max_minutes
        return late or (self.max_steps is not None and step >= self.max_steps)

    def share(self, step: int) -> float:
        """How much of it is used up, 0..1."""
        shares = [0.0]
        if self.max_steps is not None:
            shares.append(step / self.max_steps)
        if self.max_minutes is not None and self.begun is not None:
            shares.append((self.minutes - self.begun) / max(self.max_minutes - self.begun, 1e-9))
        return min(max(shares), 1.0)

    def factor(self, step: int) -> float:
        """The step size of the next step, relative to the largest."""
        share = self.share(step)
        falling = {"cosine": (1 + math.cos(math.pi * share)) / 2, "linear": 1 - share, "constant": 1.0}
        return min(1.0, (step + 1) / max(self.warmup_steps, 1)) * falling[self.decay]
