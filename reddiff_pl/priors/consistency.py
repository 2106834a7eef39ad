"""Consistency networks as denoisers: f(x, t), an image where others answer with the mean of all that it may be.

f joins its input and the network's guess so that it is the identity where there is no noise. With s = sigma_data:

    LCM, at x_t:              f = c_skip x_t + c_out x0          tau = timestep_scaling t
                              c_skip = s^2 / (tau^2 + s^2)       c_out = tau / sqrt(tau^2 + s^2)
    in sigma, at x = x0 + sigma z:
                              f = c_skip x + c_out F(x / sqrt(sigma^2 + s^2), 250 ln sigma)
                              c_skip = s^2 / (d^2 + s^2)         c_out = s d / sqrt(sigma^2 + s^2)
                              d = sigma - sigma_min

Samplers see the noise that f leaves: eps = (x_t - alpha_t f) / sigma_t.

References:
    Consistency Models | https://arxiv.org/abs/2303.01469
    Latent Consistency Models | https://arxiv.org/abs/2310.04378
    LATINO-PRO: LAtent consisTency INverse sOlver with PRompt Optimization | https://arxiv.org/abs/2503.12615
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import linear_abar, per_image
from reddiff_pl.priors.prediction import levels

SIGMA_DATA = 0.5


@dataclass(frozen=True)
class AtTimesteps:
    """As LCMScheduler has it: the network predicts what it did before it was distilled.

    Attributes:
        scaling: timestep_scaling.
    """

    scaling: float

    def eps(self, eps: Tensor, x_t: Tensor, t: Tensor, abar: Tensor) -> Tensor:
        """The noise that f leaves, (B, C, H, W).

        Args:
            eps: that the network predicts, or stands for.
            x_t: noisy images, (B, C, H, W).
            t: timesteps, (B,).
            abar: of each image, (B,).
        """
        alpha, sigma = levels(abar, x_t)
        c_skip = per_image((SIGMA_DATA**2 / ((self.scaling * t.double()) ** 2 + SIGMA_DATA**2)).float(), x_t)
        x0 = (x_t - sigma * eps) / alpha
        return (x_t - alpha * (c_skip * x_t + (1 - c_skip).sqrt() * x0)) / sigma


@dataclass(frozen=True)
class InSigma:
    """As CMStochasticIterativeScheduler has it.

    Attributes:
        data: sigma_data.
        smallest: sigma_min.
        largest: sigma_max.
    """

    data: float
    smallest: float
    largest: float

    def abar(self) -> Tensor:
        """Of the linear beta schedule's levels, for which the samplers' defaults are chosen, as far as f knows them."""
        ends = (1 / (1 + sigma**2) for sigma in (self.largest, self.smallest))
        return linear_abar().clamp(*ends)

    def asked(self, x_t: Tensor, abar: Tensor) -> tuple[Tensor, Tensor]:
        """What F sees, (B, C, H, W), and is told of the noise, (B,)."""
        sigma = ((1 - abar) / abar).sqrt()
        scale = 1 / (abar * (sigma.square() + self.data**2)).sqrt()
        return per_image(scale.to(x_t.dtype), x_t) * x_t, (250 * sigma.log()).float()

    def eps(self, output: Tensor, x_t: Tensor, abar: Tensor) -> Tensor:
        """The noise that f leaves, (B, C, H, W), for an output of F."""
        sigma = ((1 - abar) / abar).sqrt()
        d = sigma - self.smallest
        # x - c_skip x in one, so that no two large numbers are subtracted
        left = d.square() / (d.square() + self.data**2) / sigma / abar.sqrt()
        c_out = d * self.data / (sigma.square() + self.data**2).sqrt() / sigma
        left, c_out = (per_image(factor.to(x_t.dtype), x_t) for factor in (left, c_out))
        return left * x_t - c_out * output


def consistency_of(scheduler: Mapping[str, Any]) -> AtTimesteps | InSigma | None:
    """How a network joins its input and its guess; None where it does not.

    Args:
        scheduler: its scheduler's configuration, with diffusers' names and defaults.

    Raises:
        ConfigError: numbers that do not make one.
    """
    kind = scheduler.get("_class_name")
    try:
        if kind == "LCMScheduler":
            return AtTimesteps(float(scheduler.get("timestep_scaling") or 10.0))
        if kind != "CMStochasticIterativeScheduler":
            return None
        made = InSigma(
            float(scheduler.get("sigma_data", SIGMA_DATA)),
            float(scheduler.get("sigma_min", 0.002)),
            float(scheduler.get("sigma_max", 80.0)),
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.prior: its {kind} cannot be read: {error}") from error
    if not (made.data > 0 and 0 < made.smallest < made.largest < torch.inf):
        raise ConfigError(
            "model.prior: 0 < sigma_min < sigma_max and sigma_data > 0 are needed, its CMStochasticIterativeScheduler "
            f"says {made.smallest}, {made.largest}, {made.data}"
        )
    return made
