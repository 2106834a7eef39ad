"""Total variation taken away a step at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from reddiff_pl.physics.smoothing import CHROMA, Smoothing


def pictures(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


def settled(t: Tensor, weight: float, steps: int = 3000) -> Tensor:
    smoothing, x = Smoothing(), t
    for _ in range(steps):
        x = smoothing(t, weight)
    return x


def variation(x: Tensor) -> Tensor:
    """TV of the mean plus CHROMA times the joint TV of what is left, by the definition."""
    size = x.shape[0] ** 0.5  # the mean of C equal channels has their norm over the root of C

    def total(part: Tensor) -> Tensor:
        right, down = torch.zeros_like(part), torch.zeros_like(part)
        right[..., :-1], down[..., :-1, :] = part.diff(dim=-1), part.diff(dim=-2)
        squares = (right.square() + down.square()).sum(0)
        return squares.clamp(min=0).sqrt().sum()

    mean = x.mean(0, keepdim=True)
    return size * total(mean) + CHROMA * total(x - mean)


def test_steps_on_one_image_end_at_the_least_of_its_objective() -> None:
    t, weight = pictures(3, 7, 6), 0.2
    x = settled(t, weight)

    def objective(x: Tensor) -> Tensor:
        return (x - t).square().sum() / 2 + weight * variation(x)

    least = objective(x)
    assert least < objective(t)
    draws = torch.Generator().manual_seed(1)
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(20):
            other = x + size * torch.randn(x.shape, generator=draws, dtype=x.dtype)
            assert objective(other) >= least - 1e-9
    # strongly convex: on the way to any other point it rises
    assert objective(0.99 * x + 0.01 * t) >= least - 1e-9


def test_much_of_it_leaves_the_mean_and_little_changes_little() -> None:
    t = pictures(2, 3, 5, 4)
    torch.testing.assert_close(settled(t, 100.0), t.mean((-2, -1), keepdim=True).expand_as(t))
    assert (settled(t, 1e-6) - t).abs().max() < 1e-4


def test_images_of_a_batch_do_not_see_each_other() -> None:
    t = pictures(2, 3, 5, 4)
    torch.testing.assert_close(settled(t, 0.1, 20)[1:], settled(t[1:], 0.1, 20))


def test_it_follows_a_half_turn_and_a_change_of_sign() -> None:
    """Exactly on one row: on two axes a pixel's differences are those to the right and down, which turn around."""
    t = pictures(2, 3, 1, 9)
    turn, sign = (
        torch.tensor([True, False, True])[:, None, None],
        torch.tensor([1.0, -1.0, -1.0])[:, None, None],
    )

    def turned(x: Tensor) -> Tensor:
        return sign * torch.where(turn, x.flip((-2, -1)), x)

    plain, followed = Smoothing(), Smoothing()
    # alike in all channels: the joint lengths are of one orientation
    t = t[:, :1].expand_as(t)
    for _ in range(5):
        plain(t, 0.3), followed(t, 0.3)
    followed.turn(turn, sign)
    for a, b in zip(plain.along, followed.along, strict=True):
        torch.testing.assert_close(b, sign * torch.where(turn, -a.flip((-2, -1)), a))
    torch.testing.assert_close(
        t + (followed._primal(turned(t)) - turned(t)), t + turned(plain._primal(t) - t)
    )
