"""What the samplers that walk down the diffusion have in common: the time grid, the start, the DDIM step.

They visit timesteps t in descending order. With a = abar_t and s = abar of the next timestep, 1 after the last, and
the network's eps at x_t, the DDIM step is

    x0_hat = (x_t - sqrt(1-a) eps) / sqrt(a)
    c1     = eta sqrt((1 - a/s) (1-s) / (1-a)),    c2 = sqrt(1 - s - c1^2)
    x_s    = sqrt(s) x0_hat + c1 n + c2 eps

eta = 0 is deterministic, eta = 1 draws as much noise as ancestral sampling does.

References:
    Denoising Diffusion Implicit Models | https://arxiv.org/abs/2010.02502
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from reddiff_pl.priors.base import host_abar
from reddiff_pl.samplers.base import Problem, ProblemState, Sampler, steps_for
from reddiff_pl.samplers.options import check_option, chosen_times


@dataclass
class DiffusionState(ProblemState):
    """State with what the steps need. `x` is x_t, at the level of the next timestep: noisy until the last step.

    Attributes:
        noise_std: standard deviation of each measurement's noise, (B,); 0 where it is not known.
        some_noisy: whether any of them is positive.
        some_clean: whether any of them is 0.
        times: timesteps, descending.
        abar: abar of each, and a last 1: one number more than `times`. Plain numbers: no step waits for a device.
    """

    noise_std: Tensor
    some_noisy: bool
    some_clean: bool
    times: list[int]
    abar: list[float]

    def denoise(self, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """The network's eps and x0_hat at x_t of this step, both like x. Differentiable where grad is enabled."""
        a = self.abar[self.step]
        eps = self.eps(x_t)
        return eps, (x_t - math.sqrt(1 - a) * eps) / math.sqrt(a)

    def ddim(self, x0_hat: Tensor, eps: Tensor, eta: float) -> Tensor:
        """x_s by the DDIM step from this timestep to the next, like x."""
        s = self.abar[self.step + 1]
        c1, c2 = ddim_coefficients(self.abar[self.step], s, eta)
        x = math.sqrt(s) * x0_hat + c2 * eps
        return x + c1 * self.normal("n") if c1 else x


def ddim_coefficients(a: float, s: float, eta: float) -> tuple[float, float]:
    """c1 and c2 of the DDIM step from abar a to abar s >= a."""
    c1 = eta * math.sqrt((1 - a / s) * (1 - s) / (1 - a))
    return c1, math.sqrt(max(1 - s - c1**2, 0.0))


Walker = TypeVar("Walker", bound="DiffusionSampler")


class DiffusionSampler(Sampler):
    """Walks from x_T = alpha_T x_init + sigma_T n, x_init by default A_dagger(y), to x_0. A subclass says how.

    Args:
        steps: number of timesteps of the uniform grid, 1 to T. A number that does not divide T gives another count,
            see `uniform_grid`.
        timesteps: an explicit list of timesteps instead of the grid; visited in descending order.

    Raises:
        ConfigError: an option is out of its range.
    """

    def __init__(self, steps: int, timesteps: list[int] | None = None) -> None:
        check_option("steps", steps, 1)
        self.steps, self.timesteps = steps, timesteps
        self._exact = False  # as many steps as `steps` says, also where that does not divide T

    def with_evaluations(self: Walker, evaluations: int) -> Walker:
        return self._changed(steps=steps_for(evaluations), timesteps=None, _exact=True)

    def begin(self, problem: Problem) -> DiffusionState:
        schedule = host_abar(problem.prior)
        exact = self._exact and len(schedule) % self.steps
        times = chosen_times(self.timesteps, "uniform", schedule, self.steps, None, 0 if exact else None)
        times = sorted(set(times), reverse=True)
        noise_std = problem.known_noise()
        state = DiffusionState.begin(
            problem,
            problem.y,
            len(times),
            noise_std=noise_std,
            some_noisy=bool((noise_std > 0).any()),
            some_clean=not bool((noise_std > 0).all()),
            times=times,
            abar=[*schedule[times].tolist(), 1.0],
        )
        self.check(state)
        state.x = state.x0_hat = problem.start()
        state.x = self.start(state, problem.x_init)
        return state

    def check(self, state: DiffusionState) -> None:
        """Refuse operators that the method cannot use. Called before anything is computed.

        Raises:
            ConfigError: what does not fit.
        """

    def start(self, state: DiffusionState, x_init: Tensor | None) -> Tensor:
        """x_T like x. `state.x` holds x_init, or A_dagger(y) where that is None."""
        a = state.abar[0]
        return math.sqrt(a) * state.x + math.sqrt(1 - a) * state.normal("init")

    def step(self, state: DiffusionState) -> DiffusionState:  # type: ignore[override]
        state.t = torch.full_like(state.t, state.times[state.step])
        state.x, state.x0_hat = self.update(state)
        state.step += 1
        return state

    def update(self, state: DiffusionState) -> tuple[Tensor, Tensor]:
        """x at the next timestep, and the network's guess x0_hat, both (B, C, H, W)."""
        raise NotImplementedError
