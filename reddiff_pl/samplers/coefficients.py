"""Steps of the dial where an operator's decomposition A = U S V^T is known (`perception.py` says what they are).

A measurement says of the coefficient i of an image, V^T x, that it is y_i = (U^T y)_i / s_i but for noise of standard
deviation b_i = sigma / s_i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.physics.decomposable import Decomposable
from reddiff_pl.priors.base import per_image
from reddiff_pl.samplers.starts import Field, regress

LEAST_GAIN = 1e-5  # noise-free coefficients whose singular value times r is less are rounding errors
FIELD_STEPS = 12  # conjugate gradient steps of a draw


@dataclass
class Coefficients:
    """What is known of the images' coefficients beside an image in noise of level r.

    Attributes:
        physics: the operator.
        y: measured coefficients, (B, C, H, W); 0 where nothing is measured.
        b: standard deviation of their noise, broadcastable to them; infinite where nothing is measured.
        clean: which images were measured without noise, (B, 1, 1, 1).
        r: the level.
    """

    physics: Decomposable
    y: Tensor
    b: Tensor
    clean: Tensor
    r: float

    def renoised(self, x: Tensor, n: Tensor) -> Tensor:
        """An estimate x in noise of level r: the measurement's own where it is as noisy, else n, (B, C, H, W)."""
        x, n = self.physics.V_adjoint(x), self.physics.V_adjoint(n)
        less = torch.where(self.b < self.r, self.b, 0)
        about = self.y + (self.r**2 - less.square()).sqrt() * n
        own = x + self.r * torch.where(self.b.isinf(), n, (self.y - x) / self.b.clamp(min=1e-12))
        return self.physics.V(torch.where(self.b < self.r, about, own))

    def informed(
        self, guess: Tensor, x: Tensor, n1: Tensor | None = None, n2: Tensor | None = None
    ) -> Tensor:
        """x0: the image that a field with this guess has, given what y says beyond x, (B, C, H, W).

        Args:
            guess: of the image in x, (B, C, H, W).
            x: the image in noise, like it.
            n1, n2: standard normal draws of the image and of the measured coefficients, like it; without them
                the mean.
        """
        V, V_adjoint, root = self.physics.V, self.physics.V_adjoint, Field(x).root_left(self.r)
        more, square, r2 = self.b < self.r, torch.where(self.b < self.r, self.b, 0).square(), self.r**2
        gap = (r2 - square).clamp(min=1e-9 * r2)
        variance = square * r2 / gap
        said = (self.y * r2 - V_adjoint(x) * square) / gap
        if n2 is not None:
            said = said + variance.sqrt() * n2
        weight = torch.where(more, variance.clamp(min=max(0.05 * self.r, 1e-3) ** 2).rsqrt(), 0)
        guess = guess if n1 is None else guess + root(n1)
        return guess + regress(
            root,
            lambda u: weight * V_adjoint(u),
            lambda c: V(weight * c),
            weight * (said - V_adjoint(guess)),
            torch.ones_like(x[:, :1, :1, :1]),
            FIELD_STEPS,
        )

    def onwards(self, x0: Tensor, guess: Tensor, x: Tensor, s: float, eta: float, n: Tensor) -> Tensor:
        """x at the next level s.

        Args:
            x0: the image in x, (B, C, H, W).
            guess: the network's, like it.
            x: like it.
            s: less than r, above 0.
            eta: share of chance, 0 to 1.
            n: standard normal, like x.
        """
        x0, guess, x, n = (self.physics.V_adjoint(v) for v in (x0, guess, x, n))
        b, r = self.b, self.r
        about = b <= s
        own = torch.where(about, b, 0).square()
        noise = torch.where(b < r, (self.y - x0) / b.clamp(min=1e-12), (x - x0) / r)
        # what is known exactly pulls twice: in its place, and in what the network takes for noise
        pull = torch.where(self.clean, float(eta < 1), 0) * (self.y - guess)
        noise = torch.where(about, (x - self.y + pull) / (r**2 - own).sqrt(), noise)
        fresh = eta * math.sqrt(1 - s**2 / r**2)
        noise = math.sqrt(1 - fresh**2) * noise + fresh * n
        return self.physics.V(torch.where(about, self.y, x0) + (s**2 - own).clamp(min=0).sqrt() * noise)


def coefficients(
    physics: Physics, y: Tensor, noise_std: Tensor, like: Tensor, r: float
) -> Coefficients | None:
    """What y says at level r; None where the operator's decomposition is not known.

    Args:
        physics: the operator on [-1, 1].
        y: measurements, (B, ...).
        noise_std: of their noise, (B,).
        like: images, (B, C, H, W); only their shape, type and device count.
        r: noise level.
    """
    if not isinstance(physics, Decomposable) or y.is_complex() or like.is_complex():
        return None
    s = physics.singular_values(like)
    std = per_image(noise_std.to(s), s)
    known = (s > 0) & ((std > 0) | (s * r > LEAST_GAIN))
    inverse = torch.where(known, 1 / s, 0)
    b = torch.where(known, std * inverse, math.inf)
    return Coefficients(physics, inverse * physics.U_adjoint(y), b, std == 0, r)
