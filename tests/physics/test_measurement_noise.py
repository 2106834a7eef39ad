"""Measurement noise: on the [0, 1] scale whatever the operator's range, only where something is measured."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import deepinv
import pytest
import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics import (
    HDR,
    CompressedSensing,
    Degradation,
    Denoising,
    GaussianDeblurring,
    GaussianNoise,
    Inpainting,
    NoNoise,
    PhaseRetrieval,
    PoissonNoise,
    RandomMask,
    SuperResolution,
    UniformDeblurring,
    UnitRange,
)
from reddiff_pl.physics.binding import measured
from reddiff_pl.physics.noise import MeasurementNoise, estimate_noise_std
from reddiff_pl.restoring.checks import check_estimate
from reddiff_pl.seeding import stream

COUNT = 200_000
SHAPE = (3, 128, 128)
SCALES = pytest.mark.parametrize("scale", [1.0, 2.0], ids=["unit", "symmetric"])  # [0, 1] data, [-1, 1] data
NOISES = pytest.mark.parametrize(
    "noise", [NoNoise(), GaussianNoise(0.1), PoissonNoise(0.05)], ids=["none", "gaussian", "poisson"]
)


def generator(key: str = "image") -> torch.Generator:
    return stream(0, key, "y")


def image(shape: tuple[int, ...] = SHAPE) -> Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1


WHOLE = Inpainting(RandomMask(1.0))
MASKED = Inpainting()
BLUR = GaussianDeblurring()
UNIT_WHOLE, UNIT_MASKED, UNIT_BLUR = UnitRange(WHOLE), UnitRange(MASKED), UnitRange(BLUR)


@functools.cache  # copying an operator takes half a second
def degradation_by(physics: Physics) -> Degradation:
    return Degradation(physics, NoNoise(), SHAPE, seed=0)


def degrade(physics: Physics, noise: MeasurementNoise, **given: Tensor) -> Tensor:
    degradation = degradation_by(physics)
    degradation.noise = noise
    return degradation(image(), "image", given)[0]


# --- Gaussian


@SCALES
@pytest.mark.parametrize("sigma_y", [0.01, 0.25])
def test_gaussian(scale: float, sigma_y: float) -> None:
    """sigma_y is on the [0, 1] scale: 2 sigma_y on [-1, 1] data."""
    y = 0.3 * torch.ones(COUNT)
    n = GaussianNoise(sigma_y)(y, scale, generator()).double() - y
    std = scale * sigma_y
    assert abs(n.mean()) < 5 * std / math.sqrt(COUNT)
    assert abs(n.std() / std - 1) < 5 / math.sqrt(2 * COUNT)
    assert abs((n / std).pow(4).mean() - 3) < 5 * math.sqrt(96 / COUNT)  # a normal's, not a uniform's
    assert abs((n[1:] * n[:-1]).mean()) < 5 * std**2 / math.sqrt(COUNT)  # white


@pytest.mark.parametrize(
    "physics, factor",
    [(WHOLE, 2), (BLUR, 2), (UNIT_WHOLE, 1), (UNIT_BLUR, 1)],
    ids=["inpainting", "blur", "unit_inpainting", "unit_blur"],
)
def test_gaussian_in_a_measurement(physics: Physics, factor: int) -> None:
    n = (degrade(physics, GaussianNoise(0.05)) - degrade(physics, NoNoise())).double()
    assert abs(n.std() / (factor * 0.05) - 1) < 5 / math.sqrt(2 * n.numel())


@SCALES
def test_gaussian_of_zero(scale: float) -> None:
    assert torch.equal(GaussianNoise(0.0)(image(), scale, generator()), image())


# --- Poisson


@SCALES
@pytest.mark.parametrize("gain", [0.01, 0.2])
@pytest.mark.parametrize("unit", [0.02, 0.5, 1.0, 1.6])
def test_poisson(scale: float, gain: float, unit: float) -> None:
    """On the [0, 1] scale: mean u, variance gain u, whole photons; brighter than 1 is not clipped."""
    y = torch.full((COUNT,), unit if scale == 1 else 2 * unit - 1)
    noisy = PoissonNoise(gain)(y, scale, generator()).double()
    on_unit_scale = noisy if scale == 1 else (noisy + 1) / 2
    photons = on_unit_scale / gain
    torch.testing.assert_close(photons, photons.round(), rtol=0, atol=1e-3)
    assert photons.min() >= -1e-3
    assert abs(on_unit_scale.mean() - unit) < 5 * math.sqrt(gain * unit / COUNT)
    spread = math.sqrt(
        (2 + gain / unit) / COUNT
    )  # relative standard deviation of a Poisson sample's variance
    assert abs(on_unit_scale.var() / (gain * unit) - 1) < 5 * spread


@SCALES
def test_poisson_is_dark_below_zero(scale: float) -> None:
    """Operators may undershoot; a negative brightness gives no photons, and no error."""
    dark = 0.0 if scale == 1 else -1.0
    y = torch.tensor([dark, dark - 1e-3, dark - 0.5, -1e4, dark + 0.5]).repeat(1000, 1)
    noisy = PoissonNoise(0.01)(y, scale, generator())
    assert (noisy[:, :4] == dark).all()
    assert (noisy[:, 4] > dark).all()


def test_poisson_in_a_measurement() -> None:
    """Bright pixels are noisier than dark ones, whatever the range."""
    for physics, scale in [(WHOLE, 2), (UNIT_WHOLE, 1)]:
        n = (degrade(physics, PoissonNoise(0.05)) - degrade(physics, NoNoise())) / scale
        unit = (image() + 1) / 2
        assert abs((n**2 / unit)[unit > 0.1].mean() / 0.05 - 1) < 0.05


# --- both


@NOISES
@SCALES
def test_noise_is_a_function_of_its_generator(noise: MeasurementNoise, scale: float) -> None:
    y, state = image(), torch.get_rng_state()
    before = y.clone()
    first, again, other = (noise(y, scale, generator(key)) for key in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == isinstance(noise, NoNoise)
    assert torch.equal(y, before)
    assert torch.equal(torch.get_rng_state(), state)


@NOISES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dtype(noise: MeasurementNoise, dtype: torch.dtype) -> None:
    y = noise(image().to(dtype), 2.0, generator())
    assert (y.dtype, y.shape) == (dtype, SHAPE)


@NOISES
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("physics", [MASKED, UNIT_MASKED], ids=["plain", "unit_range"])
def test_noise_falls_on_kept_pixels_only(noise: MeasurementNoise, channels: int, physics: Physics) -> None:
    """Masked entries are exactly 0; the noise of the others is that of an image without a mask."""
    mask = (torch.rand((channels, *SHAPE[1:]), generator=torch.Generator().manual_seed(1)) < 0.4).float()
    y = degrade(physics, noise, mask=mask)
    whole = degrade(physics, noise, mask=torch.ones_like(mask))
    kept = mask.expand(SHAPE) == 1
    assert (y[~kept] == 0).all()
    # Poisson's counts come one after another from one stream: only their distribution is the same
    if not isinstance(noise, PoissonNoise):
        assert torch.equal(y[kept], whole[kept])
    assert abs(y[kept].std() / whole[kept].std() - 1) < 0.02


def test_noise_falls_on_kept_pixels_only_with_a_mask_of_the_configuration() -> None:
    """One mask for all images, given to deepinv's operator and not by the samples, is a mask all the same."""
    mask = (torch.rand((1, *SHAPE[1:]), generator=torch.Generator().manual_seed(1)) < 0.4).float()
    y = degrade(deepinv.physics.Inpainting(img_size=SHAPE, mask=mask), GaussianNoise(0.1))
    assert (y[(mask == 0).expand(SHAPE)] == 0).all()


@pytest.mark.parametrize("physics, factor", [(SuperResolution(2), 2), (UnitRange(SuperResolution(2)), 1)])
def test_gaussian_on_a_smaller_measurement(physics: Physics, factor: int) -> None:
    n = (degrade(physics, GaussianNoise(0.05)) - degrade(physics, NoNoise())).double()
    assert n.shape == (3, 64, 64)
    assert abs(n.std() / (factor * 0.05) - 1) < 5 / math.sqrt(2 * n.numel())


def test_noise_model_of_deepinv_is_not_used() -> None:
    """Its size would depend on the range, and its numbers on the global generator."""
    physics = GaussianDeblurring()
    physics.set_noise_model(deepinv.physics.GaussianNoise(10.0))
    assert torch.equal(degrade(physics, NoNoise()), degrade(BLUR, NoNoise()))


def test_default_noise_model_of_deepinv_is_not_used() -> None:
    """deepinv's Denoising brings noise of .1 unasked."""
    assert torch.equal(degrade(deepinv.physics.Denoising(), NoNoise()), image())


@pytest.mark.parametrize(
    "make, option",
    [
        (lambda: GaussianNoise(-0.1), "sigma_y"),
        (lambda: GaussianNoise(math.nan), "sigma_y"),
        (lambda: PoissonNoise(0.0), "gain"),
        (lambda: PoissonNoise(-1.0), "gain"),
        (lambda: PoissonNoise(math.nan), "gain"),
    ],
)
def test_bad_options(make: Callable[[], MeasurementNoise], option: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.noise\.init_args\.{option}: "):
        make()


@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("masked", [False, True])
def test_the_noise_level_of_a_smooth_image_is_found(sigma: float, masked: bool):
    """Within 10 %, also where half of the pixels are missing."""
    draws = torch.Generator().manual_seed(0)
    ramp = torch.linspace(-1, 1, 64).expand(3, 64, 64)
    measured = torch.rand((1, 64, 64), generator=draws).expand(3, 64, 64) < (0.5 if masked else 1)
    y = torch.where(measured, ramp + sigma * torch.randn(3, 64, 64, generator=draws), 0)
    assert estimate_noise_std(y, measured) == pytest.approx(sigma, rel=0.1)


def test_where_nothing_can_be_said_of_the_noise():
    """Where next to nothing is measured."""
    measured = torch.zeros(3, 16, 16, dtype=torch.bool)
    measured[0, 0, ::4] = True
    assert estimate_noise_std(torch.randn(3, 16, 16), measured) == 0


def test_the_noise_says_its_level():
    y = torch.full((3, 8, 8), -0.5)  # a quarter of [0, 1]
    assert NoNoise().std(y, 2.0) == 0
    assert GaussianNoise(0.1).std(y, 2.0) == pytest.approx(0.2)
    draws = torch.Generator().manual_seed(0)
    noisy = PoissonNoise(0.01)(y.expand(3, 8, 8).repeat(1, 20, 20), 2.0, draws)
    assert PoissonNoise(0.01).std(y, 2.0) == pytest.approx(float(noisy.std()), rel=0.02)


@pytest.mark.parametrize("size", [16, 64, 97])
@pytest.mark.parametrize(
    "physics",
    [
        Denoising(),
        Inpainting(RandomMask(0.5)),
        Inpainting(RandomMask(0.1)),
        UniformDeblurring(),
        PhaseRetrieval(),
        HDR(),
    ],
    ids=["denoising", "half", "tenth", "blur", "phase", "hdr"],
)
def test_estimates_at_every_size_and_under_masks(physics, size):
    """Of a smooth image the estimate is the noise that was added, within a quarter or what so few values allow."""
    rows, columns = torch.linspace(0, 3, size)[:, None], torch.linspace(0, 2, size)[None]
    x = 0.3 * (rows.sin() * columns.cos()).expand(3, size, size)
    degradation = Degradation(physics, GaussianNoise(0.1), (3, size, size), 0, "estimate")
    check_estimate(degradation)
    y, params = degradation(x, "key", {})
    assert degradation.noise_std(y, params, "estimate") / 2 == pytest.approx(
        0.1, rel=0.25 if size > 16 else 0.5
    )


def test_no_estimate_where_measurements_look_like_noise():
    with pytest.raises(ConfigError, match="CompressedSensing look like noise"):
        check_estimate(Degradation(CompressedSensing(), NoNoise(), (3, 64, 64), 0, "estimate"))


def test_estimates_of_complex_and_of_shapeless_measurements():
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones(2000, dtype=torch.bool)
    assert estimate_noise_std(noise, everywhere) == pytest.approx(1, rel=0.1)
    both = torch.complex(noise, noise.flip(0)).reshape(1, 40, 50)
    assert estimate_noise_std(both, torch.ones_like(both, dtype=torch.bool)) == pytest.approx(1, rel=0.1)
    assert estimate_noise_std(noise[:5], everywhere[:5]) == 0


@pytest.mark.parametrize("size", [16, 64, 97])
def test_no_frequency_is_taken_for_unmeasured(size):
    """Every measured point of k-space counts, and no other."""
    mask = torch.zeros(1, 2, size, size)
    mask[..., ::3] = 1
    physics = deepinv.physics.MRI(mask=mask, img_size=(size, size))
    assert torch.equal(measured(physics, torch.zeros(1, 2, size, size))[0], mask.bool())
