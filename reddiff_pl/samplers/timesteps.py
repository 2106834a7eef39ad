"""Which timesteps a sampler visits, and in which order."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from reddiff_pl.samplers.noise import Noise

Order = Literal["descending", "ascending", "random", "random_without_replacement"]


def uniform_grid(T: int, steps: int) -> list[int]:
    """The method's own grid: every (T // steps)-th timestep from 0 up, given in descending order.

    A `steps` that does not divide T gives another count: T = 1000, steps = 300 gives 334 timesteps.

    Args:
        T: number of timesteps of the prior.
        steps: wanted number of timesteps, 1 to T.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"steps must be in 1..{T}, got {steps}")
    return list(range(0, T, T // steps))[::-1]


def ordered_times(grid: list[int], order: Order, noise: Noise, batch: int) -> Tensor:
    """The sequence of timesteps of each image, (B, len(grid)), long, on the CPU.

    Random orders are drawn for each image from its own noise stream, so they do not depend on the batch.

    Args:
        grid: timesteps, descending.
        order: "descending", "ascending", "random" (each step draws from the grid, with replacement) or
            "random_without_replacement" (a permutation of the grid).
        noise: draws one normal number a step for the random orders.
        batch: B.
    """
    times = torch.tensor(grid)
    if order == "descending":
        return times.expand(batch, -1)
    if order == "ascending":
        return times.flip(0).expand(batch, -1)
    draws = noise.normal("t", (len(grid),), torch.float64).cpu()
    if order == "random_without_replacement":
        return times[draws.argsort(dim=1)]
    uniform = torch.special.ndtr(draws)  # the normal's own distribution function makes it uniform
    return times[(uniform * len(grid)).long().clamp(max=len(grid) - 1)]
