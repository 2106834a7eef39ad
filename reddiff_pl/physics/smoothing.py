"""Total variation that is taken away a little at a time, on the way of another iteration."""

from __future__ import annotations

import torch
from torch import Tensor

CHROMA = 2.0  # what channels differ by is so much smoother than their mean
STEP = 0.25  # of the dual ascent: 2 over the square norm of the differences, which is 8


class Smoothing:
    """x near t with less of TV(mean of the channels) and of CHROMA TV(what channels differ by), all of them together.

    One step of projected dual ascent a call, from where the last one ended: as the images of an iteration change
    slowly, this follows the proximal operator of the weighted total variation at the cost of one step.

    References:
        An algorithm for total variation minimization and applications
        | https://doi.org/10.1023/B:JMIV.0000011325.36760.1e
    """

    def __init__(self) -> None:
        self.along: list[Tensor] = []  # the duals of the differences in x and in y

    def __call__(self, t: Tensor, weight: float) -> Tensor:
        """Images, (..., C, H, W) like t; the weight on the scale of t."""
        if not self.along:
            self.along = [torch.zeros_like(t[..., 1:]), torch.zeros_like(t[..., 1:, :])]
        x, (px, py) = self._primal(t), self.along
        px += STEP * (x[..., 1:] - x[..., :-1])
        py += STEP * (x[..., 1:, :] - x[..., :-1, :])
        mx, my = px.mean(-3, keepdim=True), py.mean(-3, keepdim=True)
        dx, dy = _shortened(px - mx, py - my, CHROMA * weight)
        mx, my = _shortened(mx, my, weight / t.shape[-3] ** 0.5)
        self.along = [dx + mx, dy + my]
        return self._primal(t)

    def turn(self, turn: Tensor, sign: Tensor) -> None:
        """Follow images of which some are turned by 180 degrees (bool) or negated (-1), both (..., C, 1, 1)."""
        self.along = [sign * torch.where(turn, -p.flip((-2, -1)), p) for p in self.along]

    def _primal(self, t: Tensor) -> Tensor:
        px, py = self.along
        x = t.clone()
        x[..., :-1] += px
        x[..., 1:] -= px
        x[..., :-1, :] += py
        x[..., 1:, :] -= py
        return x


def _shortened(px: Tensor, py: Tensor, length: float) -> tuple[Tensor, Tensor]:
    """The vectors of each pixel, over all channels, cut to this length."""
    size = torch.zeros(
        *px.shape[:-3], 1, py.shape[-2] + 1, px.shape[-1] + 1, dtype=px.dtype, device=px.device
    )
    size[..., :-1] += px.square().sum(-3, keepdim=True)
    size[..., :-1, :] += py.square().sum(-3, keepdim=True)
    share = length / size.sqrt().clamp(min=length)
    return px * share[..., :-1], py * share[..., :-1, :]
