"""DDIM: samples of the prior itself. The step is in `diffusion.py`."""

from __future__ import annotations

from torch import Tensor

from reddiff_pl.samplers.diffusion import DiffusionSampler, DiffusionState
from reddiff_pl.samplers.options import check_option


class DDIM(DiffusionSampler):
    """Unconditional samples: of the measurements nothing but their number and the image's size is used.

    Starts from pure noise, or where the caller gives an x_init from alpha_T x_init + sigma_T n.

    Args:
        steps: number of timesteps of the uniform grid, one network evaluation each.
        timesteps: an explicit list of timesteps instead of the grid.
        eta: 0 is deterministic after the start, 1 draws new noise as ancestral sampling does.

    Raises:
        ConfigError: an option is out of its range.

    References:
        Denoising Diffusion Implicit Models | https://arxiv.org/abs/2010.02502
    """

    def __init__(self, steps: int = 100, timesteps: list[int] | None = None, eta: float = 0.0) -> None:
        super().__init__(steps, timesteps)
        check_option("eta", eta, 0, 1)
        self.eta = eta

    def start(self, state: DiffusionState, x_init: Tensor | None) -> Tensor:
        if x_init is not None:
            return super().start(state, x_init)
        return state.normal("init")

    def update(self, state: DiffusionState) -> tuple[Tensor, Tensor]:
        eps, x0_hat = state.denoise(state.x)
        return state.ddim(x0_hat, eps, self.eta), x0_hat
