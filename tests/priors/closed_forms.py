"""Networks and denoisers of a Gaussian field in closed form, called as real ones are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reddiff_pl.priors import Gaussian, Prior
from reddiff_pl.priors.base import per_image
from reddiff_pl.priors.prediction import eps_from

SHAPE = (1, 8, 8)
MEAN = 0.1


class Field(nn.Module):
    """E[x0 | x = a x0 + s n] of a Gaussian field; without tensors, so that it computes in the dtype it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.field = [Gaussian(SHAPE, mean=MEAN)]

    def x0(self, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
        gain = self.field[0].filter(x - a * MEAN, lambda c: a * c / (a**2 * c + s**2))
        return MEAN + gain


class Velocity(Field):
    """v(x, t) = E[e - x0 | x] of x = (1 - t) x0 + t e; with `data_at` 1 the other way round."""

    def __init__(self, data_at: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        self.data_at, self.scale = data_at, scale

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        t = per_image(time / self.scale, x)
        if self.data_at == 1:
            return -self.velocity(x, 1 - t)
        return self.velocity(x, t)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return (x - self.x0(x, 1 - t, t)) / t


class Denoiser(Field):
    """D(x, sigma) = E[x0 | x = x0 + sigma n]."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = per_image(sigma, x)
        return self.x0(x, torch.ones_like(s), s)


class Predicting(Prior):
    """The field as a network of another kind of prediction, brought back to eps."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.exact, self.kind = Gaussian(SHAPE, mean=MEAN), kind
        self.shape, self.abar = SHAPE, self.exact.abar

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        abar = per_image(self.abar[t], x_t)
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        eps = self.exact.eps(x_t, t)
        x0 = (x_t - sigma * eps) / alpha
        output = {"epsilon": eps, "v_prediction": alpha * eps - sigma * x0, "sample": x0}[self.kind]
        return eps_from(output, x_t, self.abar[t], self.kind)
