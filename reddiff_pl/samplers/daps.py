"""DAPS: decoupled annealing posterior sampling.

At each of N levels r of the noise, from large to small, with x0 the current image:

    x_r    = x0 + r n
    x0_hat = the probability-flow ODE from x_r at r down to 0, by Euler steps  x_r' = x_r + (r' - r) eps
    x0     = Langevin steps from x0_hat on exp(-|y - A(x0)|^2 / (2 tau^2) - |x0 - x0_hat|^2 / (2 r^2)),
             of size eta (1 + k / N (delta - 1)) at level k

References:
    Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing | https://arxiv.org/abs/2407.01521
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reddiff_pl.physics.unit_range import on_symmetric_range
from reddiff_pl.priors.base import host_abar
from reddiff_pl.samplers.base import Problem, ProblemState, Sampler, steps_for
from reddiff_pl.samplers.langevin import langevin
from reddiff_pl.samplers.options import check_option
from reddiff_pl.samplers.timesteps import nearest_timestep, time_grid


@dataclass
class DAPSState(ProblemState):
    """State with what the steps need. `x` is x0.

    Attributes:
        noise_std: standard deviation of each measurement's noise, (B,); 0 where it is not known.
        paths: for each level its timesteps, descending: the level itself and the stops of its ODE.
    """

    noise_std: Tensor
    paths: list[list[int]]


class DAPS(Sampler):
    """Decoupled annealing posterior sampling, for any operator with a gradient.

    Args:
        steps: number N of noise levels; `ode_steps` network evaluations each.
        ode_steps: Euler steps of the probability-flow ODE.
        r_max: largest level sigma_t / alpha_t; the prior's largest where that is less.
        r_min: smallest one.
        langevin_steps: Langevin steps a level.
        eta: size of the first level's Langevin steps; stable up to about tau^2 over the operator's squared norm.
        delta: what is left of it at the last level.
        tau: least standard deviation of the measurement's noise that is assumed, in its units on [-1, 1] data; a known
            larger one takes its place.

    Raises:
        ConfigError: an option is out of its range.
    """

    def __init__(
        self,
        steps: int = 200,
        ode_steps: int = 5,
        r_max: float = 100.0,
        r_min: float = 0.1,
        langevin_steps: int = 100,
        eta: float = 1e-4,
        delta: float = 0.01,
        tau: float = 0.01,
    ) -> None:
        for name, number in {
            "steps": steps,
            "ode_steps": ode_steps,
            "langevin_steps": langevin_steps,
        }.items():
            check_option(name, number, 1)
        check_option("r_min", r_min, 1e-4)
        check_option("r_max", r_max, r_min)
        check_option("eta", eta)
        check_option("delta", delta, 0, 1)
        check_option("tau", tau, 1e-6)
        self.steps, self.ode_steps, self.langevin_steps = steps, ode_steps, langevin_steps
        self.r_max, self.r_min, self.eta, self.delta, self.tau = r_max, r_min, eta, delta, tau

    def with_evaluations(self, evaluations: int) -> DAPS:
        # few evaluations: rather levels than stops
        ode_steps = min(self.ode_steps, max(1, evaluations // 50))
        return self._changed(steps=steps_for(evaluations, ode_steps), ode_steps=ode_steps)

    def begin(self, problem: Problem) -> DAPSState:
        abar = host_abar(problem.prior)
        ends = nearest_timestep(abar, self.r_max), nearest_timestep(abar, self.r_min)
        levels = time_grid("karras", abar, self.steps, *ends)
        paths = [time_grid("karras", abar, self.ode_steps + 1, t, 0)[:-1] if t else [t] for t in levels]
        return DAPSState.begin(
            problem, problem.start(), self.steps, noise_std=problem.known_noise(), paths=paths
        )

    def step(self, state: DAPSState) -> DAPSState:  # type: ignore[override]
        abar, path, n = host_abar(state.prior), state.paths[state.step], state.step
        r = [((1 - a) / a) ** 0.5 for a in abar[path].tolist()] + [0.0]
        x = state.x + r[0] * state.normal("n")
        for i, t in enumerate(path):
            state.t = torch.full_like(state.t, t)
            eps = state.eps(x / (1 + r[i] ** 2) ** 0.5)
            if i == 0:
                state.x0_hat = x - r[0] * eps
            x = x + (r[i + 1] - r[i]) * eps

        physics, y, noise_std = on_symmetric_range(state.physics, state.y, state.noise_std, x)
        eta = self.eta * (1 + n / state.steps * (self.delta - 1))
        state.x = langevin(
            physics,
            y,
            x,
            x,
            noise_std.clamp(min=self.tau),
            r[0],
            min(eta, r[0] ** 2),
            self.langevin_steps,
            lambda k: state.noise.normal("z", x.shape[1:], x.dtype, n, k),
        )
        state.step += 1
        return state
