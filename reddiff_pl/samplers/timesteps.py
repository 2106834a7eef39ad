"""Which timesteps a sampler visits, in which order, and how its step size falls on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from reddiff_pl.samplers.noise import Noise

Order = Literal["descending", "ascending", "random", "random_without_replacement"]
Grid = Literal["uniform", "geometric", "quadratic", "log_snr", "karras"]
Levels = Literal["log_snr", "karras"]
StepSizes = Literal["constant", "sqrt", "linear", "cosine"]

# the share of the step size that is left when the share u of the steps is done
_STEP_SIZES: dict[str, Callable[[float], float]] = {
    "constant": lambda u: 1.0,
    "sqrt": lambda u: math.sqrt(1 - u),
    "linear": lambda u: 1 - u,
    "cosine": lambda u: (1 + math.cos(math.pi * u)) / 2,
}


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


def time_grid(grid: Grid, abar: Tensor, steps: int, t_max: int | None, t_min: int | None) -> list[int]:
    """`steps` timesteps from t_max down to t_min, in descending order; close ones may repeat.

    "uniform" is evenly spaced in t, "geometric" in log t, "quadratic" in sqrt t, "log_snr" in log r_t and "karras" in
    r_t^(1/7), with r_t = sigma_t / alpha_t. A uniform grid without bounds is `uniform_grid`.

    Args:
        grid: the spacing.
        abar: the prior's, (T,).
        steps: number of timesteps.
        t_max: first timestep, T - 1 where the prior has fewer; None: T - 1.
        t_min: last timestep; None: 0, for "geometric" 1.

    Raises:
        ValueError: what does not fit.

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models | https://arxiv.org/abs/2206.00364
    """
    T = len(abar)
    if grid == "uniform" and t_max is None and t_min is None:
        return uniform_grid(T, steps)
    high = T - 1 if t_max is None else min(t_max, T - 1)
    low = (1 if grid == "geometric" else 0) if t_min is None else t_min
    if not (0 if grid != "geometric" else 1) <= low <= high < T:
        raise ValueError(
            f"t_min and t_max must be in order in 0..{T - 1} (geometric: 1..), got {low} and {high}"
        )
    u = torch.linspace(0, 1, steps, dtype=torch.float64)
    abar = abar.double().cpu()
    r = ((1 - abar) / abar).sqrt()
    power = {"uniform": 1.0, "quadratic": 1 / 2, "geometric": 0.0, "log_snr": 0.0, "karras": 1 / 7}[grid]
    values = torch.arange(T, dtype=torch.float64) if grid in ("uniform", "quadratic", "geometric") else r
    scale = values.log() if power == 0 else values**power
    wanted = scale[high] + (scale[low] - scale[high]) * u
    right = torch.searchsorted(scale, wanted).clamp(1, T - 1)
    nearer_left = wanted - scale[right - 1] < scale[right] - wanted
    return torch.where(nearer_left, right - 1, right).clamp(low, high).tolist()


def nearest_timestep(abar: Tensor, r: float) -> int:
    """The timestep whose r_t = sigma_t / alpha_t is nearest to r, in log r: the prior's last where r is beyond all.

    Args:
        abar: the prior's, (T,), on the CPU.
        r: noise level, positive.
    """
    levels = ((1 - abar.double()) / abar.double()).sqrt().clamp(min=1e-12).log()
    return int((levels - math.log(r)).abs().argmin())


def levels(grid: Levels, abar: Tensor, steps: int, r_max: float, r_min: float) -> list[int]:
    """`steps` timesteps whose r_t fall from r_max to r_min, in descending order; close ones may repeat.

    Args:
        grid: "log_snr" is even in log r_t, "karras" in r_t^(1/7).
        abar: the prior's, (T,), on the CPU.
        steps: number of timesteps.
        r_max: first level.
        r_min: last level, positive.
    """
    power = {"log_snr": 0.0, "karras": 1 / 7}[grid]
    wanted = []
    for i in range(steps):
        u = i / (steps - 1) if steps > 1 else 0.0
        if power:
            wanted.append((r_max**power + (r_min**power - r_max**power) * u) ** (1 / power))
        else:
            wanted.append(r_max * (r_min / r_max) ** u)
    return [nearest_timestep(abar, r) for r in wanted]


def step_size(schedule: StepSizes, step: int, steps: int) -> float:
    """The factor, from 1 down, of the step size in step `step` of `steps`, counted from 0."""
    return _STEP_SIZES[schedule](step / steps)


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
