"""DPS: diffusion posterior sampling.

The DDIM step, then a step down the gradient of the misfit q = |y - A(x0_hat)|^2, taken through the network:

    x_s = sqrt(s) x0_hat + c1 n + c2 eps - zeta / sqrt(q) dq/dx_t

The gradient of the square over its root is twice the gradient of the norm: a code that differentiates the norm
means 2 zeta where this one says zeta.

References:
    Diffusion Posterior Sampling for General Noisy Inverse Problems | https://arxiv.org/abs/2209.14687
"""

from __future__ import annotations

import torch
from torch import Tensor

from reddiff_pl.priors.base import per_image
from reddiff_pl.samplers.diffusion import DiffusionSampler, DiffusionState
from reddiff_pl.samplers.options import check_option


class DPS(DiffusionSampler):
    """Diffusion posterior sampling, for any operator with a gradient.

    A network evaluation is followed by its gradient: about three times the work and several times the memory of one
    alone. The level of the noise is not used.

    Args:
        steps: number of timesteps of the uniform grid, one network evaluation and its gradient each.
        timesteps: an explicit list of timesteps instead of the grid.
        eta: 0 is deterministic after the start, 1 draws new noise as ancestral sampling does.
        zeta: length of the step down the misfit, for the norm over all of the measurement: the larger the more pixels
            are measured. The published values are .5 (inpainting), 1 (super-resolution), .1 (HDR), .4 (phase
            retrieval), 2 (Gaussian blur).

    Raises:
        ConfigError: an option is out of its range.
    """

    def __init__(
        self, steps: int = 1000, timesteps: list[int] | None = None, eta: float = 1.0, zeta: float = 0.5
    ) -> None:
        super().__init__(steps, timesteps)
        check_option("eta", eta, 0, 1)
        check_option("zeta", zeta)
        self.eta, self.zeta = eta, zeta

    def update(self, state: DiffusionState) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x_t = state.x.detach().requires_grad_()
            eps, x0_hat = state.denoise(x_t)
            misfit = (state.y - state.physics.A(x0_hat)).abs().square().flatten(1).sum(1)
            gradient = torch.autograd.grad(misfit.sum(), x_t)[0]
        misfit, eps, x0_hat = misfit.detach(), eps.detach(), x0_hat.detach()
        # an image that fits exactly has no direction to go
        length = torch.where(misfit > 0, self.zeta * misfit.rsqrt(), 0)
        return state.ddim(x0_hat, eps, self.eta) - per_image(length, x_t) * gradient, x0_hat
