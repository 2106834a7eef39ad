"""Phase retrieval's projections, and the exact proximal steps of pointwise operators."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reddiff_pl.physics import HDR, PhaseRetrieval
from reddiff_pl.physics.phasing import Frames, equivalents, retrieve
from reddiff_pl.physics.proximal import proximal

pytestmark = pytest.mark.usefixtures("one_thread")


def pictures(*shape: int, seed: int = 0) -> Tensor:
    draws = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 1.6 * draws - 0.8


def test_the_projections() -> None:
    """P_M has the magnitudes and is nearest; P_S is zero out of the frame and within [-1, 1]; twice is once."""
    physics, x = PhaseRetrieval(pad=3), pictures(2, 3, 8, 10)
    frames = Frames(physics.A(x), 3)
    u = 2 * torch.randn(2, 3, 14, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fitted, framed = frames.fitted(u), frames.framed(u)
    assert frames.misfit(fitted).max() < 1e-12
    torch.testing.assert_close(frames.fitted(fitted), fitted)
    assert (fitted - u).norm() <= (frames.embed(x) - u).norm()
    torch.testing.assert_close(frames.framed(framed), framed)
    assert framed.abs().max() <= 1 and torch.equal(frames.embed(frames.crop(framed)), framed)
    # the image itself is in both
    torch.testing.assert_close(frames.fitted(frames.embed(x)), frames.embed(x))
    assert frames.misfit(frames.embed(x)).max() < 1e-12


def test_retrieval_finds_an_image_up_to_its_equivalents() -> None:
    """Much room around the image makes it easy: found, with all channels in one orientation."""
    physics, pad = PhaseRetrieval(pad=8), 8
    x = pictures(1, 1, 8, 8) + 0.2 * pictures(1, 3, 8, 8, seed=1)
    draws = torch.Generator().manual_seed(2)
    found = retrieve(
        physics.A(x),
        pad,
        lambda k: torch.randn(x.shape, generator=draws, dtype=x.dtype),
        starts=8,
        iterations=500,
    )
    nearest = min(equivalents(found), key=lambda form: float((form - x).norm()))
    assert (nearest - x).norm() < 0.05 * x.norm()


def test_equivalents_have_one_measurement() -> None:
    physics, x = PhaseRetrieval(), pictures(1, 2, 8, 8)
    for form in equivalents(x):
        torch.testing.assert_close(physics.A(form), physics.A(x), rtol=1e-9, atol=1e-9)


def test_its_proximal_step_comes_nearer() -> None:
    physics, x = PhaseRetrieval(), pictures(2, 3, 16, 16)
    y, z = physics.A(x), x + 0.1 * pictures(2, 3, 16, 16, seed=3)
    near = proximal(physics, z, y, torch.full((2,), 1e-6))
    assert (physics.A(near) - y).norm() < 0.3 * (physics.A(z) - y).norm()
    torch.testing.assert_close(proximal(physics, z, y, torch.full((2,), 1e9)), z)


@pytest.mark.parametrize("rho", [1e-6, 0.3, 20.0])
def test_clipping_is_solved_exactly(rho: float) -> None:
    """Against the least of the objective on a fine grid of values, pixel by pixel."""
    physics, x, z = HDR(2.0), pictures(1, 1, 5, 6), pictures(1, 1, 5, 6, seed=4)
    y = physics.A(x)
    found = proximal(physics, z, y, torch.tensor([rho]))
    grid = torch.linspace(-1.2, 1.2, 48001, dtype=torch.float64)

    def objective(values: Tensor) -> Tensor:
        return (y[..., None] - physics.A(values)).square() + rho * (values - z[..., None]).square()

    least = objective(grid.expand(*y.shape, -1)).amin(-1)
    assert (objective(found[..., None])[..., 0] <= least + 1e-8).all()
