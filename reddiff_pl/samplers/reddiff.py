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

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import Prior, per_image
from reddiff_pl.samplers.base import Sampler, State
from reddiff_pl.samplers.noise import Noise
from reddiff_pl.samplers.timesteps import Order, ordered_times, uniform_grid

Weighting = Literal["linear", "sqrt", "square", "log", "trunc_linear", "power2over3", "const", "inverse"]

_WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda r: r,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "log": torch.log1p,
    "trunc_linear": lambda r: r.clamp(max=1),
    "power2over3": lambda r: r ** (2 / 3),
    "const": torch.ones_like,
    "inverse": torch.reciprocal,
}

# these look at more than one element at a time, and would let images of a batch see each other
_COUPLING_OPTIMIZERS = {"LBFGS", "Adafactor", "Muon", "SparseAdam"}


@dataclass
class REDDiffState(State):
    """State with what the steps need: times (B, N) long on the CPU, coefficients (T,), the optimiser."""

    y: Tensor
    physics: Physics
    prior: Prior
    noise: Noise
    label: Tensor | None
    mu: Tensor
    optimizer: torch.optim.Optimizer
    times: Tensor
    alpha: Tensor
    sigma: Tensor
    weight: Tensor


class REDDiff(Sampler):
    """RED-diff with the method's published options.

    Args:
        steps: number of timesteps of the uniform grid, 1 to T. One network evaluation each (two with
            `antithetic`). A number that does not divide T gives another count, see `uniform_grid`.
        timesteps: an explicit list of timesteps instead of the grid, visited as `order` says.
        order: time order: descending, ascending, random, random_without_replacement.
        lr: step size of the optimiser.
        lam: lambda, the weight of the prior.
        weighting: g(r_t): linear, sqrt, square, log ln(1+r), trunc_linear min(r,1), power2over3, const,
            inverse.
        obs_weight: weight of the data term.
        sigma_x0: standard deviation of q(x0|y), on the [-1, 1] scale.
        betas: Adam's.
        adam_eps: Adam's epsilon, for one image; B * 1e-8 repeats a code that averages over a batch of B.
        optimizer: another element-wise torch optimiser, made from a list of tensors; lr, betas and adam_eps
            are then its own affair.
        timesteps_per_step: K of the parallel form: each optimiser step averages the regulariser's gradient
            over K consecutive timesteps. The number of network evaluations stays.
        antithetic: evaluate z and -z and average: two network evaluations a timestep.
        output: "mu" returns the estimate, "x_hat" the one at which the last gradient was taken, mu before the
            last optimiser step plus sigma_x0 z0, as the authors' published results do.

    Raises:
        ConfigError: an option is out of its range.
    """

    def __init__(
        self,
        steps: int = 100,
        timesteps: list[int] | None = None,
        order: Order = "descending",
        lr: float = 0.1,
        lam: float = 0.25,
        weighting: Weighting = "linear",
        obs_weight: float = 1.0,
        sigma_x0: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        adam_eps: float = 1e-8,
        optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
        timesteps_per_step: int = 1,
        antithetic: bool = False,
        output: Literal["mu", "x_hat"] = "mu",
    ) -> None:
        if steps < 1:
            raise ConfigError(f"model.sampler.init_args.steps: must be at least 1, got {steps}")
        if timesteps_per_step < 1:
            raise ConfigError(
                f"model.sampler.init_args.timesteps_per_step: must be at least 1, got {timesteps_per_step}"
            )
        for name, value in {"lr": lr, "lam": lam, "obs_weight": obs_weight, "sigma_x0": sigma_x0}.items():
            if not value >= 0:
                raise ConfigError(f"model.sampler.init_args.{name}: must not be negative, got {value}")
        for name, choice, choices in (
            ("weighting", weighting, tuple(_WEIGHTINGS)),
            ("order", order, get_args(Order)),
            ("output", output, ("mu", "x_hat")),
        ):
            if choice not in choices:
                raise ConfigError(
                    f"model.sampler.init_args.{name}: must be one of {', '.join(choices)}, got {choice}"
                )
        self.steps, self.timesteps, self.order = steps, timesteps, order
        self.lr, self.betas, self.adam_eps, self.optimizer = lr, betas, adam_eps, optimizer
        self.lam, self.weighting, self.obs_weight = lam, weighting, obs_weight
        self.sigma_x0, self.timesteps_per_step = sigma_x0, timesteps_per_step
        self.antithetic, self.output = antithetic, output

    def init(
        self,
        y: Tensor,
        physics: Physics,
        prior: Prior,
        noise: Noise,
        label: Tensor | None = None,
        x_init: Tensor | None = None,
        noise_std: Tensor | None = None,
    ) -> REDDiffState:
        mu = (physics.A_dagger(y) if x_init is None else x_init).detach().clone().contiguous()
        batch, T = len(mu), len(prior.abar)
        grid = self._grid(T)
        abar = prior.abar.double()
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        weight = self.lam * _WEIGHTINGS[self.weighting](sigma / alpha)
        return REDDiffState(
            x=mu,
            x0_hat=mu,
            t=torch.full((batch,), -1, device=mu.device),
            step=0,
            steps=-(-len(grid) // self.timesteps_per_step),
            y=y,
            physics=physics,
            prior=prior,
            noise=noise,
            label=label,
            mu=mu,
            optimizer=self._make_optimizer(mu),
            times=ordered_times(grid, self.order, noise, batch).to(mu.device),
            alpha=alpha.to(mu),
            sigma=sigma.to(mu),
            weight=weight.to(mu),
        )

    def step(self, state: REDDiffState) -> REDDiffState:  # type: ignore[override]
        mu, K, n = state.mu, self.timesteps_per_step, state.step
        shape, dtype = mu.shape[1:], mu.dtype
        xh = mu.clone()
        if self.sigma_x0:
            xh += self.sigma_x0 * state.noise.normal("z0", shape, dtype, n)

        gradient = torch.zeros_like(mu)
        times = state.times[:, n * K : (n + 1) * K]
        signs = (1.0, -1.0) if self.antithetic else (1.0,)
        for k, t in enumerate(times.unbind(1)):
            alpha, sigma = per_image(state.alpha[t], mu), per_image(state.sigma[t], mu)
            weight = per_image(state.weight[t], mu)
            z = state.noise.normal("z", shape, dtype, n, k)
            for sign in signs:
                x_t = alpha * xh + sigma * (sign * z)
                eps = state.prior.eps(x_t, t, state.label).to(dtype)
                gradient += weight * (eps - sign * z)
        gradient /= shape.numel() * len(signs) * times.shape[1]
        if self.obs_weight:
            gradient += self.obs_weight * data_gradient(xh, state.y, state.physics)

        mu.grad = gradient
        state.optimizer.step()
        state.step += 1
        state.x = xh if self.output == "x_hat" else mu
        state.x0_hat = (x_t - sigma * eps) / alpha
        state.t = t
        return state

    def _grid(self, T: int) -> list[int]:
        if self.timesteps is None:
            try:
                return uniform_grid(T, self.steps)
            except ValueError as error:
                raise ConfigError(f"model.sampler.init_args.steps: {error}") from error
        wrong = [t for t in self.timesteps if not 0 <= t < T]
        if wrong or not self.timesteps:
            raise ConfigError(
                f"model.sampler.init_args.timesteps: must be in 0..{T - 1}, got {wrong or '[]'}"
            )
        return sorted(self.timesteps, reverse=True)

    def _make_optimizer(self, mu: Tensor) -> torch.optim.Optimizer:
        if self.optimizer is None:
            return torch.optim.Adam([mu], lr=self.lr, betas=self.betas, eps=self.adam_eps)
        optimizer = self.optimizer([mu])
        if type(optimizer).__name__ in _COUPLING_OPTIMIZERS:
            raise ConfigError(
                f"model.sampler.init_args.optimizer: {type(optimizer).__name__} couples the images of a batch; "
                "take an element-wise one (Adam, SGD, RMSprop, ...)"
            )
        return optimizer


def data_gradient(x: Tensor, y: Tensor, physics: Physics) -> Tensor:
    """Gradient of 1/2 mean_measurement |y - A(x)|^2 with respect to x, (B, C, H, W).

    Args:
        x: images, (B, C, H, W).
        y: measurements, (B, ...).
        physics: the operator; differentiated by autograd, so it may be nonlinear.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        residual = y - physics.A(x)
        loss = residual.abs().square().flatten(1).mean(1).sum() / 2
        return torch.autograd.grad(loss, x)[0]
