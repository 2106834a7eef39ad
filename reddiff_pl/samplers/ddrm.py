"""DDRM: denoising diffusion restoration, in the operator's spectral coordinates.

With A = U S V^T, r_t = sigma_t / alpha_t, xb = V^T x0_hat, eb = V^T eps, yb_i = (U^T y)_i / s_i and its noise
b_i = sigma / s_i, the next x/alpha has the coefficients, at r of the next timestep,

    not measured     xb + sqrt(1 - eta^2) r eb + eta r n
    r < b_i          xb + sqrt(1 - eta^2) r (yb - xb) / b_i + eta r n
    r >= b_i         eta_b yb + (1 - eta_b) xb + sqrt(r^2 - eta_b^2 b_i^2) n

References:
    Denoising Diffusion Restoration Models | https://arxiv.org/abs/2201.11793
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reddiff_pl.samplers.diffusion import DiffusionSampler, DiffusionState
from reddiff_pl.samplers.options import check_option
from reddiff_pl.samplers.spectral import check_decomposable, spectral


class DDRM(DiffusionSampler):
    """Denoising diffusion restoration, for operators with a known singular value decomposition.

    Starts at the last timestep from the measured coefficients and noise, or where the caller gives an x_init from
    alpha_T x_init + sigma_T n. What the operator's own `cut` truncates counts as not measured.

    Args:
        steps: number of timesteps of the uniform grid, one network evaluation each.
        timesteps: an explicit list of timesteps instead of the grid.
        eta: share of new noise where the measurement is noisier than the timestep or missing, 0 to 1.
        eta_b: how much of the measurement replaces the guess where it is less noisy than the timestep, 0 to 1.

    Raises:
        ConfigError: an option is out of its range; when a batch starts, if the operator is not decomposable.
    """

    def __init__(
        self, steps: int = 20, timesteps: list[int] | None = None, eta: float = 0.85, eta_b: float = 1.0
    ) -> None:
        super().__init__(steps, timesteps)
        check_option("eta", eta, 0, 1)
        check_option("eta_b", eta_b, 0, 1)
        self.eta, self.eta_b = eta, eta_b

    def check(self, state: DiffusionState) -> None:
        check_decomposable(state, "DDRM needs")

    def start(self, state: DiffusionState, x_init: Tensor | None) -> Tensor:
        if x_init is not None:
            return super().start(state, x_init)
        physics, yb, b = spectral(state)
        a = state.abar[0]
        r = math.sqrt((1 - a) / a)
        n = state.normal("init")
        known = yb + (r**2 - b.square()).clamp(min=0).sqrt() * n
        return physics.V(torch.where(b <= r, known, r * n)) / r

    def update(self, state: DiffusionState) -> tuple[Tensor, Tensor]:
        physics, yb, b = spectral(state)
        s = state.abar[state.step + 1]
        r = math.sqrt((1 - s) / s)
        eps, x0_hat = state.denoise(state.x)
        xb, n = physics.V_adjoint(x0_hat), state.normal("n")
        # the noise that is kept: the network's own, or what the measurement says it is
        kept = torch.where(b.isinf(), r * physics.V_adjoint(eps), r / b * (yb - xb))
        beyond = xb + math.sqrt(1 - self.eta**2) * kept + self.eta * r * n
        fresh = (r**2 - self.eta_b**2 * b.square()).clamp(min=0).sqrt()
        within = self.eta_b * yb + (1 - self.eta_b) * xb + fresh * n
        return math.sqrt(s) * physics.V(torch.where(b <= r, within, beyond)), x0_hat
