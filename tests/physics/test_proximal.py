"""Proximal steps by conjugate gradients and by gradient descent, and operators within UnitRange made linear."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from deepinv.physics import LinearPhysics, Physics
from torch import Tensor

from reddiff_pl.physics import GaussianDeblurring, SuperResolution, UnitRange
from reddiff_pl.physics.proximal import proximal
from reddiff_pl.physics.unit_range import on_symmetric_range

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (1, 5, 6)
RHO = torch.tensor([0.01, 0.3, 8.0], dtype=torch.float64)


class Matrix(LinearPhysics):
    """A dense matrix, fewer measurements than pixels."""

    def __init__(self) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(12, 30, generator=draws, dtype=torch.float64) / 5

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return x.flatten(1) @ self.matrix.T

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return (y @ self.matrix).reshape(-1, *SHAPE)


class Bent(Physics):
    """A smooth nonlinear operator."""

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return torch.tanh(2 * x)


class Rounded(Physics):
    """Rounding, with the gradient of what it rounds."""

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return x + ((4 * x).round() / 4 - x).detach()


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_conjugate_gradients_against_a_dense_solve() -> None:
    physics, z, y = Matrix(), pictures(3, *SHAPE), pictures(3, 12, seed=1)
    x = proximal(physics, z, y, RHO, iterations=40)
    A = physics.matrix
    for image, rho in enumerate(RHO):
        left = A.T @ A + rho * torch.eye(30, dtype=torch.float64)
        wanted = torch.linalg.solve(left, A.T @ y[image] + rho * z[image].flatten())
        torch.testing.assert_close(x[image].flatten(), wanted, rtol=1e-8, atol=1e-8)


def test_conjugate_gradients_leave_a_solved_image_alone() -> None:
    physics, z = Matrix(), pictures(2, *SHAPE)
    y = physics.A(z)
    y[1] += 1
    x = proximal(physics, z, y, RHO[:2])
    assert torch.equal(x[0], z[0])
    assert x.isfinite().all()
    assert (x[1] - z[1]).norm() > 0.1
    # nor do they leave once they have arrived
    long = proximal(physics, z, y, RHO[:2], iterations=500)
    torch.testing.assert_close(long, proximal(physics, z, y, RHO[:2], iterations=40), rtol=1e-8, atol=1e-8)


def objective(physics: Physics, x: Tensor, z: Tensor, y: Tensor) -> Tensor:
    misfit = (y - physics.A(x)).square().sum((1, 2, 3))
    return misfit + RHO * (x - z).square().sum((1, 2, 3))


def test_gradient_descent_finds_the_minimum() -> None:
    """Where the objective is convex enough, there is nowhere to go from where it ends."""
    physics, z, y = Bent(), pictures(3, *SHAPE) / 2, torch.tanh(pictures(3, *SHAPE, seed=1))
    x = proximal(physics, z, y, RHO, iterations=300).requires_grad_()
    (slope,) = torch.autograd.grad(objective(physics, x, z, y).sum(), x)
    assert (slope.flatten(1).norm(dim=1) < 1e-3 * objective(physics, z, z, y).sqrt()).all()


@pytest.mark.parametrize("physics", [Bent(), Rounded()], ids=["smooth", "rounded"])
def test_gradient_descent_never_climbs(physics: Physics) -> None:
    z, y = pictures(3, *SHAPE), pictures(3, *SHAPE, seed=1)
    values = [objective(physics, proximal(physics, z, y, RHO, n), z, y) for n in (0, 1, 2, 4, 8, 16)]
    for before, after in itertools.pairwise(values):
        assert (after <= before).all()
    assert (values[-1] < 0.9 * values[0]).all()
    # images do not share a step length
    alone = proximal(physics, z[1:2], y[1:2], RHO[1:2], 16)
    torch.testing.assert_close(alone, proximal(physics, z, y, RHO, 16)[1:2], rtol=1e-12, atol=1e-12)


def test_a_linear_operator_within_unit_range() -> None:
    x, n, std = pictures(3, 1, 8, 8), pictures(3, 1, 4, 4, seed=1), torch.tensor([0.1, 0.0, 2.0])
    y = UnitRange(SuperResolution(2)).A(x) + n
    physics, measured, noise_std = on_symmetric_range(UnitRange(SuperResolution(2)), y, std, x)
    torch.testing.assert_close(measured, physics.A(x) + 2 * n, rtol=1e-12, atol=1e-12)
    assert isinstance(physics, SuperResolution)
    assert torch.equal(noise_std, 2 * std)


@pytest.mark.parametrize(
    "physics",
    [GaussianDeblurring(), UnitRange(Bent()), Bent()],
    ids=["linear", "unit_nonlinear", "nonlinear"],
)
def test_other_operators_stay(physics: Physics) -> None:
    y, std = pictures(1, 1, 8, 8), torch.tensor([0.1])
    same, measured, noise_std = on_symmetric_range(physics, y, std, y)
    assert same is physics
    assert measured is y
    assert noise_std is std
