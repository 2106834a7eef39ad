"""What one would do without a network: bicubic interpolation, or total variation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reddiff_pl.physics.proximal import proximal


def classical(task: str, physics: torch.nn.Module, y: Tensor, size: int, weight: float) -> Tensor:
    """The classical restoration, (B, C, H, W).

    Super-resolution alone: bicubic interpolation of y. Else |y - A(x)|^2 / 2 + weight TV(x) is lowered by 60 rounds of
    plug-and-play splitting: a proximal step of the data term, a TV proximal step (deepinv), the dual update.

    Args:
        task: its name.
        physics: the operator, bound.
        y: measurements, (B, ...).
        size: side of the image.
        weight: of the total variation.
    """
    if task.startswith(("superresolution", "bicubic")) and y.ndim == 4 and "inpainting" not in task:
        return F.interpolate(y, size=(size, size), mode="bicubic", align_corners=False)
    from deepinv.models import TVDenoiser

    denoise = TVDenoiser(n_it_max=30).to(y.device)
    rho = torch.full((len(y),), 0.3, device=y.device)
    x = z = physics.A_dagger(y)
    dual = torch.zeros_like(x)
    for _ in range(60):
        x = proximal(physics, z - dual, y, rho, 5)  # type: ignore[arg-type]
        z = denoise(x + dual, weight / 0.3)
        dual = dual + x - z
    return z
