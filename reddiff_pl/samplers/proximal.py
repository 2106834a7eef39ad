"""RED-diff whose steps solve the data term instead of following its gradient.

The regulariser's gradient at timestep t is a pull towards the network's guess of the clean image: with
x_t = alpha_t mu + sigma_t z, x0_hat = (x_t - sigma_t eps) / alpha_t and r_t = sigma_t / alpha_t,

    eps - z = (mu - x0_hat) / r_t,

so a step of RED-diff sees the quadratic |y - A(x)|^2 + rho_t |x - x0_hat|^2, rho_t = (M / D) w_t / (obs_weight r_t).
Here mu goes part of the way to its minimum instead of along its gradient, so that ill-conditioned operators take no
more steps than others:

    x0   = argmin_x |y - A(x)|^2 + rho_t |x - x'|^2,     rho_t = lam + noise_weight s^2 / (c + r_t^2)
    x'   = mu + (c + r_t^2) / r_t^2 (x0_hat - mu)
    v    = momentum v + (1 - momentum) (x0 - mu)
    mu   = mu + lr_t v

s is the noise's standard deviation, where it is known. The pull (mu - x0_hat) / r_t^2 is minus the score of the images
blurred by noise r_t; c guesses the curvature 1 / (c + r_t^2) of their distribution (for a Gaussian one, c is its
variance), so that steps at small r_t still go somewhere. It does not move the fixed point. It also stretches the noise
of a single draw z, which the antithetic pair z, -z takes away to first order.

It begins at the Wiener estimate (`starts.py`), which knows all that a stationary field can: the network's evaluations
are left for what it cannot. Noise levels are given as r_t, so that a setting means the same under every schedule.

`perception` above 0 renoises the estimate and walks on from there as a sampler of the posterior (`perception.py`):
sharper, and less faithful.

References:
    A Variational Perspective on Solving Inverse Problems with Diffusion Models | https://arxiv.org/abs/2305.04391
    Stochastic (Approximate) Proximal Point Methods: Convergence, Optimality, and Adaptivity
    | https://arxiv.org/abs/1810.05633
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.physics.proximal import proximal
from reddiff_pl.physics.unit_range import on_symmetric_range
from reddiff_pl.priors.base import host_abar
from reddiff_pl.samplers.base import Problem, ProblemState, Sampler, State, steps_for
from reddiff_pl.samplers.iterates import Iterates
from reddiff_pl.samplers.options import check_choice, check_option, chosen_times
from reddiff_pl.samplers.perception import Renoise
from reddiff_pl.samplers.sequence import Sequence, SequenceState
from reddiff_pl.samplers.starts import Start, start
from reddiff_pl.samplers.timesteps import Levels, StepSizes, levels, step_size


@dataclass
class ProximalState(ProblemState):
    """State with what the steps need: N timesteps and their abar, the velocity like x.

    Attributes:
        problem: operator, measurement and noise level of the same problem, on [-1, 1] where that makes it linear.
    """

    noise_std: Tensor
    mu: Tensor
    velocity: Tensor
    times: list[int]
    abar: list[float]
    iterates: Iterates
    problem: tuple[Physics, Tensor, Tensor] = field(init=False)


class ProximalREDDiff(Sampler):
    """RED-diff by proximal steps: for any operator, and at its best where it is linear.

    The data term is solved in closed form for operators whose singular value decomposition is known, by conjugate
    gradients for other linear ones, and by descent for nonlinear ones.

    Args:
        steps: number of noise levels, `draws` network evaluations each (twice as many with `antithetic`).
        timesteps: an explicit list of timesteps instead of the grid, visited in descending order.
        start: "wiener", see `starts.py`, or "pseudo_inverse", A_dagger(y).
        grid: how levels are spaced: "log_snr" evenly in log r_t, "karras" in r_t^(1/7).
        r_max: largest noise level r_t = sigma_t / alpha_t; the prior's largest where that is less. null: .06 times the
            number of steps, but .3 to .6.
        r_min: smallest one; null: .3 over the number of steps, but .02 to .06.
        lr: share of the way to the minimum that a step goes, 0 to 1.
        lr_schedule: how it falls over the steps: constant, sqrt, linear, cosine.
        momentum: share of the last step's direction that is kept, 0 to below 1.
        lam: least weight of the guess against the measurement, positive; what noise-free measurements are solved with.
        noise_weight: weight of the guess for each unit of noise variance over r_t^2; 1 is the posterior's own, less
            trusts the measurement more. 0 leaves the noise out of account.
        local_variance: c, the variance of images about the estimate that is assumed, on the [-1, 1] scale; 0 steps no
            further than the denoiser. Above 0 best with `antithetic`. null: .25 over the square of the number of steps,
            but at most .01: fewer steps go further.
        antithetic: evaluate z and -z and average: two network evaluations a draw.
        draws: draws of z that are averaged in a step.
        most_steps: into how many steps --evaluations is divided at most; the others are draws. Many steps lead noisy
            images on towards the most probable one, away from the posterior mean.
        average: share of the steps, counted from the end, whose iterates are averaged; 0 returns the last.
        stop_at_noise: hold an image still when its misfit has come down to so many times the noise level (the
            discrepancy principle), and end when all are; null: never.
        inner_steps: iterations of the data term's solution, for operators whose decomposition is not known.
        perception: the dial between faithful, 0, and sharp, 1: the estimate is renoised to so many times
            `perception_level`, and a sample of the posterior drawn from there.
        perception_level: noise level sigma_t / alpha_t at 1. The default is a sample of the posterior; less loses fewer
            decibels.
        perception_cut: what is coarser than so many cycles a pixel stays as the estimate has it; 0: nothing.
        perception_eta: share of chance in it, 0 to 1. Less is nearer to the image, and several samples to each other.
        perception_share: how far from the estimate to the sample the result lies, 0 to 1.
        perception_epsilon_scale: factor of what the network takes for noise there, .5 to 1.5. A little below 1 leaves
            the detail that a trained network takes away too much.
        perception_steps: network evaluations an image that this takes beside the estimate's own.

    Raises:
        ConfigError: an option is out of its range.
    """

    def __init__(
        self,
        steps: int = 10,
        timesteps: list[int] | None = None,
        start: Start = "wiener",
        grid: Levels = "log_snr",
        r_max: float | None = None,
        r_min: float | None = None,
        lr: float = 1.0,
        lr_schedule: StepSizes = "constant",
        momentum: float = 0.0,
        lam: float = 1e-5,
        noise_weight: float = 0.7,
        local_variance: float | None = None,
        antithetic: bool = True,
        draws: int = 1,
        most_steps: int = 25,
        average: float = 0.2,
        stop_at_noise: float | None = None,
        inner_steps: int = 10,
        perception: float = 0.0,
        perception_level: float = 1.5,
        perception_cut: float = 0.0,
        perception_eta: float = 1.0,
        perception_share: float = 1.0,
        perception_epsilon_scale: float = 1.0,
        perception_steps: int = 40,
    ) -> None:
        check_option("steps", steps, 1)
        check_option("draws", draws, 1)
        check_option("most_steps", most_steps, 1)
        check_option("inner_steps", inner_steps, 1)
        check_option("r_max", 1.0 if r_max is None else r_max, 1e-4)
        check_option("r_min", 1e-4 if r_min is None else r_min, 1e-4, 0.3 if r_max is None else r_max)
        check_option("lr", lr, 0, 1)
        check_option("momentum", momentum, 0, 0.999)
        check_option("lam", lam, 1e-8)
        check_option("noise_weight", noise_weight)
        check_option("local_variance", local_variance or 0)
        check_option("average", average, 0, 1)
        check_option("stop_at_noise", stop_at_noise or 0)
        check_option("perception", perception, 0, 1)
        check_option("perception_level", perception_level, 1e-3)
        check_option("perception_cut", perception_cut, 0, 1)
        check_option("perception_eta", perception_eta, 0, 1)
        check_option("perception_share", perception_share, 0, 1)
        check_option("perception_epsilon_scale", perception_epsilon_scale, 0.5, 1.5)
        check_option("perception_steps", perception_steps, 1)
        check_choice("start", start, get_args(Start))
        check_choice("grid", grid, get_args(Levels))
        check_choice("lr_schedule", lr_schedule, get_args(StepSizes))
        self.steps, self.timesteps, self.start, self.grid = steps, timesteps, start, grid
        self.r_max, self.r_min = r_max, r_min
        self.lr, self.momentum, self.lam, self.noise_weight = lr, momentum, lam, noise_weight
        self.lr_schedule: StepSizes = lr_schedule
        self.antithetic, self.draws, self.most_steps = antithetic, draws, most_steps
        self.average, self.stop_at_noise = average, stop_at_noise
        self.local_variance, self.inner_steps = local_variance, inner_steps
        self.perception, self.perception_level = perception, perception_level
        self.perception_cut, self.perception_eta = perception_cut, perception_eta
        self.perception_share, self.perception_epsilon_scale = perception_share, perception_epsilon_scale
        self.perception_steps = perception_steps

    def with_evaluations(self, evaluations: int) -> ProximalREDDiff:
        """Pairs of draws: up to about `most_steps` as steps, beyond that as more draws a step. With the dial up
        a third of the evaluations is the estimate's.
        """
        if self.perception:
            pair = 2 if self.antithetic else self.draws
            steps_for(evaluations, 2 * pair)
            estimates = max(round(evaluations / 3), pair)
            faithful = self._changed(perception=0.0).with_evaluations(estimates)
            return faithful._changed(perception=self.perception, perception_steps=evaluations - estimates)
        if not self.antithetic:
            return self._changed(steps=steps_for(evaluations, self.draws), timesteps=None)
        pairs = steps_for(evaluations, 2)
        draws = max(1, round(pairs / self.most_steps))
        return self._changed(steps=pairs // draws, draws=draws, timesteps=None)

    def _both(self) -> Sequence:
        """The estimate, and the sampler that starts from it."""
        second = Renoise(
            self.perception_steps,
            max(self.perception * self.perception_level, 1e-3),
            self.perception_cut,
            self.perception_eta,
            self.perception_share,
            self.perception_epsilon_scale,
            self.inner_steps,
        )
        return Sequence([self._changed(perception=0.0), second])

    def begin(self, problem: Problem) -> State:
        return self._both().begin(problem) if self.perception else self._begin(problem)

    def _begin(self, problem: Problem) -> ProximalState:
        mu = start(self.start, problem).detach().clone().contiguous()
        schedule, std = host_abar(problem.prior), problem.known_noise()
        if self.timesteps is None:
            r_max = min(max(0.06 * self.steps, 0.3), 0.6) if self.r_max is None else self.r_max
            r_min = min(max(0.3 / self.steps, 0.02), 0.06, r_max) if self.r_min is None else self.r_min
            times = levels(self.grid, schedule, self.steps, r_max, r_min)
        else:
            times = chosen_times(self.timesteps, "uniform", schedule, self.steps, None, None)
        return ProximalState.begin(
            problem,
            mu,
            len(times),
            noise_std=std,
            mu=mu,
            velocity=torch.zeros_like(mu),
            times=times,
            abar=schedule[times].tolist(),
            iterates=Iterates(len(times), self.average, self.stop_at_noise, problem.physics, mu, std),
        )

    def step(self, state: State) -> State:
        if isinstance(state, SequenceState):
            return self._both().step(state)
        assert isinstance(state, ProximalState)
        mu, n = state.mu, state.step
        if self.stop_at_noise is not None and state.iterates.look(state.y - state.physics.A(mu)):
            state.steps = n  # every image has arrived
            return state

        if n == 0:  # not in `init`, where the operator may not be bound yet
            state.problem = on_symmetric_range(state.physics, state.y, state.noise_std, mu)
        abar = state.abar[n]
        alpha, sigma, variance = abar**0.5, (1 - abar) ** 0.5, (1 - abar) / abar
        state.t = torch.full_like(state.t, state.times[n])
        signs = (1.0, -1.0) if self.antithetic else (1.0,)
        x0_hat = torch.zeros_like(mu)
        for k in range(self.draws):
            z = state.noise.normal("z", mu.shape[1:], mu.dtype, n, k)
            x_t = torch.cat([alpha * mu + sigma * (sign * z) for sign in signs])
            guesses = (x_t - sigma * state.eps(x_t)) / (alpha * len(signs) * self.draws)
            for guess in guesses.split(len(mu)):
                x0_hat += guess

        physics, y, noise_std = state.problem
        spread = min(0.25 / state.steps**2, 0.01) if self.local_variance is None else self.local_variance
        reach = spread + variance
        rho = self.lam + self.noise_weight * noise_std.square() / reach
        x0 = proximal(physics, mu + reach / variance * (x0_hat - mu), y, rho, self.inner_steps)
        state.velocity = self.momentum * state.velocity + (1 - self.momentum) * (x0 - mu)
        lr = self.lr * step_size(self.lr_schedule, n, state.steps)
        state.mu = state.iterates.keep_held(mu + lr * state.velocity, mu)
        state.step += 1
        state.x = state.iterates.add(state.mu, n)
        state.x0_hat = x0_hat
        return state
