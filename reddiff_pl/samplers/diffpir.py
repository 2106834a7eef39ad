"""DiffPIR: plug-and-play restoration with a diffusion prior.

One step, with r_t = sigma_t / alpha_t and noise of standard deviation sigma:

    x0   = argmin_x |y - A(x)|^2 + rho_t |x - x0_hat|^2,    rho_t = lam sigma^2 / r_t^2
    eps' = (x_t - alpha_t x0) / sigma_t
    x_s  = sqrt(s) x0 + sqrt(1-s) (sqrt(1 - zeta) eps' + sqrt(zeta) n)

References:
    Denoising Diffusion Models for Plug-and-Play Image Restoration | https://arxiv.org/abs/2305.08995
"""

from __future__ import annotations

import math

from torch import Tensor

from reddiff_pl.physics.proximal import proximal
from reddiff_pl.physics.unit_range import on_symmetric_range
from reddiff_pl.samplers.diffusion import DiffusionSampler, DiffusionState
from reddiff_pl.samplers.options import check_option


class DiffPIR(DiffusionSampler):
    """Plug-and-play restoration, for any operator.

    The inner problem is solved in closed form where the operator's singular value decomposition is known, by
    conjugate gradients where it is linear, and only lowered by gradient descent where it is not.

    Args:
        steps: number of timesteps of the uniform grid, one network evaluation each.
        timesteps: an explicit list of timesteps instead of the grid.
        lam: weight of the prior, at least 1e-6; published values are 1 to 15, and 1 is Bayes' rule while r_t is small.
        zeta: share of new noise, 0 to 1.
        noise_floor: least standard deviation of the noise that is assumed, in the measurement's units on [-1, 1] data;
            stands for it where it is zero or unknown. At least 1e-6.
        inner_steps: iterations a timestep, for operators whose decomposition is not known.

    Raises:
        ConfigError: an option is out of its range.
    """

    def __init__(
        self,
        steps: int = 100,
        timesteps: list[int] | None = None,
        lam: float = 1.0,
        zeta: float = 1.0,
        noise_floor: float = 0.002,
        inner_steps: int = 20,
    ) -> None:
        super().__init__(steps, timesteps)
        check_option("lam", lam, 1e-6)
        check_option("zeta", zeta, 0, 1)
        check_option("noise_floor", noise_floor, 1e-6)
        check_option("inner_steps", inner_steps, 1)
        self.lam, self.zeta, self.noise_floor, self.inner_steps = lam, zeta, noise_floor, inner_steps

    def update(self, state: DiffusionState) -> tuple[Tensor, Tensor]:
        a, s = state.abar[state.step], state.abar[state.step + 1]
        physics, y, noise_std = on_symmetric_range(state.physics, state.y, state.noise_std, state.x)
        _, x0_hat = state.denoise(state.x)
        rho = self.lam * noise_std.clamp(min=self.noise_floor).square() * a / (1 - a)
        x0 = proximal(physics, x0_hat, y, rho, self.inner_steps)
        eps = (state.x - math.sqrt(a) * x0) / math.sqrt(1 - a)
        x = math.sqrt(s) * x0
        if s < 1:
            noise = math.sqrt(1 - self.zeta) * eps + math.sqrt(self.zeta) * state.normal("n")
            x = x + math.sqrt(1 - s) * noise
        return x, x0_hat
