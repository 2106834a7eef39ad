"""Separable blur against the dense matrices that it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reddiff_pl.physics import GaussianDeblurring, UniformDeblurring, bind
from reddiff_pl.physics.blur import SeparableBlur

SIZES = [(1, 1), (1, 6), (2, 3), (7, 12), (24, 5)]


def skewed() -> SeparableBlur:
    """Kernels that no reversal maps onto themselves, one for each of two images."""
    physics = GaussianDeblurring(taps=5)
    bind(physics, {"kernel": torch.tensor([[0.1, 0.4, 0.3, 0.15, 0.05], [0.0, 0.2, 0.6, 0.1, 0.1]])})
    return physics


def drawn() -> SeparableBlur:
    physics = GaussianDeblurring((0.5, 4.0), taps=7)
    params = [physics.draw((3, 8, 8), torch.Generator().manual_seed(i))["kernel"] for i in range(2)]
    bind(physics, {"kernel": torch.stack(params)})
    return physics


def dense(kernel: Tensor, n: int) -> Tensor:
    """(n, n), written out."""
    matrix, reach = torch.zeros(n, n, dtype=torch.float64), len(kernel) // 2
    for i in range(n):
        for j in range(max(i - reach, 0), min(i + reach + 1, n)):
            matrix[i, j] = kernel[i - j + reach]
    return matrix


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("make", [skewed, drawn, UniformDeblurring, GaussianDeblurring])
def test_as_dense_matrices(make, size: tuple[int, int]) -> None:
    physics, (height, width) = make(), size
    generator = torch.Generator().manual_seed(1)
    x, z, y = (torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64) for _ in range(3))
    kernels = physics.weights().double().expand(2, -1)
    H, K = (torch.stack([dense(kernel, n) for kernel in kernels])[:, None] for n in size)
    torch.testing.assert_close(physics.A(x), H @ x @ K.mT)
    torch.testing.assert_close(physics.A_adjoint(y), H.mT @ y @ K)
    for i in range(2):
        A = torch.kron(H[i, 0], K[i, 0])
        u, s, vh = torch.linalg.svd(A)
        inverse = torch.where(s >= physics.cut, 1 / s, 0)
        expected = y[i].flatten(1) @ (vh.T @ (inverse[:, None] * u.T)).T
        torch.testing.assert_close(physics.A_dagger(y)[i].flatten(1), expected, rtol=1e-8, atol=1e-8)
        rho = 1e-3
        right = y[i].flatten(1) @ A + rho * z[i].flatten(1)
        expected = torch.linalg.solve(A.T @ A + rho * torch.eye(len(A)).double(), right.T).T
        found = physics.prox(z, y, rho)[i].flatten(1)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
        single = physics.prox(z.float(), y.float(), rho)[i].flatten(1)
        torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)


def test_new_kernels_in_the_same_storage_are_seen() -> None:
    physics, y = drawn(), torch.ones(2, 1, 6, 6)
    before = physics.A_dagger(y)
    bind(physics, {"kernel": physics.kernel.flip(0)})
    torch.testing.assert_close(physics.A_dagger(y), before.flip(0))
    assert not torch.equal(physics.A_dagger(y), before)
