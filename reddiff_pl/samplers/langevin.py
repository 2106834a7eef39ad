"""Langevin steps on the clean image, for samplers that alternate between the prior and the measurement.

The target is exp(-|y - A(x)|^2 / (2 tau^2) - |x - centre|^2 / (2 radius^2)), a step of size eta

    x <- x + eta grad log target + sqrt(2 eta) n.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.priors.base import per_image


def langevin(
    physics: Physics,
    y: Tensor,
    x: Tensor,
    centre: Tensor,
    tau: Tensor,
    radius: float,
    eta: float,
    steps: int,
    draw: Callable[[int], Tensor],
) -> Tensor:
    """x after so many steps, (B, C, H, W). Stable while eta is at most tau^2 / |A|^2 and radius^2.

    Args:
        physics: the operator, differentiable.
        y: measurements, (B, ...).
        x: start, (B, C, H, W).
        centre: (B, C, H, W).
        tau: standard deviation that is assumed of the measurements' noise, (B,), positive.
        radius: standard deviation about the centre, positive.
        eta: size of a step.
        steps: how many.
        draw: the standard normal draw of step k, like x.
    """
    precision = per_image(tau, y).to(y).square().reciprocal()
    for k in range(steps):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            misfit = (precision * (y - physics.A(x)).abs().square()).sum() / 2
            gradient = torch.autograd.grad(misfit, x)[0]
        x = x.detach()
        x = x - eta * (gradient + (x - centre) / radius**2) + math.sqrt(2 * eta) * draw(k)
    return x
