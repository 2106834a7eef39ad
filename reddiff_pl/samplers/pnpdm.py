"""PnP-DM: plug-and-play Gibbs sampling with a diffusion model.

Alternates two exact draws of exp(-|y - A(z)|^2 / (2 s^2) - |x - z|^2 / (2 rho^2)) p(x):

    z given x: Gaussian where A is linear, drawn by solving a perturbed problem,
               z = argmin |y + s n' - A z|^2 / s^2 + |x + rho n - z|^2 / rho^2;  by Langevin steps where it is not
    x given z: the stochastic reverse diffusion that starts at level rho from z, down to 0

rho falls from round to round. At a fixed rho the draws x follow p(x) N(y; A x, s^2 I + rho^2 A A^T).

References:
    Principled Probabilistic Imaging using Diffusion Models as Plug-and-Play Priors | https://arxiv.org/abs/2405.18782
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reddiff_pl.physics.compose import is_linear
from reddiff_pl.physics.proximal import proximal
from reddiff_pl.physics.unit_range import on_symmetric_range
from reddiff_pl.priors.base import host_abar, per_image
from reddiff_pl.samplers.base import Problem, ProblemState, Sampler, steps_for
from reddiff_pl.samplers.diffusion import ddim_coefficients
from reddiff_pl.samplers.iterates import Iterates
from reddiff_pl.samplers.langevin import langevin
from reddiff_pl.samplers.options import check_option
from reddiff_pl.samplers.timesteps import nearest_timestep, time_grid


@dataclass
class PnPDMState(ProblemState):
    """State with what the steps need.

    Attributes:
        noise_std: standard deviation of each measurement's noise, (B,); 0 where it is not known.
        current: the last draw x; `State.x` may be a mean.
        paths: for each round the timesteps of its reverse diffusion, descending; rho is the level of the first.
    """

    noise_std: Tensor
    current: Tensor
    paths: list[list[int]]
    iterates: Iterates


class PnPDM(Sampler):
    """Plug-and-play Gibbs sampling, for any operator.

    Args:
        steps: number of rounds; `denoise_steps` network evaluations each.
        denoise_steps: steps of the reverse diffusion in a round.
        rho_max: first coupling rho, a level sigma_t / alpha_t.
        rho_min: smallest one.
        decay: factor of rho from round to round.
        noise_floor: least standard deviation of the noise that is assumed, in the measurement's units on [-1, 1] data;
            stands for it where it is zero or unknown. At least 1e-6.
        langevin_steps: Langevin steps a round, for nonlinear operators.
        eta: their size; stable up to about the noise's variance over the operator's squared norm.
        average: share of the rounds, counted from the end, whose draws are averaged; 0 returns the last.
        cg_steps: conjugate gradient steps a round, for linear operators without a known singular value decomposition.

    Raises:
        ConfigError: an option is out of its range.
    """

    def __init__(
        self,
        steps: int = 50,
        denoise_steps: int = 20,
        rho_max: float = 10.0,
        rho_min: float = 0.3,
        decay: float = 0.9,
        noise_floor: float = 0.01,
        langevin_steps: int = 100,
        eta: float = 2e-5,
        average: float = 0.0,
        cg_steps: int = 20,
    ) -> None:
        for name, number in {
            "steps": steps,
            "denoise_steps": denoise_steps,
            "langevin_steps": langevin_steps,
            "cg_steps": cg_steps,
        }.items():
            check_option(name, number, 1)
        check_option("rho_min", rho_min, 1e-3)
        check_option("rho_max", rho_max, rho_min)
        check_option("decay", decay, 0, 1)
        check_option("noise_floor", noise_floor, 1e-6)
        check_option("eta", eta)
        check_option("average", average, 0, 1)
        self.steps, self.denoise_steps, self.langevin_steps = steps, denoise_steps, langevin_steps
        self.rho_max, self.rho_min, self.decay, self.eta = rho_max, rho_min, decay, eta
        self.noise_floor, self.average, self.cg_steps = noise_floor, average, cg_steps

    def with_evaluations(self, evaluations: int) -> PnPDM:
        # few evaluations: shorter diffusions, and as much of rho's fall in fewer rounds
        denoise = min(
            self.denoise_steps, max(2, round(math.sqrt(evaluations * self.denoise_steps / self.steps)))
        )
        steps = steps_for(evaluations, denoise)
        return self._changed(
            steps=steps, denoise_steps=denoise, decay=self.decay ** max(1.0, self.steps / steps)
        )

    def begin(self, problem: Problem) -> PnPDMState:
        abar = host_abar(problem.prior)
        rhos = [max(self.rho_max * self.decay**k, self.rho_min) for k in range(self.steps)]
        starts = [max(nearest_timestep(abar, rho), 1) for rho in rhos]
        paths = [time_grid("karras", abar, self.denoise_steps + 1, t, 0)[:-1] for t in starts]
        x, std = problem.start(), problem.known_noise()
        return PnPDMState.begin(
            problem,
            x,
            self.steps,
            noise_std=std,
            current=x,
            paths=paths,
            iterates=Iterates(self.steps, self.average, None, problem.physics, x, None),
        )

    def step(self, state: PnPDMState) -> PnPDMState:  # type: ignore[override]
        x, n, path = state.current, state.step, state.paths[state.step]
        abar = [*host_abar(state.prior)[path].tolist(), 1.0]
        rho = math.sqrt((1 - abar[0]) / abar[0])
        x_t = math.sqrt(abar[0]) * self._fitted(state, x, rho)
        for k, t in enumerate(path):
            if k and t == path[k - 1]:
                continue  # a level that the prior's schedule does not resolve
            state.t = torch.full_like(state.t, t)
            a, s = abar[k], next(v for v in abar[k + 1 :] if v > abar[k])
            eps = state.eps(x_t)
            x0_hat = (x_t - math.sqrt(1 - a) * eps) / math.sqrt(a)
            if k == 0:
                state.x0_hat = x0_hat
            c1, c2 = ddim_coefficients(a, s, 1.0)
            x_t = math.sqrt(s) * x0_hat + c2 * eps
            if c1:
                x_t = x_t + c1 * state.noise.normal("n", x.shape[1:], x.dtype, n, k)
        state.current = x_t
        state.x = state.iterates.add(x_t, n)
        state.step += 1
        return state

    def _fitted(self, state: PnPDMState, x: Tensor, rho: float) -> Tensor:
        """A draw of z given x, (B, C, H, W)."""
        physics, y, noise_std = on_symmetric_range(state.physics, state.y, state.noise_std, x)
        n, std = state.step, noise_std.clamp(min=self.noise_floor)
        if not is_linear(physics):
            return langevin(
                physics,
                y,
                x,
                x,
                std,
                rho,
                min(self.eta, rho**2),
                self.langevin_steps,
                lambda k: state.noise.normal("z", x.shape[1:], x.dtype, n, k),
            )
        near = x + rho * state.normal("z0")
        seen = y + per_image(std.to(y), y) * state.noise.normal("z", y.shape[1:], y.dtype, n)
        return proximal(physics, near, seen, std.square() / rho**2, self.cg_steps)
