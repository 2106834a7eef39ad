"""PiGDM: pseudo-inverse guided diffusion.

Guidance as if x0 given x_t were N(x0_hat, rho_t^2 I) with rho_t^2 = 1 - abar_t. Noise free,

    d = A_dagger(y) - A_dagger(A(x0_hat)),      g = d/dx_t <stopgrad(d), x0_hat>
    x_s = sqrt(s) x0_hat + c1 n + c2 eps + sqrt(s) sqrt(a) lam g

With noise of standard deviation sigma, d = A^T (A A^T + sigma^2 / rho_t^2)^-1 (y - A x0_hat), which is x - x0_hat for
the proximal point x of |y - A x|^2 + sigma^2 / rho_t^2 |x - x0_hat|^2. g / rho_t^2 is then the gradient of
log p(y | x_t), exact where the prior is a standard normal one. The step does not weigh it as Bayes' rule would: the
sum of all weights grows with the number of steps. On Gaussian fields lam near 30 / steps comes nearest to the posterior
mean, for weak and strong noise alike; the published lam of 1 at 100 steps follows strong noise.

References:
    Pseudoinverse-Guided Diffusion Models for Inverse Problems | https://openreview.net/forum?id=9_gsMA8MRKQ
"""

from __future__ import annotations

import math

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.binding import operator_of
from reddiff_pl.physics.compose import is_linear
from reddiff_pl.physics.proximal import proximal
from reddiff_pl.physics.unit_range import on_symmetric_range
from reddiff_pl.priors.base import per_image
from reddiff_pl.samplers.diffusion import DiffusionSampler, DiffusionState
from reddiff_pl.samplers.options import check_option


class PiGDM(DiffusionSampler):
    """Pseudo-inverse guidance: linear operators, and nonlinear ones with an A_dagger where the noise is ignored.

    A network evaluation is followed by its gradient: about three times the work and several times the memory of one
    alone.

    Args:
        steps: number of timesteps of the uniform grid, one network evaluation and its gradient each.
        timesteps: an explicit list of timesteps instead of the grid.
        eta: 0 is deterministic after the start, 1 draws new noise as ancestral sampling does.
        lam: weight of the guidance; smaller with more steps and with stronger noise.
        noise_aware: use the measurement's noise level where it is known; false treats every measurement as free of
            noise. Nonlinear operators need false where there is noise.
        project: before the step put what is measured into x0_hat, x0_hat + A_dagger(y) - A_dagger(A(x0_hat)), and
            take it out of g, as the authors' published code does for inpainting. Linear operators only.
        cg_steps: conjugate gradient steps a timestep where there is noise and the operator has no known singular value
            decomposition.

    Raises:
        ConfigError: an option is out of its range; when a batch starts, if the operator does not fit.
    """

    def __init__(
        self,
        steps: int = 100,
        timesteps: list[int] | None = None,
        eta: float = 1.0,
        lam: float = 1.0,
        noise_aware: bool = True,
        project: bool = False,
        cg_steps: int = 20,
    ) -> None:
        super().__init__(steps, timesteps)
        check_option("eta", eta, 0, 1)
        check_option("lam", lam)
        check_option("cg_steps", cg_steps, 1)
        self.eta, self.lam = eta, lam
        self.noise_aware, self.project, self.cg_steps = noise_aware, project, cg_steps

    def check(self, state: DiffusionState) -> None:
        if not self.noise_aware:
            state.noise_std = torch.zeros_like(state.noise_std)
            state.some_noisy, state.some_clean = False, True
        operator = operator_of(state.physics)
        if is_linear(operator):
            return
        name = type(operator).__name__
        if self.project:
            raise ConfigError(f"model.sampler.init_args.project: needs a linear operator, {name} is not one")
        if state.some_noisy:
            raise ConfigError(
                f"model.sampler.init_args.noise_aware: PiGDM weighs noise for linear operators only, and {name} is not "
                "one; false treats the measurement as free of noise"
            )

    def update(self, state: DiffusionState) -> tuple[Tensor, Tensor]:
        a, s = state.abar[state.step], state.abar[state.step + 1]
        physics, y, noise_std = on_symmetric_range(state.physics, state.y, state.noise_std, state.x)
        with torch.enable_grad():
            x_t = state.x.detach().requires_grad_()
            eps, x0_hat = state.denoise(x_t)
            with torch.no_grad():
                rho = noise_std.square() / (1 - a)
                pull = self._pull(state, physics, x0_hat.detach(), y, rho)
            g = torch.autograd.grad((pull * x0_hat).sum(), x_t)[0]
        eps, x0_hat = eps.detach(), x0_hat.detach()
        x0 = x0_hat
        if self.project:
            x0 = x0_hat + physics.A_dagger(y) - physics.A_dagger(physics.A(x0_hat))
            g = g - physics.A_dagger(physics.A(g))
        return state.ddim(x0, eps, self.eta) + math.sqrt(s * a) * self.lam * g, x0_hat

    def _pull(
        self, state: DiffusionState, physics: Physics, x0_hat: Tensor, y: Tensor, rho: Tensor
    ) -> Tensor:
        """d, (B, C, H, W), with rho = sigma^2 / rho_t^2, (B,)."""
        if state.some_noisy:
            weighed = proximal(physics, x0_hat, y, rho, self.cg_steps) - x0_hat
            if not state.some_clean:
                return weighed
        exact = physics.A_dagger(y) - physics.A_dagger(physics.A(x0_hat))
        return torch.where(per_image(rho > 0, x0_hat), weighed, exact) if state.some_noisy else exact
