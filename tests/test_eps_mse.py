"""The model card's table: each photo's error at each timestep."""

from __future__ import annotations

import pytest
import torch
from helpers import VAL_SHARD

from benchmarks import eps_mse
from reddiff_pl.priors import Prior
from reddiff_pl.priors.base import linear_abar
from reddiff_pl.training.measuring import eps_errors, photos

pytestmark = pytest.mark.usefixtures("one_thread")


class Knows(Prior):
    """Predicts the noise on a constant image of this value, as far as `share` goes."""

    def __init__(self, value: float, share: float) -> None:
        super().__init__()
        self.value, self.share, self.shape = value, share, (3, 8, 8)
        self.register_buffer("abar", linear_abar(), persistent=False)

    def eps(self, x_t, t, label=None):
        a = self.abar[t].view(-1, 1, 1, 1)
        return (self.share * (x_t - a.sqrt() * self.value) / (1 - a).sqrt()).float()


@pytest.mark.parametrize("share", [0.0, 0.9, 1.0])
def test_of_predictors_that_are_known(share):
    """z with a share of it predicted: (1 - share)^2 E z^2, within five standard errors for every photo."""
    x = torch.full((5, 3, 8, 8), 200, dtype=torch.uint8)
    losses = eps_errors(Knows(200 / 127.5 - 1, share), x, (10, 500), draws=3, batch_size=2)
    assert losses.shape == (5, 2)
    expected = (1 - share) ** 2
    assert ((losses - expected).abs() <= 5 * expected * (2 / (3 * 192)) ** 0.5 + 1e-8).all()
    assert losses.unique().numel() == 10 or share == 1, "each has noise of its own"
    again = eps_errors(Knows(200 / 127.5 - 1, share), x, (500,), draws=3)
    torch.testing.assert_close(again[:, 0], losses[:, 1], rtol=1e-5, atol=1e-9)


def test_photos_are_chosen_by_their_number():
    everything = photos([str(VAL_SHARD)], None, (3, 16, 16))
    tenth = photos([str(VAL_SHARD)], None, (3, 16, 16), modulus=10)
    assert everything.shape == (49, 3, 16, 16) and everything.dtype == torch.uint8
    assert 0 < len(tenth) < 49
    assert all((everything == photo).flatten(1).all(1).any() for photo in tenth)


def test_a_row_says_how_far_from_the_first():
    first = torch.tensor([[0.1, 0.02], [0.3, 0.04]])
    assert eps_mse.row("a", first) == "| a | .2000 | .03000 |"
    # -10 % and -30 % of each photo: the mean of the differences, by that of the first
    second = first * torch.tensor([[0.9], [0.7]])
    assert eps_mse.row("b", second, first) == "| b | .1500 (-25.00 ± 20.00 %) | .02300 (-23.33 ± 16.67 %) |"
