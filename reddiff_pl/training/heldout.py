"""What a network in training is judged by: the error of its eps by timestep, and samples to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from reddiff_pl.priors.base import per_image
from reddiff_pl.seeding import stream_seed
from reddiff_pl.shards.picture import shown
from reddiff_pl.training.crops import centred

Eps = Callable[[Tensor, Tensor], Tensor]
"""eps(x_t (B, C, H, W), t long (B,)) -> (B, C, H, W)."""


@torch.no_grad()
def eps_mse(
    eps: Eps, x: Tensor, abar: Tensor, timesteps: Sequence[int], seed: int = 0, batch_size: int = 128
) -> dict[int, float]:
    """Mean of (eps - z)^2 over all images and pixels, by timestep. The noise is the same at every call.

    Args:
        eps: the network.
        x: images, (N, C, H, W), uint8, or floats on the [0, 1] scale.
        abar: (T,).
        timesteps: t to look at.
        seed: of the noise.
        batch_size: images at a time.
    """
    out = {}
    for t in timesteps:
        # drawn on the CPU: the same numbers on every device
        generator = torch.Generator().manual_seed(stream_seed(seed, str(t), "z"))
        z = torch.randn(x.shape, generator=generator)
        alpha, sigma = math.sqrt(abar[t]), math.sqrt(1 - abar[t])
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for images, noise in zip(x.split(batch_size), z.split(batch_size), strict=True):
            noise = noise.to(x.device)
            x_t = alpha * centred(images) + sigma * noise
            predicted = eps(x_t, torch.full((len(images),), t, device=x.device))
            total += (predicted.float() - noise).square().sum(dtype=torch.float64)
        out[t] = (total / z.numel()).item()
    return out


def score(losses: Mapping[int, float]) -> float:
    """One number for the errors at several timesteps: their geometric mean, since they span three decades."""
    return math.exp(sum(math.log(max(loss, 1e-30)) for loss in losses.values()) / len(losses))


@torch.no_grad()
def samples(eps: Eps, shape: Sequence[int], abar: Tensor, steps: int, seed: int = 0) -> Tensor:
    """Unconditional samples by DDIM with eta 0, in [-1, 1]; x0 is clipped on the way.

    Args:
        eps: the network.
        shape: (B, C, H, W).
        abar: (T,), on the network's device.
        steps: network evaluations.
        seed: of the start.

    References:
        Denoising Diffusion Implicit Models | https://arxiv.org/abs/2010.02502
    """
    generator = torch.Generator().manual_seed(stream_seed(seed, "samples", "init"))
    x = torch.randn(tuple(shape), generator=generator).to(abar.device)
    grid = torch.linspace(len(abar) - 1, 0, steps).round().long().tolist()
    for t, following in zip(grid, [*grid[1:], -1], strict=True):
        a = abar[torch.full((len(x),), t, device=abar.device)]
        s = abar[following] if following >= 0 else torch.ones_like(abar[0])
        a, s = per_image(a, x).float(), s.float()
        predicted = eps(x, torch.full((len(x),), t, device=x.device)).float()
        x0 = ((x - (1 - a).sqrt() * predicted) / a.sqrt()).clamp(-1, 1)
        x = s.sqrt() * x0 + (1 - s).sqrt() * (x - a.sqrt() * x0) / (1 - a).sqrt()
    return x


def grid(images: Tensor) -> Tensor:
    """(B, C, H, W) in [-1, 1] side by side in a square, uint8 (1 or 3, rows H, columns W), as they can be shown."""
    pictures = shown((images + 1) / 2)
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    _, c, h, w = pictures.shape
    out = torch.zeros(rows * columns, c, h, w, dtype=torch.uint8)
    out[: len(images)] = pictures.cpu()
    return out.reshape(rows, columns, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, rows * h, columns * w)
