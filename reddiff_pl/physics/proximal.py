"""Proximal steps: the image near a guess that fits the measurement, for any operator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.physics.compose import is_linear
from reddiff_pl.physics.decomposable import Decomposable
from reddiff_pl.physics.unit_range import on_symmetric_range


def proximal(physics: Physics, z: Tensor, y: Tensor, rho: Tensor, iterations: int = 20) -> Tensor:
    """argmin_x |y - A(x)|^2 + rho |x - z|^2 for each image, (B, C, H, W).

    In closed form for `Decomposable` operators, by an operator's own `prox(z, y, rho, iterations)` where it has one, by
    way of the images that z stands for where it says how (`through`, see `reddiff_pl.priors.Latent`), by conjugate
    gradients from z for other linear ones, by gradient descent from z for other nonlinear ones, which stays at or above
    the minimum. The number of iterations is fixed, so no image waits for another.

    Args:
        physics: the operator.
        z: guesses, (B, C, H, W).
        y: measurements, (B, ...).
        rho: weights, (B,), positive.
        iterations: of the iterative ways, each an evaluation of A and of its adjoint or gradient.
    """
    if isinstance(physics, Decomposable):
        return physics.prox(z, y, rho)
    if (own := getattr(physics, "prox", None)) is not None:
        return own(z, y, rho, iterations)
    if (through := getattr(physics, "through", None)) is not None:

        def nearest(operator: Physics, image: Tensor) -> Tensor:
            operator, target, root = on_symmetric_range(operator, y, rho.sqrt(), image)
            return proximal(operator, image, target, root.square(), iterations)

        return through(z, nearest)
    rho = rho.to(z).reshape(-1, *[1] * (z.ndim - 1))
    if is_linear(physics):
        return z + conjugate_gradients(
            lambda x: physics.A_adjoint(physics.A(x)) + rho * x,
            physics.A_adjoint(y - physics.A(z)),
            iterations,
        )
    return _descend(physics, z, y, rho, iterations)


def _sums(x: Tensor) -> Tensor:
    """Sums over each image, (B, ...) -> (B, 1, 1, 1)."""
    return x.flatten(1).sum(1).reshape(-1, 1, 1, 1)


def conjugate_gradients(system: Callable[[Tensor], Tensor], right: Tensor, iterations: int) -> Tensor:
    """The x with system(x) = right, from 0, for each image by itself, (B, C, H, W).

    Args:
        system: linear, symmetric and positive on images (B, C, H, W).
        right: (B, C, H, W).
        iterations: as many for every image.
    """
    x, residual, direction = torch.zeros_like(right), right, right
    size = _sums(residual.square())
    for _ in range(iterations):
        image = system(direction)
        curvature = _sums(direction * image)
        # an image that has arrived stays where it is
        length = torch.where(curvature > 0, size / curvature, 0)
        x, residual = x + length * direction, residual - length * image
        size, before = _sums(residual.square()), size
        direction = residual + torch.where(before > 0, size / before, 0) * direction
    return x


def _descend(physics: Physics, z: Tensor, y: Tensor, rho: Tensor, iterations: int) -> Tensor:
    """Gradient descent whose step length, one an image, grows while the objective falls and shrinks else."""

    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            values = _sums((y - physics.A(x)).abs().square()) + rho * _sums((x - z).square())
            return values.detach(), torch.autograd.grad(values.sum(), x)[0]

    x = z
    value, gradient = objective(x)
    length = 0.5 / (1 + rho)  # one Newton step where A^T A is the identity
    for _ in range(iterations):
        candidate = x - length * gradient
        its_value, its_gradient = objective(candidate)
        better = its_value < value
        x, value = torch.where(better, candidate, x), torch.where(better, its_value, value)
        gradient = torch.where(better, its_gradient, gradient)
        length = length * torch.where(better, 1.5, 0.25).to(length)
    return x
