"""Augmentation: off it does nothing, on it changes the share it should, in the ways it says."""

from __future__ import annotations

import pytest
import torch

from reddiff_pl.training.augment import Augmentation, recolored, turned

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def crops() -> torch.Tensor:
    """2,000 crops with colours away from black and white."""
    return torch.rand(2000, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.4 - 0.2


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_off_it_draws_nothing(crops):
    """So that trainings without it are what they were."""
    numbers = generator()
    assert torch.equal(Augmentation()(crops, numbers), crops)
    assert torch.equal(torch.rand(3, generator=numbers), torch.rand(3, generator=generator()))


def test_a_share_is_turned_and_nothing_else_happens(crops):
    out = Augmentation(turn_share=0.3)(crops, generator())
    quarters = [torch.rot90(crops, k, (2, 3)) for k in range(4)]
    counts = [sum((a == b).all().item() for a, b in zip(out, turn, strict=True)) for turn in quarters]
    assert sum(counts) == 2000
    for count, share in zip(counts, (0.7, 0.1, 0.1, 0.1), strict=True):
        assert abs(count / 2000 - share) < 5 * (share * (1 - share) / 2000) ** 0.5


def test_a_share_is_recolored_within_the_limits(crops):
    out = Augmentation(color_jitter=0.25, color_share=0.4)(crops, generator())
    changed = (out != crops).flatten(1).any(1)
    assert abs(changed.float().mean().item() - 0.4) < 5 * (0.24 / 2000) ** 0.5
    # the mean of all is that of the image times the exposure
    exposure = ((out[changed] + 1) / (crops[changed] + 1).mean((1, 2, 3), keepdim=True)).mean((1, 2, 3))
    assert 1.24 < exposure.max() < 1.251 and 0.799 < exposure.min() < 0.81
    assert abs(exposure.log().mean()) < 0.03


def test_recolored_one_change_at_a_time(crops):
    one = torch.ones(2000, 1, 1, 1)
    torch.testing.assert_close(recolored(crops, one, one, one), crops)
    flat = recolored(crops, one, 0 * one, one)
    torch.testing.assert_close(flat, crops.mean((1, 2, 3), keepdim=True).expand_as(crops))
    grey = recolored(crops, one, one, 0 * one)
    torch.testing.assert_close(grey, crops.mean(1, keepdim=True).expand_as(crops))
    torch.testing.assert_close(recolored(crops, 2 * one, one, one), (2 * crops + 1).clamp(-1, 1))
    assert recolored(crops, one, 50 * one, one).abs().max() == 1, "cut off at black and white"


def test_turned_by_each_number_of_quarters(crops):
    quarters = torch.arange(8) % 4
    for image, out, k in zip(crops, turned(crops[:8], quarters), quarters.tolist(), strict=False):
        assert torch.equal(out, torch.rot90(image, k, (1, 2)))


def test_each_crop_has_its_own_change(crops):
    same = crops[:1].expand(50, -1, -1, -1)
    out = Augmentation(color_jitter=0.3, color_share=1.0)(same, generator())
    assert len(out.flatten(1).unique(dim=0)) == 50
