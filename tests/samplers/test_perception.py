"""The dial between faithful and sharp: closed forms of Gaussian fields, and what samples may and may not share."""

from __future__ import annotations

import pytest
import torch

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics import HDR, Denoising, Inpainting, SuperResolution
from reddiff_pl.physics.binding import bind
from reddiff_pl.priors import Gaussian, Prior
from reddiff_pl.samplers import ProximalREDDiff, SeededNoise, run
from reddiff_pl.samplers.starts import coarse

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE, COUNT = 32, 24
KEYS = [f"image {i}" for i in range(COUNT)]
PRIOR = Gaussian((1, SIDE, SIDE))
FIELD = PRIOR.sample(torch.randn(COUNT, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
# operator, standard deviation of the noise on [-1, 1]
PROBLEMS = {"4x": (SuperResolution(4), 0.0), "inpainting": (Inpainting(), 0.1), "noise": (Denoising(), 0.2)}


class CountedPrior(Prior):
    """The field, and how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.abar, self.calls = PRIOR.shape, PRIOR.abar, 0

    def eps(self, x_t, t, label=None):
        self.calls += len(x_t) / COUNT
        return PRIOR.eps(x_t, t, label)


def problem(name: str):
    """Operator, measurements, noise levels, and which measurements there are."""
    physics, std = PROBLEMS[name]
    generator = torch.Generator().manual_seed(1)
    kept = torch.ones_like(FIELD)
    if name == "inpainting":
        kept = (torch.rand(FIELD.shape, generator=generator) < 0.5).float()
        bind(physics, {"mask": kept})
    y = physics.A(FIELD)
    kept = kept if name == "inpainting" else torch.ones_like(y)
    return (
        physics,
        y + std * kept * torch.randn(y.shape, generator=generator),
        torch.full((COUNT,), std),
        kept,
    )


def restored(name: str, perception: float, sample: int = 0, rows: slice = slice(None), **options):
    physics, y, std, kept = problem(name)
    if name == "inpainting":
        bind(physics, {"mask": kept[rows]})
    noise = SeededNoise(0, KEYS[rows], sample=sample)
    sampler = ProximalREDDiff(noise_weight=1.0, perception=perception, **options)
    return run(sampler, y[rows], physics, PRIOR, noise, noise_std=std[rows])


def octaves(x: torch.Tensor) -> torch.Tensor:
    """Power by octave in dB, the finest first: (4,)."""
    f = torch.fft.fftfreq(SIDE)
    radius = (f[:, None].square() + f.square()).sqrt()
    power = torch.fft.fft2(x).abs().square().mean((0, 1))
    rings = [(radius > 2.0 ** -(k + 2)) & (radius <= 2.0 ** -(k + 1)) for k in range(4)]
    return 10 * torch.stack([power[ring].sum() for ring in rings]).log10()


@pytest.mark.parametrize("name", PROBLEMS)
def test_at_one_samples_have_the_spectrum_of_the_field(name):
    x = restored(name, 1.0)
    assert (octaves(x) - octaves(FIELD)).abs().max() < 0.3
    # a draw of the posterior is as far again from the image as the mean is: twice its error
    ratio = (x - FIELD).square().mean() / (restored(name, 0.0) - FIELD).square().mean()
    assert 1.8 < ratio < 2.1


def test_at_zero_it_is_the_posterior_mean():
    physics, y, *_ = problem("4x")
    mean, _ = PRIOR.posterior(y, physics, 1e-3)
    x = restored("4x", 0.0)
    assert (octaves(x) - octaves(mean))[1:].abs().max() < 0.3
    assert (x - mean).square().mean() < 0.01 * (mean - FIELD).square().mean()


def test_without_chance_noise_is_carried_away_by_the_best_map():
    """sqrt(P / (P + sigma^2)) y: of all images with the field's spectrum those nearest to the truth on average."""
    _, y, std, _ = problem("noise")
    x = restored("noise", 1.0, perception_eta=0.0)
    best = PRIOR.filter(y, lambda power: (power / (power + std[0] ** 2)).sqrt())
    assert (x - best).square().mean() < 0.02 * (best - FIELD).square().mean()
    assert (octaves(x) - octaves(FIELD)).abs().max() < 0.3


@pytest.mark.parametrize("name", PROBLEMS)
def test_less_chance_is_nearer_to_the_image_and_to_other_samples(name):
    etas = (0.0, 0.5, 1.0)
    pairs = [[restored(name, 1.0, sample=i, perception_eta=eta) for i in (0, 1)] for eta in etas]
    errors = [(x - FIELD).square().mean().item() for x, _ in pairs]
    apart = [(x - other).square().mean().item() for x, other in pairs]
    assert errors == sorted(errors) and apart == sorted(apart)
    assert all((octaves(x) - octaves(FIELD)).abs().max() < 1.0 for x, _ in pairs)


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_turn_gives_more_detail_for_more_error(name):
    turns = [restored(name, p) for p in (0.0, 0.05, 0.15, 0.4)]
    errors = [(x - FIELD).square().mean().item() for x in turns]
    details = [octaves(x)[0].item() for x in turns]
    assert errors == sorted(errors) and details == sorted(details)
    assert errors[-1] > 1.5 * errors[0] and details[-1] > details[0] + 1


@pytest.mark.parametrize("perception", [0.2, 1.0])
@pytest.mark.parametrize("name", PROBLEMS)
def test_samples_fit_their_measurement_as_its_noise_says(name, perception):
    physics, y, std, kept = problem(name)
    x = restored(name, perception)
    misfit = ((y - physics.A(x)).square().sum() / kept.sum()).sqrt()
    if std[0] > 0:
        assert 0.9 < misfit / std[0] < 1.1
    else:
        assert misfit / 2 < 1e-3


def test_clipping_is_met_too():
    physics = HDR()
    y = physics.A(2 * FIELD)
    x = run(ProximalREDDiff(perception=0.5), y, physics, PRIOR, SeededNoise(0, KEYS))
    assert (physics.A(x) - y).abs().max() / 2 < 1e-3


def test_a_sample_depends_on_its_key_and_number_alone():
    whole = restored("inpainting", 0.5)
    assert torch.equal(whole, restored("inpainting", 0.5))
    assert torch.allclose(whole[3:5], restored("inpainting", 0.5, rows=slice(3, 5)), atol=1e-4)
    other = restored("inpainting", 0.5, sample=1)
    # two draws of one posterior are about as far apart as each is from the image
    apart = (whole - other).square().flatten(1).mean(1) / (whole - FIELD).square().flatten(1).mean(1)
    assert (apart > 0.5).all()


def test_a_cut_keeps_the_coarse_structure_of_the_estimate():
    estimate, whole, kept = (
        restored("4x", p, **o) for p, o in ((0, {}), (1, {}), (1, {"perception_cut": 0.2}))
    )
    low = [coarse(x - estimate, 0.1).square().mean() for x in (whole, kept)]
    assert low[1] < 0.3 * low[0]
    assert (octaves(kept) - octaves(whole))[0].abs() < 2
    assert (kept - FIELD).square().mean() < (whole - FIELD).square().mean()


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_share_lies_between_the_estimate_and_the_sample(name):
    estimate, whole, part = (restored(name, p, perception_share=s) for p, s in ((0, 1.0), (1, 1.0), (1, 0.6)))
    assert torch.allclose(part, estimate + 0.6 * (whole - estimate), atol=1e-4)
    # it loses its share squared of what the whole way loses
    errors = [(x - FIELD).square().mean().item() for x in (estimate, whole, part)]
    assert (errors[2] - errors[0]) / (errors[1] - errors[0]) == pytest.approx(0.36, abs=0.05)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_smaller_epsilon_leaves_more_detail(name):
    scales = (1.02, 1.0, 0.98, 0.96)
    xs = [restored(name, 1.0, perception_epsilon_scale=scale) for scale in scales]
    finest = [octaves(x)[0].item() for x in xs]
    assert finest == sorted(finest) and 0.02 < finest[2] - finest[1] < 2


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("evaluations", [7, 30, 60])
def test_evaluations_are_those_of_both(evaluations, antithetic):
    counted = CountedPrior()
    sampler = ProximalREDDiff(perception=1.0, antithetic=antithetic).with_evaluations(evaluations)
    physics, y, *_ = problem("4x")
    run(sampler, y, physics, counted, SeededNoise(0, KEYS))
    assert 0.8 * evaluations - 1 <= counted.calls <= evaluations


def test_by_default_there_are_sixty_at_most_and_none_more_at_zero():
    physics, y, *_ = problem("4x")
    calls = []
    for perception in (0.0, 1.0):
        counted = CountedPrior()
        run(ProximalREDDiff(perception=perception), y, physics, counted, SeededNoise(0, KEYS))
        calls.append(counted.calls)
    assert calls[0] == 20 and 50 <= calls[1] <= 60


@pytest.mark.parametrize(
    "options",
    [
        {"perception": 1.5},
        {"perception": -0.1},
        {"perception_level": 0.0},
        {"perception_eta": 2.0},
        {"perception_share": 1.1},
        {"perception_epsilon_scale": 0.1},
        {"perception_steps": 0},
    ],
)
def test_a_bad_dial_is_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        ProximalREDDiff(**options)


def test_too_few_evaluations_for_both_are_named():
    with pytest.raises(ConfigError, match="--evaluations"):
        ProximalREDDiff(perception=0.5).with_evaluations(3)
