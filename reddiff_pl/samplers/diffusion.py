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

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.priors.base import Prior, host_abar
from reddiff_pl.samplers.base import Sampler, State
from reddiff_pl.samplers.noise import Noise
from reddiff_pl.samplers.options import check_option, chosen_times


@dataclass
class DiffusionState(State):
    """State with what the steps need. `x` is x_t, at the level of the next timestep: noisy until the last step.

    Attributes:
        noise_std: standard deviation of each measurement's noise, (B,); 0 where it is not known.
        some_noisy: whether any of them is positive.
        some_clean: whether any of them is 0.
        times: timesteps, descending.
        abar: abar of each, and a last 1: one number more than `times`. Plain numbers: no step waits for a device.
    """

    y: Tensor
    physics: Physics
    prior: Prior
    noise: Noise
    label: Tensor | None
    noise_std: Tensor
    some_noisy: bool
    some_clean: bool
    times: list[int]
    abar: list[float]

    def normal(self, name: str = "n") -> Tensor:
        """This step's standard normal draw, like x."""
        return self.noise.normal(name, self.x.shape[1:], self.x.dtype, self.step)

    def denoise(self, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """The network's eps and x0_hat at x_t of this step, both like x. Differentiable where grad is enabled."""
        a = self.abar[self.step]
        eps = self.prior.eps(x_t, self.t, self.label).to(x_t.dtype)
        return eps, (x_t - math.sqrt(1 - a) * eps) / math.sqrt(a)

    def ddim(self, x0_hat: Tensor, eps: Tensor, eta: float) -> Tensor:
        """x_s by the DDIM step from this timestep to the next, like x."""
        s = self.abar[self.step + 1]
        c1, c2 = ddim_coefficients(self.abar[self.step], s, eta)
        x = math.sqrt(s) * x0_hat + c2 * eps
        return x + c1 * self.normal() if c1 else x


def ddim_coefficients(a: float, s: float, eta: float) -> tuple[float, float]:
    """c1 and c2 of the DDIM step from abar a to abar s >= a."""
    c1 = eta * math.sqrt((1 - a / s) * (1 - s) / (1 - a))
    return c1, math.sqrt(max(1 - s - c1**2, 0.0))


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

    def init(
        self,
        y: Tensor,
        physics: Physics,
        prior: Prior,
        noise: Noise,
        label: Tensor | None = None,
        x_init: Tensor | None = None,
        noise_std: Tensor | None = None,
    ) -> DiffusionState:
        times = chosen_times(self.timesteps, "uniform", host_abar(prior), self.steps, None, None)
        times = sorted(set(times), reverse=True)
        if noise_std is None:
            noise_std = torch.zeros(len(y), device=y.device)
        state = DiffusionState(
            x=y,
            x0_hat=y,
            t=torch.full((len(y),), -1, device=y.device),
            step=0,
            steps=len(times),
            y=y,
            physics=physics,
            prior=prior,
            noise=noise,
            label=label,
            noise_std=noise_std,
            some_noisy=bool((noise_std > 0).any()),
            some_clean=not bool((noise_std > 0).all()),
            times=times,
            abar=[*host_abar(prior)[times].tolist(), 1.0],
        )
        self.check(state)
        state.x0_hat = physics.A_dagger(y) if x_init is None else x_init
        state.x = state.x0_hat
        state.x = self.start(state, x_init)
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
