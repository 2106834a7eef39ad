"""Classifier-free guidance: the difference that a condition makes, enlarged.

    eps <- eps(x_t, null) + scale (eps(x_t, condition) - eps(x_t, null))

References:
    Classifier-Free Diffusion Guidance | https://arxiv.org/abs/2207.12598
"""

from __future__ import annotations

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import Prior, describe, labels_of


class Guidance(Prior):
    """A conditional prior whose eps with and without the condition are one network evaluation of twice the batch.

    Args:
        prior: conditional on classes or words.
        scale: 1 is the prior itself, at the price of one; 0 the unconditional one.
        null_label: the class that stands for none. Default: the prior's own, where it has one.

    Raises:
        ConfigError: the prior takes no condition, or it works on latents and belongs inside `Latent`.
    """

    def __init__(self, prior: Prior, scale: float, null_label: int | None = None) -> None:
        super().__init__()
        if prior.latent:
            raise ConfigError("model.prior: put Guidance inside Latent")
        if not prior.classes and not prior.words:
            raise ConfigError("model.prior: Guidance needs a prior that takes classes or words")
        self.prior, self.scale, self.null = prior, scale, null_label
        self.shape, self.classes, self.default_label = prior.shape, prior.classes, prior.default_label
        self.words, self.any_size = prior.words, prior.any_size
        self.register_buffer("abar", prior.abar, persistent=False)
        if null_label is None and not prior.words:
            prior.null_label(torch.zeros(1, dtype=torch.long))

    def settings(self) -> str:
        return f"{self.scale} {self.null} {describe(self.prior)}"

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        label = labels_of(self, label, len(x_t)).to(x_t.device)
        if self.scale == 1:
            return self.prior.eps(x_t, t, label)
        null = self.prior.null_label(label) if self.null is None else torch.full_like(label, self.null)
        both = self.prior.eps(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([label, null]))
        conditional, without = both.chunk(2)
        return without + self.scale * (conditional - without)

    def calls(self, images: int, most: int, like: Tensor) -> list[int]:
        return self.prior.calls(images, most, like)

    def release(self) -> None:
        self.prior.release()
