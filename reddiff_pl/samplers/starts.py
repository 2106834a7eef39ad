"""Where a sampler begins, at no network evaluation.

The Wiener estimate is the posterior mean of a linear measurement y = A x + s n under a Gaussian field as photos roughly
are: power spectrum (1 + k^2)^-1.25 in periods k of 64 pixels however large the image is, so that a part of it begins as
it does in the whole (of smaller images in whole periods); mirrored borders, pixels of variance .3 on [-1, 1], channels
that correlate by .95. With R a root of its covariance, x = R u and

    (1 + R A^T A R / s^2) u = R A^T y / s^2

is solved by conjugate gradients, for A = I in closed form. It is worlds nearer to the image than A_dagger(y) where that
leaves holes or blows up noise, which is what a sampler of few evaluations would else spend them on.

References:
    Statistics of natural images: scaling in the woods | https://doi.org/10.1103/PhysRevLett.73.814
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from reddiff_pl.physics.binding import operator_of
from reddiff_pl.physics.compose import is_linear
from reddiff_pl.physics.cosines import from_cosines, to_cosines
from reddiff_pl.physics.denoising import Denoising
from reddiff_pl.physics.proximal import conjugate_gradients, proximal
from reddiff_pl.physics.unit_range import on_symmetric_range
from reddiff_pl.priors.base import per_image
from reddiff_pl.samplers.base import Problem

Start = Literal["wiener", "pseudo_inverse"]

VARIANCE, EXPONENT, CORRELATION = 0.3, 1.25, 0.95
PERIOD = 64  # pixels; the whole image where that is smaller
NOISE_FLOOR = 0.02  # of the measurement, on [-1, 1]: what less noise says is left to the sampler's own steps
ITERATIONS = 60


def start(kind: Start, problem: Problem) -> Tensor:
    """x_init where the caller gives one, else the start of that kind, (B, C, H, W).

    "wiener": the Wiener estimate for linear operators, and for those that are one but for what is clipped or rounded
    (`stand_in`); an operator's own `start(y, draw)` where it has one; A_dagger(y) for others. For latents it is that of
    the images, encoded.
    "pseudo_inverse": A_dagger(y).
    """
    physics, y = problem.physics, problem.y
    if problem.x_init is not None or kind == "pseudo_inverse":
        return problem.start()
    if (encoded := getattr(physics, "encoded", None)) is not None:
        return encoded(start(kind, replace(problem, physics=physics.physics)))
    if (own := getattr(physics, "start", None)) is not None:
        return own(y, lambda k, shape: problem.noise.normal("init", shape, y.dtype, 0, k))
    noise_std = problem.known_noise()
    if (stand_in := getattr(physics, "stand_in", None)) is not None:
        image, spread = stand_in(y)
        floor = per_image(noise_std.to(y).clamp(min=NOISE_FLOOR), y)
        share = (
            floor / (floor.square() + spread.square()).sqrt()
        )  # all pixels as if as noisy as the measured ones
        # the clipped parts of a larger image are wider, and filled from their borders
        sides = min(max(*image.shape[-2:], PERIOD) / PERIOD, 2)
        x = wiener(
            lambda x: share * x,
            lambda y: share * y,
            share * image,
            noise_std,
            image,
            round(sides * ITERATIONS),
        )
        # what is known exactly
        return proximal(physics, x, y, torch.full_like(noise_std, 1e-4)) if hasattr(physics, "prox") else x
    if not is_linear(operator_of(physics)):
        return problem.start()
    like = physics.A_adjoint(y)
    if like.ndim != 4 or like.is_complex():  # no image on two axes
        return problem.start()
    physics, y, noise_std = on_symmetric_range(physics, y, noise_std, like)
    if isinstance(physics, Denoising):
        return Field(y).shrunk(y, noise_std)
    return wiener(physics.A, physics.A_adjoint, y, noise_std, like)


def wiener(
    A: Callable[[Tensor], Tensor],
    A_adjoint: Callable[[Tensor], Tensor],
    y: Tensor,
    noise_std: Tensor,
    like: Tensor,
    iterations: int = ITERATIONS,
) -> Tensor:
    """The Wiener estimate of images on [-1, 1], (B, C, H, W).

    Args:
        A: linear, (B, C, H, W) -> (B, ...).
        A_adjoint: its adjoint.
        y: measurements, (B, ...).
        noise_std: standard deviation of their noise, (B,).
        like: images of the shape, type and device of the result.
        iterations: of conjugate gradients, as many for every image.
    """
    root = Field(like).root
    weight = per_image(noise_std.to(like).clamp(min=NOISE_FLOOR).square().reciprocal(), like)
    return regress(root, A, A_adjoint, y, weight, iterations)


def regress(
    root: Callable[[Tensor], Tensor],
    A: Callable[[Tensor], Tensor],
    A_adjoint: Callable[[Tensor], Tensor],
    y: Tensor,
    weight: Tensor,
    iterations: int,
) -> Tensor:
    """R u of (1 + weight R A^T A R) u = weight R A^T y by conjugate gradients from 0, (B, C, H, W).

    Args:
        root: R.
        A, A_adjoint: linear, (B, C, H, W) -> (B, ...), and its adjoint.
        y: (B, ...).
        weight: 1 over the variance of y's noise, (B, 1, 1, 1).
        iterations: as many for every image.
    """

    def system(u: Tensor) -> Tensor:
        return u + weight * root(A_adjoint(A(root(u))))

    return root(conjugate_gradients(system, weight * root(A_adjoint(y)), iterations))


class Field:
    """The field's covariance: diagonal in the cosines of the image, and in the mean of the channels and what is left.

    Args:
        like: images of the shape, type and device at hand, (B, C, H, W).
    """

    def __init__(self, like: Tensor) -> None:
        channels, height, width = like.shape[1:]
        # made where it is needed: of a large image, or of many sizes, it would be what the device waits for
        period = min(PERIOD, max(height, width))
        ky, kx = (
            torch.arange(n, dtype=torch.float64, device=like.device) * (period / 2 / n)
            for n in (height, width)
        )
        spectrum = (1 + ky[:, None].square() + kx.square()) ** -EXPONENT
        # the mean over the cosines, each once, is the variance of a pixel
        self.power = (spectrum * VARIANCE / spectrum.mean()).to(like)
        self.gain = self.power.sqrt()
        self.together, self.apart = 1 + (channels - 1) * CORRELATION, 1 - CORRELATION

    def root(self, x: Tensor) -> Tensor:
        """The symmetric root of the covariance on images (B, C, H, W)."""
        filtered = from_cosines(self.gain * to_cosines(x))
        mean = filtered.mean(1, keepdim=True)
        return self.apart**0.5 * filtered + (self.together**0.5 - self.apart**0.5) * mean

    def shrunk(self, y: Tensor, noise_std: Tensor) -> Tensor:
        """The Wiener estimate of images in white noise of standard deviation (B,), at least that of the floor."""
        noise = per_image(noise_std.to(y).clamp(min=NOISE_FLOOR).square(), y)
        powers = (share * self.power for share in (self.apart, self.together))
        return _scaled(y, *(power / (power + noise) for power in powers))

    def root_left(self, level: float) -> Callable[[Tensor], Tensor]:
        """The root of what noise of a level r leaves open of the field, C r^2 / (C + r^2), on images (B, C, H, W)."""
        powers = (share * self.power for share in (self.apart, self.together))
        apart, together = ((power * level**2 / (power + level**2)).sqrt() for power in powers)
        return lambda x: _scaled(x, apart, together)


def _scaled(x: Tensor, apart: Tensor, together: Tensor) -> Tensor:
    """Images (B, C, H, W) with the cosines of their channels' mean and of what is left of each times so much."""
    c = to_cosines(x)
    mean = c.mean(1, keepdim=True)
    return from_cosines(apart * (c - mean) + together * mean)


def coarse(x: Tensor, cut: float) -> Tensor:
    """What of images (B, C, H, W) is coarser than `cut` cycles a pixel, a half of it at the cut."""
    ky, kx = (torch.arange(n, dtype=torch.float64, device=x.device) / (2 * n) for n in x.shape[-2:])
    share = 1 / (1 + ((ky[:, None].square() + kx.square()) / cut**2).square())
    return from_cosines(share.to(x) * to_cosines(x))
