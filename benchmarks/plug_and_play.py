"""The classical row that needs a network: half-quadratic splitting with FFDNet, a denoiser and no generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reddiff_pl.physics.proximal import proximal
from reddiff_pl.physics.unit_range import on_symmetric_range

LEAST = 2.55 / 255  # noise level of the last denoising where the measurement has less, on [0, 1]


def plug_and_play(
    physics: nn.Module,
    y: Tensor,
    noise_std: Tensor,
    start: Tensor,
    denoiser: nn.Module,
    steps: int = 24,
    lam: float = 0.23,
) -> Tensor:
    """Plug-and-play restorations, (B, C, H, W) in [-1, 1].

    With noise levels s_k that fall from 49/255 to the measurement's evenly in log s: x = argmin |y - A(x)|^2 +
    lam (s_y / s_k)^2 |x - z|^2, then z = denoiser(x, s_k). Without noise it ends with a step of the data.

    Args:
        physics: the operator, bound.
        y: measurements, (B, ...).
        noise_std: standard deviation of their noise, (B,), alike for all.
        start: the first z, (B, C, H, W).
        denoiser: called as D(x, sigma=(B,)) on [0, 1].
        steps: how many times the denoiser is called.
        lam: trade-off between the two.

    References:
        Plug-and-Play Image Restoration with Deep Denoiser Prior | https://arxiv.org/abs/2008.13751
        FFDNet: Toward a Fast and Flexible Solution for CNN based Image Denoising | https://arxiv.org/abs/1710.04026
    """
    known = float(noise_std.max())
    physics, y, noise_std = on_symmetric_range(physics, y, noise_std, start)  # type: ignore[arg-type]
    last, z = max(known / 2, LEAST), start
    variance = noise_std.clamp(min=2e-3).square()
    for k in range(steps):
        sigma = 49 / 255 * math.exp(math.log(last * 255 / 49) * k / max(steps - 1, 1))
        rho = lam * variance / (2 * sigma) ** 2
        x = proximal(physics, z, y, rho)  # type: ignore[arg-type]
        z = 2 * denoiser(x / 2 + 0.5, sigma=torch.full((len(x),), sigma, device=x.device)) - 1
    return z if known else proximal(physics, z, y, rho)  # type: ignore[arg-type]
