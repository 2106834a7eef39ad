"""The parts of the training, each against what it should compute."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from helpers import png, write_shard
from tiny import NETWORK

from reddiff_pl.priors.base import linear_abar
from reddiff_pl.shards.picture import Picture, Source
from reddiff_pl.training import heldout
from reddiff_pl.training.averages import Averages
from reddiff_pl.training.budget import Budget
from reddiff_pl.training.crops import Pyramid, reduced, scales
from reddiff_pl.training.module import PriorTraining
from reddiff_pl.training.photos import PhotoCrops

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def training() -> PriorTraining:
    torch.manual_seed(0)
    return PriorTraining(
        UNet2DModel(**NETWORK), max_steps=100, warmup_steps=10, lr=1e-2, clip=0.5, compile=False
    )


def test_scales_are_geometric():
    assert scales(64, 256, 3) == [256, 128, 64]
    assert scales(64, 64, 5) == [64]


def test_reduced_never_enlarges_and_keeps_the_aspect():
    picture = Picture(np.zeros((40, 60, 3), dtype=np.uint8), Source("photo", 8, 3))
    assert [level.shape for level in reduced(picture, [80, 40, 20])] == [
        (40, 60, 3),
        (40, 60, 3),
        (20, 30, 3),
    ]


def test_crops_are_windows_of_the_levels_and_all_are_reached():
    """Pixels number themselves, so a crop tells where it was taken: two photos, not square, at two levels."""
    numbers = iter(range(1000))
    shapes = [[(5, 7), (3, 4)], [(6, 5), (3, 3)]]
    photos = [
        [np.array([next(numbers) for _ in range(h * w)], dtype=np.uint8).reshape(h, w, 1) for h, w in photo]
        for photo in shapes
    ]
    pyramid = Pyramid.of(photos, [1.0, 3.0])
    crops = pyramid.draw(20000, 3, torch.Generator().manual_seed(0))
    assert crops.shape == (20000, 1, 3, 3)
    found = ((crops + 1) * 127.5).round().long()[:, 0]
    windows = {}
    for photo in photos:
        for level, image in enumerate(photo):
            h, w = image.shape[:2]
            places = [(i, j) for i in range(h - 2) for j in range(w - 2)]
            for i, j in places:
                window = image[i : i + 3, j : j + 3, 0]
                for turned in (window, window[:, ::-1]):
                    share = (0.25, 0.75)[level] / 2 / len(places) / 2
                    windows[tuple(turned.reshape(-1).tolist())] = share
    keys, counts = found.flatten(1).unique(dim=0, return_counts=True)
    counted = {tuple(key.tolist()): count.item() for key, count in zip(keys, counts, strict=True)}
    assert counted.keys() == windows.keys()
    for key, share in windows.items():
        assert abs(counted[key] / 20000 - share) < 5 * (share / 20000) ** 0.5


def test_photos_are_held_out_by_their_number(tmp_path):
    """All samples of a photo are on one side; a sample without the entry goes by its key."""
    generator = np.random.default_rng(0)
    samples = []
    for i in range(40):
        image = png(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8))
        meta = json.dumps({"photo_id": i // 2, "name": f"n{i // 2}"}).encode()
        samples.append((f"k{i:03d}", {"png": image, **({"json": meta} if i < 38 else {})}))
    samples.append(("small", {"png": png(np.zeros((8, 8, 3), dtype=np.uint8))}))
    shard = str(write_shard(tmp_path / "a.tar", samples))

    def split(**options):
        data = PhotoCrops(shard, shape=(3, 16, 16), max_scale=20, levels=2, workers=2, **options)
        data.setup("fit")
        return data.pyramid.start.shape[1], len(data.heldout)

    held = split(holdout_key="photo_id", holdout_modulus=10, holdout_remainder=3)
    assert sum(held) == 40, "the one that is too small is left out"
    assert held[1] in (4, 5, 6), "photos 3 and 13, and perhaps one of the two without a number"
    assert split(holdout_modulus=0) == (40, 0)
    train, by_name = split(holdout_key="name", holdout_modulus=3)
    assert train + by_name == 40 and 0 < by_name < 40


def test_a_step_that_is_not_finite_is_skipped(training):
    adam = training.configure_optimizers()
    before = {name: value.clone() for name, value in training.network.state_dict().items()}
    training.skipped = torch.zeros(())
    for bad in (torch.nan, torch.inf):
        for parameter in training.network.parameters():
            parameter.grad = torch.ones_like(parameter)
        next(training.network.parameters()).grad[0, 0, 0, 0] = bad
        training.configure_gradient_clipping(adam)
        adam.step()
    assert training.skipped == 2
    for name, value in training.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_gradients_are_clipped_as_torch_clips_them(training):
    """Several steps, some with large and some with small gradients, against plain AdamW and clip_grad_norm_."""
    reference = UNet2DModel(**NETWORK)
    reference.load_state_dict(training.network.state_dict())
    mine = training.configure_optimizers()
    plain = torch.optim.AdamW(reference.parameters(), training.lr, training.betas, weight_decay=0.0)
    training.skipped = torch.zeros(())
    generator = torch.Generator().manual_seed(0)
    for size in (10.0, 1e-3, 1.0):
        for a, b in zip(training.network.parameters(), reference.parameters(), strict=True):
            b.grad = size * torch.randn(b.shape, generator=generator)
            a.grad = torch.empty_like(a).copy_(b.grad)  # in the order of the weights, as autograd has it
        training.configure_gradient_clipping(mine)
        mine.step()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), training.clip)
        plain.step()
    torch.testing.assert_close(training.network.state_dict(), reference.state_dict(), rtol=1e-4, atol=1e-6)


def test_the_step_size_follows_the_budget():
    budget = Budget(100, None, warmup_steps=10, decay="cosine")
    steps = [0, 4, 9, 50, 100]
    cosine = [(1 + np.cos(np.pi * s / 100)) / 2 for s in steps]
    factors = [budget.factor(step) for step in steps]
    np.testing.assert_allclose(factors, np.array(cosine) * [0.1, 0.5, 1, 1, 1], atol=1e-12)
    assert [budget.is_over(step) for step in (99, 100)] == [False, True]
    budget = Budget(None, 11.0, warmup_steps=0, decay="linear")
    assert budget.factor(7) == 1, "nothing is learned before the first step"
    budget.begun, budget.minutes = 1.0, 6.0
    assert budget.factor(7) == pytest.approx(0.5), "half of the ten minutes after it"
    budget.minutes = 11.0
    assert budget.is_over(7) and budget.factor(7) == 0


def test_averages_are_weighted_means():
    network = torch.nn.Linear(1, 1, bias=False)
    averages = Averages(network, [0.5, 0.0])
    expected = values = network.weight.item()
    for step in range(1, 6):
        values = float(step)
        network.weight.data.fill_(values)
        averages.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * values
    assert averages.weights(0)["weight"].item() == pytest.approx(expected, rel=1e-6)
    assert averages.weights(1)["weight"].item() == values


def test_the_error_of_known_predictors():
    """Of 0 it is E z^2; of the exact posterior mean of a constant image, which knows x, it is 0."""
    abar = linear_abar()
    x = torch.full((6, 3, 8, 8), 200, dtype=torch.uint8)
    nothing = heldout.eps_mse(lambda x_t, t: torch.zeros_like(x_t), x, abar, [5, 500], batch_size=4)
    assert nothing[5] != nothing[500]
    assert all(abs(loss - 1) < 5 * (2 / x.numel()) ** 0.5 for loss in nothing.values())

    def knows(x_t, t):
        a = abar[t].view(-1, 1, 1, 1).float()
        return (x_t - a.sqrt() * (200 / 127.5 - 1)) / (1 - a).sqrt()

    assert max(heldout.eps_mse(knows, x, abar, [5, 500], batch_size=4).values()) < 1e-8
    assert heldout.score({1: 0.1, 2: 1e-3}) == pytest.approx(1e-2)


def test_samples_of_a_known_distribution():
    """DDIM follows the exact flow of N(0, v): a start x_T ends as x_T sqrt(v / (abar_T v + 1 - abar_T))."""
    abar, v = linear_abar(), 0.01

    def eps(x_t, t):
        a = abar[t].view(-1, 1, 1, 1).float()
        return x_t * (1 - a).sqrt() / (a * v + 1 - a)

    end = heldout.samples(eps, (8, 1, 8, 8), abar, 1000)
    assert end.std().item() == pytest.approx(v**0.5, rel=0.1)
    assert heldout.grid(end).shape == (1, 24, 24)


def test_the_weighting_keeps_its_mean():
    training = PriorTraining(UNet2DModel(**NETWORK), max_steps=1, t_weighting=2.0)
    ratio = (training.sigma / training.alpha) ** 2
    torch.testing.assert_close(training.weight / training.weight[500], ratio / ratio[500], rtol=1e-3, atol=0)
    assert training.weight.mean().item() == pytest.approx(1)
