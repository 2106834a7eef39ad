"""RED-diff: restoration as variational optimisation.

With q(x0|y) = N(mu, sigma_x0^2 I), minimise over mu the data term plus a weighted score-matching term whose
gradient needs no Jacobian of the network. One step, at timestep t with alpha_t = sqrt(abar_t),
sigma_t = sqrt(1 - abar_t), r_t = sigma_t / alpha_t:

    xh   = mu + sigma_x0 z0
    x_t  = alpha_t xh + sigma_t z
    grad = lam g(r_t) (eps(x_t, t) - z) / D  -  obs_weight A'(xh)^T (y - A(xh)) / M
    mu   = Adam(mu, grad)

D and M are the numbers of elements of one image and of one measurement: the loss is per image, so an image's
result never depends on its batch. A code whose means run over a batch of B does the same steps with
adam_eps = B * 1e-8.

With the defaults this is the published algorithm. Beyond it: other time grids and a falling step size, which need far
fewer evaluations; a weight that knows the measurement's noise (`weighting.py`); a mean over the last iterates and a
stop when the misfit has come down to the noise (`iterates.py`).

References:
    A Variational Perspective on Solving Inverse Problems with Diffusion Models
    | https://arxiv.org/abs/2305.04391
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.devices.copies import send
from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import host_abar, per_image
from reddiff_pl.samplers.base import Problem, ProblemState, Sampler, steps_for
from reddiff_pl.samplers.iterates import Iterates
from reddiff_pl.samplers.options import check_choice, check_option, chosen_times
from reddiff_pl.samplers.timesteps import Grid, Order, StepSizes, ordered_times, step_size
from reddiff_pl.samplers.weighting import WEIGHTINGS, Weighting

# these look at more than one element at a time, and would let images of a batch see each other
_COUPLING_OPTIMIZERS = {"LBFGS", "Adafactor", "Muon", "SparseAdam"}


@dataclass
class REDDiffState(ProblemState):
    """State with what the steps need: times (B, N) long, coefficients (T,), the optimiser.

    Attributes:
        noise_weight: obs_weight (D / M) noise_std^2, (B,), times the sampler's noise_weight; None: no noise.
    """

    mu: Tensor
    optimizer: torch.optim.Optimizer
    lrs: list[float]
    times: Tensor
    alpha: Tensor
    sigma: Tensor
    weight: Tensor
    noise_weight: Tensor | None
    iterates: Iterates


class REDDiff(Sampler):
    """RED-diff, by Adam or another element-wise optimiser.

    Args:
        steps: number of timesteps, 1 to T. One network evaluation each (two with `antithetic`). For the uniform grid a
            number that does not divide T gives another count, see `uniform_grid`.
        timesteps: an explicit list of timesteps instead of the grid, visited as `order` says.
        grid: how timesteps are spaced: uniform, geometric, quadratic, log_snr, karras (see `time_grid`).
        t_max: largest timestep of the grid, at most T - 1; default T - 1, for the uniform grid the published one.
        t_min: smallest timestep of the grid.
        order: time order: descending, ascending, random, random_without_replacement.
        lr: step size of the optimiser.
        lr_schedule: how the step size falls over the steps: constant, sqrt, linear, cosine.
        lam: lambda, the weight of the prior.
        weighting: g(r_t): linear, sqrt, square, log ln(1+r), trunc_linear min(r,1), power2over3, const,
            inverse.
        noise_weight: share of the noise term that is added to the weight of the prior where the measurement's noise
            level is known; 1 is the posterior's own weight, 0 leaves the noise out of account.
        obs_weight: weight of the data term.
        sigma_x0: standard deviation of q(x0|y), on the [-1, 1] scale.
        betas: Adam's.
        adam_eps: Adam's epsilon, for one image; B * 1e-8 repeats a code that averages over a batch of B.
        optimizer: another element-wise torch optimiser, made from a list of tensors; lr, betas and adam_eps
            are then its own affair, lr_schedule still scales its step size.
        timesteps_per_step: K of the parallel form: each optimiser step averages the regulariser's gradient
            over K consecutive timesteps. The number of network evaluations stays.
        antithetic: evaluate z and -z and average: two network evaluations a timestep.
        average: share of the steps, counted from the end, whose iterates are averaged; 0 returns the last.
        stop_at_noise: hold an image still when its misfit has come down to so many times the noise level (the
            discrepancy principle), and end when all are; null: never.
        output: "mu" returns the estimate, "x_hat" the one at which the last gradient was taken, mu before the
            last optimiser step plus sigma_x0 z0, as the authors' published results do.

    Raises:
        ConfigError: an option is out of its range.
    """

    def __init__(
        self,
        steps: int = 100,
        timesteps: list[int] | None = None,
        grid: Grid = "uniform",
        t_max: int | None = None,
        t_min: int | None = None,
        order: Order = "descending",
        lr: float = 0.1,
        lr_schedule: StepSizes = "constant",
        lam: float = 0.25,
        weighting: Weighting = "linear",
        noise_weight: float = 0.0,
        obs_weight: float = 1.0,
        sigma_x0: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        adam_eps: float = 1e-8,
        optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
        timesteps_per_step: int = 1,
        antithetic: bool = False,
        average: float = 0.0,
        stop_at_noise: float | None = None,
        output: Literal["mu", "x_hat"] = "mu",
    ) -> None:
        check_option("steps", steps, 1)
        check_option("timesteps_per_step", timesteps_per_step, 1)
        check_option("average", average, 0, 1)
        check_option("lr", lr, 0, 1e6)  # beyond it torch's own steps overflow
        for name, value in {
            "lam": lam,
            "noise_weight": noise_weight,
            "obs_weight": obs_weight,
            "sigma_x0": sigma_x0,
            "stop_at_noise": stop_at_noise or 0,
        }.items():
            check_option(name, value)
        check_choice("weighting", weighting, tuple(WEIGHTINGS))
        check_choice("order", order, get_args(Order))
        check_choice("grid", grid, get_args(Grid))
        check_choice("lr_schedule", lr_schedule, get_args(StepSizes))
        check_choice("output", output, ("mu", "x_hat"))
        self.steps, self.timesteps, self.order = steps, timesteps, order
        self.grid, self.t_max, self.t_min = grid, t_max, t_min
        self.lr, self.betas, self.adam_eps, self.optimizer = lr, betas, adam_eps, optimizer
        self.lr_schedule: StepSizes = lr_schedule
        self.lam, self.weighting, self.obs_weight = lam, weighting, obs_weight
        self.noise_weight, self.average, self.stop_at_noise = noise_weight, average, stop_at_noise
        self.sigma_x0, self.timesteps_per_step = sigma_x0, timesteps_per_step
        self.antithetic, self.output = antithetic, output

    def with_evaluations(self, evaluations: int) -> REDDiff:
        steps = steps_for(evaluations, 2 if self.antithetic else 1)
        unbounded = self.t_min is None and self.t_max is None  # whose count is not always `steps`
        return self._changed(steps=steps, timesteps=None, t_min=0 if unbounded else self.t_min)

    def begin(self, problem: Problem) -> REDDiffState:
        mu = problem.start().detach().clone().contiguous()
        prior, noise_std = problem.prior, problem.noise_std
        grid = chosen_times(self.timesteps, self.grid, host_abar(prior), self.steps, self.t_max, self.t_min)
        steps = -(-len(grid) // self.timesteps_per_step)
        abar = prior.abar.double()
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        weight = self.lam * WEIGHTINGS[self.weighting](sigma / alpha)
        by_noise = None
        if self.noise_weight and noise_std is not None:
            ratio = mu[0].numel() / problem.y[0].numel()
            by_noise = self.noise_weight * self.obs_weight * ratio * noise_std.to(mu).square()
        optimizer = self._make_optimizer(mu)
        return REDDiffState.begin(
            problem,
            mu,
            steps,
            mu=mu,
            optimizer=optimizer,
            lrs=[group["lr"] for group in optimizer.param_groups],
            times=send(ordered_times(grid, self.order, problem.noise, len(mu)), mu.device),
            alpha=alpha.to(mu),
            sigma=sigma.to(mu),
            weight=weight.to(mu),
            noise_weight=by_noise,
            iterates=Iterates(steps, self.average, self.stop_at_noise, problem.physics, mu, noise_std),
        )

    def step(self, state: REDDiffState) -> REDDiffState:  # type: ignore[override]
        mu, K, n = state.mu, self.timesteps_per_step, state.step
        shape, dtype = mu.shape[1:], mu.dtype
        xh = mu.clone()
        if self.sigma_x0:
            xh += self.sigma_x0 * state.noise.normal("z0", shape, dtype, n)

        pull = torch.zeros_like(mu)
        if self.obs_weight or self.stop_at_noise is not None:
            residual, pull = data_gradient(xh, state.y, state.physics)
            pull *= self.obs_weight
            if state.iterates.look(residual):
                state.steps = n  # every image has arrived
                return state

        gradient = torch.zeros_like(mu)
        times = state.times[:, n * K : (n + 1) * K]
        signs = (1.0, -1.0) if self.antithetic else (1.0,)
        for k, t in enumerate(times.unbind(1)):
            alpha, sigma = per_image(state.alpha[t], mu), per_image(state.sigma[t], mu)
            weight = state.weight[t]
            if state.noise_weight is not None:
                weight = weight + state.noise_weight * (state.alpha[t] / state.sigma[t])
            z = state.noise.normal("z", shape, dtype, n, k)
            for sign in signs:
                x_t = alpha * xh + sigma * (sign * z)
                eps = state.prior.eps(x_t, t, state.label).to(dtype)
                gradient += per_image(weight, mu) * (eps - sign * z)
        gradient /= shape.numel() * len(signs) * times.shape[1]
        gradient += pull

        before = mu.clone() if self.stop_at_noise else mu
        mu.grad = gradient
        for group, lr in zip(state.optimizer.param_groups, state.lrs, strict=True):
            group["lr"] = lr * step_size(self.lr_schedule, n, state.steps)
        state.optimizer.step()
        if self.stop_at_noise:
            mu.copy_(state.iterates.keep_held(mu, before))
        state.step += 1
        state.x = state.iterates.add(xh if self.output == "x_hat" else mu, n)
        state.x0_hat = (x_t - sigma * eps) / alpha
        state.t = t
        return state

    def _make_optimizer(self, mu: Tensor) -> torch.optim.Optimizer:
        if self.optimizer is None:
            # one launch instead of ten
            return torch.optim.Adam(
                [mu], self.lr, self.betas, self.adam_eps, fused=True if mu.is_cuda else None
            )
        optimizer = self.optimizer([mu])
        if type(optimizer).__name__ in _COUPLING_OPTIMIZERS:
            raise ConfigError(
                f"model.sampler.init_args.optimizer: {type(optimizer).__name__} couples the images of a batch; "
                "take an element-wise one (Adam, SGD, RMSprop, ...)"
            )
        return optimizer


def data_gradient(x: Tensor, y: Tensor, physics: Physics) -> tuple[Tensor, Tensor]:
    """y - A(x), (B, ...), and the gradient of 1/2 mean_measurement |y - A(x)|^2 with respect to x, (B, C, H, W).

    Args:
        x: images, (B, C, H, W).
        y: measurements, (B, ...).
        physics: the operator; differentiated by autograd, so it may be nonlinear.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        residual = y - physics.A(x)
        loss = residual.abs().square().flatten(1).mean(1).sum() / 2
        return residual.detach(), torch.autograd.grad(loss, x)[0]
