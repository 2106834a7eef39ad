"""Where samplers begin: the Wiener estimate against dense matrices, and what stands in for nonlinear operators."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from reddiff_pl.physics import (
    HDR,
    Compose,
    Denoising,
    GaussianDeblurring,
    Inpainting,
    PhaseRetrieval,
    Quantization,
    SuperResolution,
    UnitRange,
    bind,
)
from reddiff_pl.priors import Gaussian
from reddiff_pl.priors.gaussian import dense_matrix
from reddiff_pl.samplers import Problem, SeededNoise, starts
from reddiff_pl.samplers.starts import CORRELATION, EXPONENT, NOISE_FLOOR, VARIANCE, start, wiener

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (2, 4, 6)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def field() -> Tensor:
    """The covariance, dense: sums of products of cosines with mirrored borders, for each pair of channels."""
    channels, height, width = SHAPE
    places = [(i, j) for i in range(height) for j in range(width)]
    waves, powers = [], []
    for p in range(height):
        for q in range(width):
            angles = [(p * (i + 0.5) / height, q * (j + 0.5) / width) for i, j in places]
            wave = torch.tensor([math.cos(math.pi * a) * math.cos(math.pi * b) for a, b in angles]).double()
            waves.append(wave / wave.norm())
            periods = 3 * p / height, 3 * q / width  # in all six pixels of the longer side
            powers.append((1 + periods[0] ** 2 + periods[1] ** 2) ** -EXPONENT)
    power = torch.tensor(powers).double()
    basis = torch.stack(waves)
    C = basis.T @ torch.diag(power * VARIANCE / power.mean()) @ basis
    together = torch.full((channels, channels), CORRELATION).double()
    return torch.kron(together.fill_diagonal_(1.0), C)


def problem(physics, y: Tensor, noise_std: float | None = None) -> Problem:
    std = None if noise_std is None else torch.full((len(y),), noise_std, dtype=torch.float64)
    noise = SeededNoise(0, [str(i) for i in range(len(y))])
    return Problem(y, physics, Gaussian(SHAPE), noise, noise_std=std)


def kept() -> Inpainting:
    physics = Inpainting()
    bind(physics, {"mask": (normal(1, 1, *SHAPE[1:], seed=3) > 0).double()})
    return physics


@pytest.mark.parametrize("noise_std", [None, 0.3])
@pytest.mark.parametrize(
    "make",
    [
        kept,
        lambda: SuperResolution(2),
        lambda: GaussianDeblurring(0.7, taps=3),
        lambda: Compose([SuperResolution(2), Denoising()]),
        Denoising,
    ],
    ids=["inpainting", "superresolution", "blur", "composition", "denoising"],
)  # fmt: skip
def test_wiener_against_a_dense_solve(make, noise_std: float | None) -> None:
    physics = make()
    y = physics.A(normal(2, *SHAPE))
    A, C = dense_matrix(physics, SHAPE), field()
    s = NOISE_FLOOR if noise_std is None else noise_std
    inner = A @ C @ A.T + s**2 * torch.eye(len(A)).double()
    expected = (C @ A.T @ torch.linalg.solve(inner, y.flatten(1).T)).T.reshape(-1, *SHAPE)
    found = start("wiener", problem(physics, y, noise_std))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_correlations_are_those_of_pixels() -> None:
    """However large the image is: a point spreads as far in 80x96 pixels as in 160x128."""
    spread = []
    for height, width in [(80, 96), (160, 128)]:
        point = torch.zeros(1, 1, height, width, dtype=torch.float64)
        point[0, 0, height // 2, width // 2] = 1
        row = starts.Field(point).root(point)[0, 0, height // 2]
        spread.append(row[width // 2 - 8 : width // 2 + 9])
    torch.testing.assert_close(spread[0], spread[1], rtol=0.02, atol=0.02 * spread[0].max().item())


def test_the_root_is_symmetric_and_one() -> None:
    """As conjugate gradients need it."""
    field_of, x, z = starts.Field(normal(1, *SHAPE)), normal(1, *SHAPE), normal(1, *SHAPE, seed=5)
    torch.testing.assert_close((field_of.root(x) * z).sum(), (x * field_of.root(z)).sum())
    twice = field_of.root(field_of.root(x)).flatten()
    torch.testing.assert_close(twice, field() @ x.flatten())


def test_the_range_does_not_matter() -> None:
    """The same problem told on [0, 1]."""
    physics = SuperResolution(2)
    x = normal(1, *SHAPE)
    plain = start("wiener", problem(physics, physics.A(x), 0.2))
    unit = UnitRange(physics)
    torch.testing.assert_close(start("wiener", problem(unit, unit.A(x), 0.1)), plain, rtol=1e-6, atol=1e-6)


def test_an_image_alone_starts_as_it_does_in_company() -> None:
    physics = SuperResolution(2)
    y = physics.A(normal(3, *SHAPE))
    together = start("wiener", problem(physics, y, 0.1))
    torch.testing.assert_close(start("wiener", problem(physics, y[1:2], 0.1)), together[1:2])


def test_a_given_start_and_the_plain_one() -> None:
    physics, given = SuperResolution(2), normal(1, *SHAPE, seed=9)
    y = physics.A(normal(1, *SHAPE))
    assert torch.equal(start("pseudo_inverse", problem(physics, y)), physics.A_dagger(y))
    asked = problem(physics, y)
    asked.x_init = given
    assert start("wiener", asked) is given


def test_clipped_pixels_begin_between_the_edge_and_white() -> None:
    """What is not clipped is known exactly; the rest is somewhere in [1/gain, 1], with a smooth image's own guess."""
    physics, x = HDR(2.0), (0.9 * wiener_like()).clamp(-1, 1)
    y = physics.A(x)
    found = start("wiener", problem(physics, y))
    clipped = y.abs() >= 1
    assert clipped.any() and not clipped.all()
    torch.testing.assert_close(found[~clipped], x[~clipped], rtol=1e-3, atol=1e-3)
    assert (found[clipped] * y[clipped] >= 0.5 - 1e-3).all()
    assert (found - x).norm() < 0.6 * (physics.A_dagger(y) - x).norm()


def wiener_like() -> Tensor:
    """A smooth image with bright and dark parts."""
    ramp = torch.linspace(-1, 1, 16, dtype=torch.float64)
    return (ramp[:, None] + ramp[None]).clamp(-1, 1).expand(1, 2, 16, 16).contiguous()


def test_rounded_values_are_measurements_with_noise() -> None:
    y = Quantization(3).A(wiener_like())
    found = start("wiener", problem(Quantization(3), y, 0.08))
    expected = wiener(lambda x: x, lambda y: y, y, torch.tensor([0.08]).double(), y)
    torch.testing.assert_close(found, expected)


def test_phase_retrieval_starts_from_draws_of_its_own() -> None:
    physics = PhaseRetrieval()
    y = physics.A(wiener_like())
    one = start("wiener", problem(physics, y))
    assert torch.equal(one, start("wiener", problem(physics, y)))
    assert (physics.A(one) - y).norm() < 0.2 * (physics.A(physics.A_dagger(y)) - y).norm()
