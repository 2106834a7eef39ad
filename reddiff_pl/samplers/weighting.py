"""How much the prior weighs at each timestep.

The regulariser of RED-diff weighs w_t = lam g(r_t), with r_t = sigma_t / alpha_t, and knows nothing of the noise in the
measurement. For a linear operator and a Gaussian prior N(m, C) a constant t then leads to

    [ obs_weight A^T A / M + w_t r_t (C + r_t^2 I)^-1 / D ] (mu - m) = obs_weight A^T (y - A m) / M

(D and M: elements of an image and of a measurement), which is the posterior mean under the prior N(m, C + r_t^2 I) for
noise of standard deviation s where

    w_t = obs_weight (D / M) s^2 / r_t.

`noise_weight` times that is added: small timesteps then end at the posterior mean of the true noise.

References:
    A Variational Perspective on Solving Inverse Problems with Diffusion Models | https://arxiv.org/abs/2305.04391
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Weighting = Literal["linear", "sqrt", "square", "log", "trunc_linear", "power2over3", "const", "inverse"]

WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda r: r,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "log": torch.log1p,
    "trunc_linear": lambda r: r.clamp(max=1),
    "power2over3": lambda r: r ** (2 / 3),
    "const": torch.ones_like,
    "inverse": torch.reciprocal,
}
