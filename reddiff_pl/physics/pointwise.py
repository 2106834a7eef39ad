"""Nonlinear operators that act on each value alone: clipping and rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.sizes import SameSize


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def straight_through(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x) with the derivative of the identity, for functions that are flat almost everywhere.

    References:
        Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation
        | https://arxiv.org/abs/1308.3432
    """
    return _StraightThrough.apply(x, function(x.detach()))


class HDR(SameSize, Physics):
    """A photo exposed too long: A(x) = clip(gain x, -1, 1). A_dagger(y) = y / gain.

    Args:
        gain: contrast about mid-grey, above 0; above 1 the brightest and darkest parts are lost.
    """

    complete = True

    def __init__(self, gain: float = 2.0) -> None:
        super().__init__()
        if not gain > 0:
            raise ConfigError(f"model.physics.init_args.gain: must be positive, got {gain}")
        self.gain = gain

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return (self.gain * x).clamp(-1, 1)

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y / self.gain

    def stand_in(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """What y says of each pixel, and the standard deviation that this leaves open beside y's noise, (B, C, H, W).

        A clipped pixel is anywhere between 1 / gain and 1, in the mean half-way.
        """
        edge = min(1 / self.gain, 1.0)
        clipped = y.abs() >= 1
        spread = torch.where(clipped, (1 - edge) / 12**0.5, 0.0).to(y)
        return torch.where(clipped, y.sign() * (1 + edge) / 2, y / self.gain), spread

    def prox(self, z: Tensor, y: Tensor, rho: Tensor, iterations: int = 0) -> Tensor:
        """argmin_x |y - A(x)|^2 + rho |x - z|^2, (B, C, H, W): what is clipped in y stays as z has it, if z is beyond.

        Args:
            z: images, (B, C, H, W).
            y: measurements, like z.
            rho: (B,), not negative.
            iterations: not needed.
        """
        rho, edge = rho.to(z).reshape(-1, 1, 1, 1), 1 / self.gain
        inner = ((self.gain * y + rho * z) / (self.gain**2 + rho)).clamp(-edge, edge)
        best, cost = inner, (y - self.gain * inner).square() + rho * (inner - z).square()
        for side, x in ((1, z.clamp(min=edge)), (-1, z.clamp(max=-edge))):
            its = (y - side).square() + rho * (x - z).square()
            best, cost = torch.where(its <= cost, x, best), torch.minimum(its, cost)
        return best


class Quantization(SameSize, Physics):
    """Rounding to 2^bits brightnesses of [0, 1], those outside clipped. A_dagger(y) = y.

    Its gradient is that of the identity: the true one is zero.

    Args:
        bits: bits a value, 1 to 8.
    """

    complete = True
    rounds = True

    def __init__(self, bits: int = 3) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise ConfigError(f"model.physics.init_args.bits: must be in 1..8, got {bits}")
        self.bits = bits

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return straight_through(self._round, x)

    def _round(self, x: Tensor) -> Tensor:
        top = 2**self.bits - 1
        return 2 * (((x + 1) / 2 * top).round().clamp(0, top) / top) - 1

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y.clone()

    def stand_in(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """What y says of each pixel, and the standard deviation left open beside y's noise, both (B, C, H, W)."""
        return y.clone(), torch.zeros_like(y)
