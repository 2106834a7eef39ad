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
    """Much room around the image makes it easy, whatever it is: found, with all channels in one orientation."""
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


def test_flat_images_are_found_with_little_room() -> None:
    """A quarter of zeros is 1.1 equations an unknown: photo-like images of flat parts are found, noise is not."""
    parts = pictures(4, 3, 4, 4, seed=5).repeat_interleave(6, -1).repeat_interleave(6, -2)
    parts = 0.7 * parts[:, :1] + 0.3 * parts
    physics = PhaseRetrieval()

    def errors(x: Tensor) -> Tensor:
        draws = torch.Generator().manual_seed(2)
        found = retrieve(physics.A(x), 6, lambda k: torch.randn(4, 1, 24, 24, generator=draws, dtype=x.dtype))
        forms = torch.stack(equivalents(found))
        return (forms - x).flatten(2).norm(dim=2).amin(0) / x.flatten(1).norm(dim=1)

    assert errors(parts).max() < 0.05
    assert errors(pictures(4, 3, 24, 24, seed=6)).min() > 0.2


def test_a_turned_state_goes_the_same_way() -> None:
    """Negatives and half turns are symmetries of the reflections: a channel may change into them on the way."""
    physics, x = PhaseRetrieval(pad=3), pictures(2, 3, 8, 10)
    frames = Frames(physics.A(x), 3)
    start = pictures(2, 3, 8, 10, seed=7)
    found, turned = (
        frames.crop(frames.relax(frames.embed(one), [0.0] * 10)) for one in (start, -start.flip((-2, -1)))
    )
    torch.testing.assert_close(turned, -found.flip((-2, -1)), rtol=1e-6, atol=1e-6)


def test_channels_come_into_one_orientation() -> None:
    physics = PhaseRetrieval(pad=3)
    x = pictures(2, 1, 8, 10) + 0.1 * pictures(2, 3, 8, 10, seed=1)
    frames = Frames(physics.A(x), 3)
    # the first fits best
    mixed = torch.stack([x[:, 0], -0.99 * x[:, 1].flip((-2, -1)), -0.99 * x[:, 2]], 1)
    turned = frames.crop(frames.turned(frames.embed(mixed)))
    torch.testing.assert_close(turned[:, 0], x[:, 0])
    torch.testing.assert_close(turned[:, 1:], 0.99 * x[:, 1:])


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
