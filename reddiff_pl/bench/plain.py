"""RED-diff as one would write it down: what the fast path is compared with.

An eager diffusers network in NCHW, whose evaluation autograd records although its output is detached; Adam on mu with
the scalar loss

    loss = mean[w_t (eps - z) mu] + 1/2 mean[(y - A(mu))^2],    w_t = lam sigma_t / alpha_t

over the whole batch, so that its steps are those of `REDDiff` with adam_eps = B * 1e-8.

References:
    A Variational Perspective on Solving Inverse Problems with Diffusion Models | https://arxiv.org/abs/2305.04391
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import Prior
from reddiff_pl.priors.loading import find_folder, load_network, part, scheduler_config
from reddiff_pl.priors.precision import autocast
from reddiff_pl.priors.schedule import abar_from
from reddiff_pl.priors.unet import BUNDLED


class PlainPrior(Prior):
    """A diffusers UNet2DModel as it comes, under autocast for "bf16" and "16". It must predict eps.

    Args:
        path: diffusers folder; None: the bundled prior.
        precision: 32, bf16 or 16.
    """

    def __init__(self, path: str | None, precision: str) -> None:
        super().__init__()
        folder = part(find_folder(path or str(BUNDLED), hub=False), ("unet",))
        # a plain script forgets to switch the gradients of the weights off
        self.network = load_network(folder, ("UNet2DModel",), "--network").requires_grad_(True)
        config: Any = self.network.config
        schedule = {"num_train_timesteps": 1000, **(scheduler_config(folder, "--network") or {})}
        if schedule.get("prediction_type", "epsilon") != "epsilon":
            raise ConfigError("--network: the plain loop needs a network that predicts eps")
        self.register_buffer("abar", abar_from(schedule), persistent=False)
        self.shape = (config.in_channels, config.sample_size, config.sample_size)
        self.classes = config.num_class_embeds or 0
        self.precision = precision

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        with autocast(x_t.device, self.precision):
            output = self.network(x_t, t, class_labels=label).sample
        return output[:, : self.shape[0]].float()


def plain_reddiff(
    prior: Prior,
    y: Tensor,
    A: Callable[[Tensor], Tensor],
    start: Tensor,
    times: Sequence[int],
    label: Tensor | None = None,
    lr: float = 0.1,
    lam: float = 0.25,
    draw: Callable[[Tensor, int], Tensor] = lambda mu, step: torch.randn_like(mu),
) -> Tensor:
    """RED-diff at these timesteps; returns mu, (B, C, H, W).

    Args:
        prior: the network.
        y: measurements, (B, ...).
        A: the operator.
        start: mu before the first step, (B, C, H, W).
        times: timesteps, one network evaluation each.
        label: class labels, long (B,), for class-conditional networks.
        lr: Adam's step size.
        lam: weight of the prior.
        draw: standard normal noise like mu, for a step.
    """
    with torch.enable_grad():
        mu = nn.Parameter(start.clone())
        optimizer = torch.optim.Adam([mu], lr=lr, betas=(0.9, 0.99))
        for step, t in enumerate(times):
            alpha, sigma = prior.abar[t].sqrt().float(), (1 - prior.abar[t]).sqrt().float()
            z = draw(mu.detach(), step)
            x_t = alpha * mu + sigma * z
            here = torch.full((len(mu),), t, device=mu.device)
            eps = prior.eps(x_t, here, label).detach()
            loss = (lam * sigma / alpha * (eps - z) * mu).mean() + 0.5 * (y - A(mu)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return mu.detach()
