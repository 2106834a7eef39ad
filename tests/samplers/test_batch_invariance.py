"""An image's result does not depend on its batch: not on its size, its order, nor on the other images."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
import yaml
from helpers import CONFIGS
from torch import Tensor
from torch.nn.functional import interpolate

from reddiff_pl.physics import Degradation, Inpainting, NoNoise, RandomMask, bind
from reddiff_pl.priors import Gaussian, Prior, UNet
from reddiff_pl.samplers import ProximalREDDiff, REDDiff, SeededNoise, run
from reddiff_pl.shards.reader import RawSample
from reddiff_pl.shards.samples import prepare

pytestmark = pytest.mark.usefixtures("one_thread")

ORDERS = ["descending", "random", "random_without_replacement"]
KEYS = "abcd"


@cache
def prior(name: str) -> Prior:
    return UNet(precision="32") if name == "unet" else Gaussian((3, 32, 32))


def measured(key: str, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """The smooth image and the mask that belong to a key."""
    draws = torch.Generator().manual_seed(ord(key))
    coarse = torch.randn(1, shape[0], 5, 5, generator=draws) / 2
    mask = (torch.rand(1, *shape[1:], generator=draws) < 0.5).float()
    return mask * interpolate(coarse, shape[1:], mode="bicubic")[0], mask


@cache
def restore(name: str, keys: Sequence[str], **options: Any) -> Tensor:
    """The results of one batch, in the order of `keys`: 4 timesteps with the network, 20 without."""
    shape = prior(name).shape
    y, masks = (torch.stack(parts) for parts in zip(*(measured(key, shape) for key in keys), strict=True))
    physics = Inpainting()
    bind(physics, {"mask": masks})
    options = {"steps": 4 if name == "unet" else 20, "sigma_x0": 1e-4} | options
    return run(REDDiff(**options), y, physics, prior(name), SeededNoise(0, keys))


def alone(name: str, **options: Any) -> Tensor:
    return torch.cat([restore(name, key, **options) for key in KEYS])


def sgd(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=3000.0, momentum=0.5)  # moves an image by .06 on average


def rmsprop(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(params, lr=0.05)


@pytest.mark.parametrize(
    "options",
    [
        *({"order": order} for order in ORDERS),
        {"order": "random", "timesteps_per_step": 3},  # leaves a last group of 2
        {"order": "random", "antithetic": True},
        {"order": "random", "output": "x_hat"},
        {"order": "random", "optimizer": rmsprop},
    ],
    ids=lambda options: "-".join(str(getattr(value, "__name__", value)) for value in options.values()),
)
def test_one_batch_of_four_is_four_of_one(options: dict[str, Any]) -> None:
    together, apart = restore("gaussian", KEYS, **options), alone("gaussian", **options)
    assert (together - apart).abs().max() < 1e-5
    # the images are told apart by far more than that
    assert min((together[i] - together[j]).abs().mean() for i in range(4) for j in range(i)) > 0.1


def test_one_batch_of_three_is_three_of_one_for_a_network(photos: dict[str, bytes]) -> None:
    """The shipped sampler and prior on real photos: convolutions round differently for another batch size."""
    shape = (3, 64, 64)
    physics, prior = Inpainting(RandomMask(0.5)), UNet(precision="32")
    degradation = Degradation(physics, NoNoise(), shape, seed=0)
    samples = {
        key: prepare(RawSample(0, key, {"jpg": photos[key]}), degradation) for key in list(photos)[::16][:3]
    }

    def restored(keys: Sequence[str]) -> Tensor:
        bind(physics, {"mask": torch.stack([samples[key].params["mask"] for key in keys])})
        y = torch.stack([samples[key].y for key in keys])
        return run(ProximalREDDiff(**shipped), y, physics, prior, SeededNoise(0, keys))

    config = yaml.safe_load((CONFIGS / "samplers" / "reddiff.yaml").read_text())
    shipped = config["model"]["sampler"]["init_args"] | {"steps": 4}
    keys = list(samples)
    permuted = restored([keys[i] for i in (2, 0, 1)])[[1, 2, 0]]
    apart = torch.cat([restored([key]) for key in keys])
    assert (permuted - apart).abs().max() < 1e-3


def test_one_batch_of_four_is_four_of_one_to_the_last_pixel_without_adam() -> None:
    """Gradient steps do not blow up rounding: nothing is left of the batch."""
    options = {"order": "random", "optimizer": sgd}
    together = restore("unet", KEYS, **options)
    assert (together - alone("unet", **options)).abs().max() < 1e-4
    assert (together - restore("unet", KEYS, order="random")).abs().mean() > 0.01


@pytest.mark.parametrize(("name", "tolerance"), [("gaussian", 1e-5), ("unet", 1e-3)])
def test_order_and_companions(name: str, tolerance: float) -> None:
    """A batch's order changes nothing; other images in a batch of one shape do not change a bit."""
    together = restore(name, KEYS, order="random")
    permuted = restore(name, "cadb", order="random")
    assert (permuted[[1, 3, 0, 2]] - together).abs().max() < tolerance
    others = restore(name, "wbyz", order="random")
    assert torch.equal(others[1], together[1])
    assert not torch.equal(others[0], together[0])


def batch_mean_form(
    field: Gaussian, keys: Sequence[str], y: Tensor, mask: Tensor, lam: float, obs: float
) -> Tensor:
    """RED-diff as a code writes it whose loss is a mean over the whole batch, with Adam's eps at 1e-8."""
    noise = SeededNoise(0, keys)
    mu = (mask * y).requires_grad_()
    adam = torch.optim.Adam([mu], lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    for step, t in enumerate(range(950, -1, -50)):
        a = field.abar[t]
        z = noise.normal("z", field.shape, torch.float64, step)
        x_t = a.sqrt() * mu.detach() + (1 - a).sqrt() * z
        e = field.eps(x_t, torch.full((len(y),), t))
        regulariser = lam * ((1 - a) / a).sqrt() * ((e - z) * mu).mean()
        loss = regulariser + obs * ((y - mask * mu) ** 2).mean() / 2
        adam.zero_grad()
        loss.backward()
        adam.step()
    return mu.detach()


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_mean_over_a_batch_of_B_is_an_epsilon_of_B(scale: float) -> None:
    """Its gradients are 1/B of the per-image ones, so Adam takes the same steps when eps is B times as big.

    With a loss scaled to gradients near 1e-8, as large images have them, the default eps goes elsewhere.
    """
    field, keys = Gaussian((1, 16, 16)), [f"key{i}" for i in range(20)]
    draws = torch.Generator().manual_seed(2)
    mask = (torch.rand(20, 1, 16, 16, generator=draws) < 0.5).double()
    y = mask * field.sample(torch.randn(20, 1, 16, 16, generator=draws, dtype=torch.float64))
    physics = Inpainting()
    bind(physics, {"mask": mask})
    expected = batch_mean_form(field, keys, y, mask, lam=0.25 * scale, obs=scale)

    def error(eps: float) -> float:
        sampler = REDDiff(steps=20, lam=0.25 * scale, obs_weight=scale, adam_eps=eps)
        x = run(sampler, y, physics, field, SeededNoise(0, keys))
        return ((x - expected).norm() / expected.norm()).item()

    assert error(20 * 1e-8) < 1e-9
    if scale < 1:
        assert error(1e-8) > 0.1
        assert error(1e-8 / 20) > 0.1
