"""Degradation: one sample's measurement depends on its key, its data and the run's seed, on nothing else."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import deepinv
import pytest
import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.errors import SampleError
from reddiff_pl.physics import (
    HDR,
    JPEG,
    BicubicSuperResolution,
    BoxMask,
    Colorization,
    Compose,
    CompressedSensing,
    Degradation,
    GaussianDeblurring,
    GaussianNoise,
    Inpainting,
    MeasurementNoise,
    NoNoise,
    PhaseRetrieval,
    PoissonNoise,
    RandomMask,
    SuperResolution,
    UnitRange,
    bind,
)

SHAPE = (3, 16, 24)
KEYS = [f"image{i:03d}" for i in range(40)]
Result = tuple[Tensor, dict[str, Tensor]]

SETTINGS: dict[str, tuple[Callable[[], Physics], MeasurementNoise]] = {
    "inpainting": (lambda: Inpainting(RandomMask(0.5)), GaussianNoise(0.05)),
    "unit_inpainting": (lambda: UnitRange(Inpainting(BoxMask(6, centered=False))), PoissonNoise(0.1)),
    "blur": (lambda: GaussianDeblurring((0.5, 4.0)), GaussianNoise(0.05)),
    "given_mask": (Inpainting, NoNoise()),
    "unit_given_mask": (lambda: UnitRange(Inpainting()), NoNoise()),
    "fixed_blur": (lambda: GaussianDeblurring(3.0), NoNoise()),
    "superresolution": (lambda: SuperResolution(4), NoNoise()),
}
DRAWN = pytest.mark.parametrize("name", ["inpainting", "unit_inpainting", "blur"])


def make(name: str, seed: int = 3) -> Degradation:
    physics, noise = SETTINGS[name]
    return Degradation(physics(), noise, SHAPE, seed)


shared = functools.cache(make)  # copying an operator takes half a second


def image(key: str) -> Tensor:
    return 2 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(KEYS.index(key))) - 1


def random_mask(seed: int, channels: int = 1) -> Tensor:
    return (torch.rand((channels, *SHAPE[1:]), generator=torch.Generator().manual_seed(seed)) < 0.5).float()


def equal(a: Result, b: Result) -> bool:
    return (
        torch.equal(a[0], b[0])
        and a[1].keys() == b[1].keys()
        and all(torch.equal(a[1][n], b[1][n]) for n in a[1])
    )


# --- what a result depends on


@DRAWN
def test_order_and_instance_do_not_matter(name: str) -> None:
    degradation = shared(name)
    forwards = {key: degradation(image(key), key, {}) for key in KEYS}
    torch.manual_seed(1234)
    backwards = {key: degradation(image(key), key, {}) for key in reversed(KEYS)}
    other = make(name)
    assert all(equal(forwards[key], backwards[key]) for key in KEYS)
    assert all(equal(forwards[key], other(image(key), key, {})) for key in KEYS[::7])


@DRAWN
def test_key_and_seed_matter(name: str) -> None:
    """Of one picture: other mask or kernel, and other noise."""
    both, x = (shared(name), make(name, seed=4)), image(KEYS[0])
    drawn = [degradation(x, key, {})[1] for degradation in both for key in KEYS]
    (parameter,) = drawn[0]
    assert len({params[parameter].numpy().tobytes() for params in drawn}) > 50  # boxes: 80 in 209 places
    noisy = [degradation(x, key, drawn[0])[0] for degradation in both for key in KEYS]
    assert len({y.numpy().tobytes() for y in noisy}) == 80


def test_mask_and_noise_are_drawn_apart() -> None:
    """A sample that brings the mask it would have been given gets the same noise."""
    drawn = shared("inpainting")(image(KEYS[0]), KEYS[0], {})
    assert equal(drawn, shared("inpainting")(image(KEYS[0]), KEYS[0], drawn[1]))


@DRAWN
def test_global_generator_is_left_alone(name: str) -> None:
    state = torch.get_rng_state()
    shared(name)(image(KEYS[0]), KEYS[0], {})
    assert torch.equal(torch.get_rng_state(), state)


class SlowInpainting(Inpainting):
    """Lets other threads go ahead between bind and A."""

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        time.sleep(1e-3)
        return super().A(x)


class SlowBlur(GaussianDeblurring):
    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        time.sleep(1e-3)
        return super().A(x)


@pytest.mark.parametrize(
    "physics",
    [UnitRange(SlowInpainting(RandomMask(0.5))), SlowBlur((0.5, 4.0))],
    ids=["unit_inpainting", "blur"],
)
def test_threads_do_not_share_parameters(physics: Physics) -> None:
    degradation = Degradation(physics, GaussianNoise(0.05), SHAPE, seed=3)
    serial = {key: degradation(image(key), key, {}) for key in KEYS}
    keys = 2 * KEYS
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda key: degradation(image(key), key, {}), keys))
    assert len(threaded) == 80
    assert all(equal(result, serial[key]) for key, result in zip(keys, threaded, strict=True))


def test_the_operator_given_is_copied() -> None:
    """The sampler binds batches to the same object while the loader degrades."""
    physics = GaussianDeblurring(3.0)
    configured = physics.kernel.clone()
    degradation, sample = Degradation(physics, NoNoise(), SHAPE, seed=3), (image(KEYS[0]), KEYS[0], {})
    bind(physics, {"kernel": torch.rand(4, 5)})
    assert equal(degradation(*sample), make("fixed_blur")(*sample))
    bind(physics, {"kernel": configured})
    degradation(image(KEYS[0]), KEYS[0], {"kernel": torch.rand(5)})
    assert torch.equal(physics.kernel, configured)


@pytest.mark.parametrize(
    "physics", [GaussianDeblurring(3.0), UnitRange(GaussianDeblurring(3.0))], ids=["plain", "unit_range"]
)
def test_given_parameters_do_not_leak_into_the_next_sample(physics: Physics) -> None:
    """A kernel of its own for one sample, the configuration's for the next."""
    degradation = Degradation(physics, NoNoise(), SHAPE, seed=0)
    before = degradation(image(KEYS[0]), KEYS[0], {})
    degradation(image(KEYS[1]), KEYS[1], {"kernel": torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])})
    assert equal(degradation(image(KEYS[0]), KEYS[0], {}), before)


def test_samples_with_and_without_a_kernel_make_a_batch() -> None:
    """Parameters of a batch are stacked: every sample must name the same ones."""
    degradation = make("fixed_blur")
    own = degradation.parameters(KEYS[0], {"kernel": torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])})
    assert own.keys() == degradation.parameters(KEYS[1], {}).keys()


# --- given parameters


@pytest.mark.parametrize("name", ["given_mask", "inpainting"])
@pytest.mark.parametrize("channels", [1, 3])
def test_given_mask_wins(name: str, channels: int) -> None:
    """Over the generator's, where there is one."""
    mask, x = random_mask(1, channels), image(KEYS[0])
    y, params = shared(name)(x, KEYS[0], {"mask": mask})
    assert params.keys() == {"mask"}
    assert torch.equal(params["mask"], mask)
    assert torch.equal(y != 0, mask.expand(SHAPE) != 0)
    if name == "given_mask":  # the other adds noise
        assert torch.equal(y, mask * x)


def test_given_kernel_wins() -> None:
    shift = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0])  # one pixel down and to the right
    degradation = Degradation(GaussianDeblurring((0.5, 4.0)), NoNoise(), SHAPE, seed=3)
    y, params = degradation(image(KEYS[0]), KEYS[0], {"kernel": shift})
    assert torch.equal(params["kernel"], shift)
    assert torch.equal(y[:, 1:, 1:], image(KEYS[0])[:, :-1, :-1])
    assert not y[:, 0].any()
    assert not y[:, :, 0].any()


@DRAWN
def test_parameters_returned_are_those_used(name: str) -> None:
    """What `degrade` writes beside the measurement makes it again."""
    degradation, x = shared(name), image(KEYS[5])
    y, params = degradation(x, KEYS[5], {})
    _, others = degradation(x, KEYS[6], {})
    assert not torch.equal(degradation(x, KEYS[5], others)[0], y)
    assert equal(degradation(x, KEYS[5], params), (y, params))


@pytest.mark.parametrize(
    "name, given, message",
    [
        ("inpainting", {"mask": torch.ones(1, 24, 16)}, r"mask has shape \(1, 24, 16\)"),
        ("inpainting", {"mask": torch.full((1, 16, 24), torch.nan)}, "mask holds NaN"),
        ("given_mask", {"kernel": torch.ones(5)}, "no parameter kernel"),
        ("given_mask", {}, r"no mask: the sample has no KEY\.mask\.png"),
        ("unit_given_mask", {}, "no mask"),
        ("fixed_blur", {"kernel": torch.ones(3)}, r"kernel has shape \(3,\), expected \(5,\)"),
    ],
)
@pytest.mark.parametrize("way", [Degradation.__call__, Degradation.accept], ids=["degrade", "accept"])
def test_bad_parameters_fail_the_sample(
    way: Callable[..., Result], name: str, given: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(SampleError, match=message):
        way(shared(name), image(KEYS[0]), KEYS[0], given)


def test_a_bad_sample_does_not_disturb_the_next() -> None:
    degradation, sample = make("inpainting"), (image(KEYS[1]), KEYS[1], {})
    for given in ({"mask": torch.ones(1, 3, 3)}, {"mask": random_mask(0), "kernel": torch.ones(5)}):
        with pytest.raises(SampleError):
            degradation(image(KEYS[0]), KEYS[0], given)
    assert equal(degradation(*sample), shared("inpainting")(*sample))


# --- measurements that samples bring


@DRAWN
def test_accept_takes_what_degrade_wrote(name: str) -> None:
    written = shared(name)(image(KEYS[0]), KEYS[0], {})
    assert equal(shared(name).accept(written[0], "another key", written[1])[:2], written)


@pytest.mark.parametrize(
    "name, shape, message",
    [
        ("given_mask", (3, 16, 23), r"mask has shape \(1, 16, 24\), expected \(1, 16, 23\)"),
        ("unit_given_mask", (3, 24, 16), r"mask has shape \(1, 16, 24\), expected \(1, 24, 16\)"),
        ("fixed_blur", (1, 16, 24), "an image with 1 channels; expected 3"),
        ("fixed_blur", (16, 24), "which the operator makes of no image of 3 channels"),
        ("given_mask", (1, 3, 16, 24), "which the operator makes of no image of 3 channels"),
        ("superresolution", (1, 4, 6), "an image with 1 channels; expected 3"),
    ],
)
def test_accept_refuses_a_shape_that_no_image_has(name: str, shape: tuple[int, ...], message: str) -> None:
    given = {"mask": random_mask(0)} if "mask" in name else {}
    with pytest.raises(SampleError, match=message):
        shared(name).accept(torch.zeros(shape), KEYS[0], given)


def test_the_reference_or_the_size_says_what_enlargement_leaves_open() -> None:
    y = torch.rand(3, 4, 6)
    assert shared("superresolution").accept(y, KEYS[0], {})[2] == (3, 16, 24)
    assert shared("superresolution").accept(y, KEYS[0], {}, size=(13, 22))[2] == (3, 13, 22)
    # one that has another measurement says nothing
    assert shared("superresolution").accept(y, KEYS[0], {}, size=(12, 22))[2] == (3, 16, 24)
    told = Degradation(SuperResolution(4), NoNoise(), SHAPE, seed=0, size=(15, 21))
    assert told.accept(y, KEYS[0], {})[2] == (3, 15, 21)
    assert told.accept(torch.rand(3, 9, 9), KEYS[0], {})[2] == (3, 36, 36)
    x = told.bound({}, (3, 15, 21)).A_dagger(y[None])
    assert x.shape == (1, 3, 15, 21) and torch.allclose(told.bound({}).A(x)[0], y)


@pytest.mark.parametrize("size", [(17, 31), (40, 9), (5, 5)], ids=str)
@pytest.mark.parametrize(
    "physics",
    [
        SuperResolution(4),
        BicubicSuperResolution(2),
        GaussianDeblurring(),
        Inpainting(RandomMask()),
        CompressedSensing(),
        JPEG(),
        HDR(),
        PhaseRetrieval(),
        Colorization(),
        UnitRange(Compose([Inpainting(RandomMask()), SuperResolution(3)])),
        Compose([GaussianDeblurring(), SuperResolution(2), JPEG()]),
        deepinv.physics.Blur(filter=torch.ones(1, 1, 3, 5) / 15, padding="valid"),
        deepinv.physics.Blur(filter=torch.ones(1, 1, 3, 3) / 9, padding="circular"),
        UnitRange(deepinv.physics.Decolorize()),
    ],
    ids=lambda physics: f"{type(physics).__name__}-{physics}"[:40].split("\n")[0],
)
def test_an_image_of_any_size_is_found_from_its_measurement(physics: Physics, size: tuple[int, int]) -> None:
    """And its drawn parameters have its size."""
    degradation = Degradation(physics, NoNoise(), SHAPE, seed=0)
    x = 2 * torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) - 1
    y, params = degradation(x, "key", {})
    again, _, shape = degradation.accept(y, "key", params, size)
    assert torch.equal(again, y) and shape == (3, *size)
    start = degradation.bound(params, shape).A_dagger(y[None])
    assert start.shape == (1, 3, *size) and start.isfinite().all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_accept_refuses_what_is_not_finite(value: float) -> None:
    y = image(KEYS[0])
    y[2, 15, 23] = value
    with pytest.raises(SampleError, match="the measurement holds NaN or infinite values"):
        shared("fixed_blur").accept(y, KEYS[0], {})


@DRAWN
def test_accept_refuses_a_measurement_without_its_parameters(name: str) -> None:
    """Only who measured knows where; a new mask would erase pixels, a new kernel restore another image."""
    with pytest.raises(SampleError):
        shared(name).accept(image(KEYS[0]), KEYS[0], {})


@pytest.mark.parametrize("channels", [1, 3])
def test_accept_clears_masked_entries(channels: int) -> None:
    """8-bit files cannot hold a masked 0: it comes back as 1/255."""
    mask, y = random_mask(2, channels), image(KEYS[0])
    before = y.clone()
    accepted, _, _ = shared("given_mask").accept(y, KEYS[0], {"mask": mask})
    assert torch.equal(accepted, mask * y)
    assert torch.equal(y, before)


def test_accept_adds_no_noise() -> None:
    mask = torch.ones(1, *SHAPE[1:])
    accepted, _, _ = shared("inpainting").accept(image(KEYS[0]), KEYS[0], {"mask": mask})
    assert torch.equal(accepted, image(KEYS[0]))


def test_no_gradients() -> None:
    """Nor inference tensors, which the sampler's autograd would refuse."""
    y, _ = shared("fixed_blur")(image(KEYS[0]).requires_grad_(), KEYS[0], {})
    assert not y.requires_grad
    assert not y.is_inference()
