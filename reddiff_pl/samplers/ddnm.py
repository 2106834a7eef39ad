"""DDNM+: denoising diffusion null-space models, with noise and time travel.

Without noise, x0' = x0_hat - A_dagger(A x0_hat - y): the prior fills only what the measurement leaves open. With noise,
in the coordinates of A = U S V^T, with xb = V^T x0_hat, yb_i = (U^T y)_i / s_i and its noise b_i = sigma / s_i, at
r = sigma / alpha of the next timestep,

    x0'_i = xb_i + min(1, r / b_i) (yb_i - xb_i),     v_i = r^2 - min(b_i, r)^2,

so that the measurement's own noise and v_i together are the noise of that level. Then

    x_s / sqrt(s) = V [x0' + sqrt(v) V^T (sqrt(1 - eta^2) eps + eta n)].

Time travel: after every `travel_length` steps the diffusion goes back as many, `travel_repeats` - 1 times.

References:
    Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model | https://arxiv.org/abs/2212.00490
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.binding import operator_of
from reddiff_pl.physics.compose import is_linear
from reddiff_pl.physics.decomposable import Decomposable
from reddiff_pl.priors.base import host_abar
from reddiff_pl.samplers.base import Problem, steps_for
from reddiff_pl.samplers.diffusion import DiffusionSampler, DiffusionState
from reddiff_pl.samplers.options import check_option
from reddiff_pl.samplers.spectral import check_decomposable, spectral


class DDNM(DiffusionSampler):
    """Null-space restoration: linear operators; with noise those with a known singular value decomposition.

    What the operator's own `cut` truncates counts as not measured.

    Args:
        steps: number of timesteps of the uniform grid, one network evaluation each and more with time travel.
        timesteps: an explicit list of timesteps instead of the grid.
        eta: share of new noise, 0 to 1.
        travel_length: steps that a journey back in time undoes.
        travel_repeats: how often every stretch is gone through; 1 is no time travel.

    Raises:
        ConfigError: an option is out of its range; when a batch starts, if the operator does not fit.
    """

    def __init__(
        self,
        steps: int = 100,
        timesteps: list[int] | None = None,
        eta: float = 0.85,
        travel_length: int = 1,
        travel_repeats: int = 1,
    ) -> None:
        super().__init__(steps, timesteps)
        check_option("eta", eta, 0, 1)
        check_option("travel_length", travel_length, 1)
        check_option("travel_repeats", travel_repeats, 1)
        self.eta, self.travel_length, self.travel_repeats = eta, travel_length, travel_repeats

    def with_evaluations(self, evaluations: int) -> DDNM:
        sampler = super().with_evaluations(evaluations)
        each = self.travel_repeats
        return sampler._changed(steps=steps_for(evaluations, each))

    def check(self, state: DiffusionState) -> None:
        operator = operator_of(state.physics)
        if not is_linear(operator):
            name = type(operator).__name__
            raise ConfigError(f"model.sampler: DDNM needs a linear operator, and {name} is not one")
        if state.some_noisy:
            check_decomposable(state, "with noise DDNM needs")

    def begin(self, problem: Problem) -> DiffusionState:
        state = super().begin(problem)
        length = self.travel_length
        stretches = [state.times[i : i + length] for i in range(0, len(state.times), length)]
        state.times = [t for stretch in stretches for t in stretch * self.travel_repeats]
        state.abar = [*host_abar(problem.prior)[state.times].tolist(), 1.0]
        state.steps = len(state.times)
        return state

    def update(self, state: DiffusionState) -> tuple[Tensor, Tensor]:
        a = state.abar[state.step]
        s = min(level for level in state.abar if level > a)
        r = math.sqrt((1 - s) / s)
        eps, x0_hat = state.denoise(state.x)
        n = state.normal("n")
        if isinstance(operator_of(state.physics), Decomposable):
            physics, yb, b = spectral(state)
            xb = physics.V_adjoint(x0_hat)
            share = torch.where(b > r, r / b, 1)  # 0 where nothing is measured
            own = torch.where(b > r, torch.where(b.isinf(), 0, r), b)
            kept = physics.V_adjoint(math.sqrt(1 - self.eta**2) * eps + self.eta * n)
            x = physics.V(xb + share * (yb - xb) + (r**2 - own.square()).clamp(min=0).sqrt() * kept)
        else:
            x0 = x0_hat + state.physics.A_dagger(state.y) - state.physics.A_dagger(state.physics.A(x0_hat))
            x = x0 + r * (math.sqrt(1 - self.eta**2) * eps + self.eta * n)
        x = math.sqrt(s) * x
        back = state.abar[state.step + 1] / s
        if back < 1:  # time travel: the noise between the two levels again
            x = math.sqrt(back) * x + math.sqrt(1 - back) * state.normal("z")
        return x, x0_hat
