"""Samples of the posterior, as samplers/reddiff_samples.yaml draws them: spread and modes in closed form."""

from __future__ import annotations

import pytest
import torch
import yaml
from deepinv.physics import LinearPhysics
from helpers import CONFIGS
from torch import Tensor

from reddiff_pl import samplers
from reddiff_pl.physics import (
    Denoising,
    GaussianDeblurring,
    Inpainting,
    SuperResolution,
    UniformDeblurring,
    bind,
)
from reddiff_pl.priors import Gaussian, GaussianMixture
from reddiff_pl.samplers import SeededNoise, run

pytestmark = pytest.mark.usefixtures("one_thread")

N = 16
MADE = yaml.safe_load((CONFIGS / "samplers" / "reddiff_samples.yaml").read_text())["model"]["sampler"]
SAMPLER = getattr(samplers, MADE["class_path"].rpartition(".")[2])(**MADE["init_args"])
FLOOR = 1e-3  # what stands for no noise in the posterior


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operator(name: str) -> LinearPhysics:
    if name in ("pixels", "box"):
        mask = (normal(1, 1, N, N) > 0).double()
        if name == "box":
            mask = torch.ones(1, 1, N, N)
            mask[..., 4:12, 4:12] = 0
        physics = Inpainting()
        bind(physics, {"mask": mask})
        return physics
    return {
        "2x": lambda: SuperResolution(2),
        "4x": lambda: SuperResolution(4),
        "noise": Denoising,
        "blur": lambda: GaussianDeblurring(1.0),
        "box blur": lambda: UniformDeblurring(5),
    }[name]()


def drawn(physics: LinearPhysics, prior: Gaussian, std: float, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """An image, (1, C, H, W), its measurement, and so many samples of the posterior, (count, C, H, W)."""
    x = prior.sample(normal(1, 1, N, N, seed=3))
    clean = physics.A(x)
    noise = normal(*clean.shape, seed=1)
    y = clean + std * (physics.A(noise) if isinstance(physics, Inpainting) else noise)
    many = y.expand(count, -1, -1, -1).contiguous()
    draws = SeededNoise(0, [str(i) for i in range(count)])
    return x, y, run(SAMPLER, many, physics, prior, draws, noise_std=torch.full((count,), std))


PROBLEMS = [
    *(("pixels", std) for std in (0.0, 0.2)),
    *(("2x", std) for std in (0.0, 0.1)),
    *(("4x", std) for std in (0.0, 0.2)),
    *(("blur", 0.1), ("box blur", 0.1), ("box", 0.0), ("noise", 0.3)),
]


@pytest.mark.parametrize(("name", "std"), PROBLEMS)
def test_they_spread_as_the_posterior_does(name: str, std: float) -> None:
    """In all, and in the directions that are most open."""
    physics, prior, count = operator(name), Gaussian((1, N, N)), 96
    _, y, x = drawn(physics, prior, std, count)
    mean, covariance = prior.posterior(y, physics, max(std, FLOOR))
    assert (x.var(0).sum() / covariance.trace()).sqrt() == pytest.approx(1, abs=0.03)
    variances, directions = torch.linalg.eigh(covariance)
    along = ((x - x.mean(0)).flatten(1) @ directions).var(0)
    # that of 8 directions from so many samples is itself uncertain by 2.5 %
    for most in (slice(-8, None), slice(-32, -8), slice(-96, -32)):
        assert (along[most].sum() / variances[most].sum()).sqrt() == pytest.approx(1, abs=0.08)
    # the mean of so many is off by their spread over the root of their number
    off = (x.mean(0) - mean[0]).norm() / covariance.trace().sqrt()
    assert off < 1.6 * count**-0.5


@pytest.mark.parametrize(("name", "std"), [("pixels", 0.2), ("4x", 0.0)])
@pytest.mark.parametrize(
    "field", [{"exponent": 0.8}, {"variance": 0.1, "exponent": 1.6}], ids=["rough", "smooth"]
)
def test_other_fields_than_the_one_that_is_assumed(field: dict, name: str, std: float) -> None:
    physics, prior = operator(name), Gaussian((1, N, N), **field)
    _, y, x = drawn(physics, prior, std, 64)
    _, covariance = prior.posterior(y, physics, max(std, FLOOR))
    assert (x.var(0).sum() / covariance.trace()).sqrt() == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("name", ["blur", "box blur"])
def test_without_noise_a_blur_leaves_nothing_open(name: str) -> None:
    """Samples are the image, and no noise is blown up."""
    x0, y, x = drawn(physics := operator(name), Gaussian((1, N, N)), 0.0, 8)
    assert (physics.A(x) - y).abs().max() < 1e-3
    assert (x - x0).square().mean().sqrt() < 0.02 * x0.square().mean().sqrt()


def hidden(physics: LinearPhysics, count: int, seen: float = 0.0) -> GaussianMixture:
    """So many modes, of whose differences the operator sees a share."""
    means = Gaussian((1, N, N), variance=0.15).sample(normal(count, 1, N, N, seed=count))
    return GaussianMixture(
        means - (1 - seen) * physics.A_dagger(physics.A(means)), shape=(1, N, N), variance=0.03
    )


@pytest.mark.parametrize(
    ("count", "name", "std"),
    [(2, "pixels", 0.0), (3, "4x", 0.1), (4, "pixels", 0.0), (5, "4x", 0.1), (5, "pixels", 0.0)],
)
def test_they_find_the_modes(count: int, name: str, std: float) -> None:
    """19 of them find 95 % of the modes that the measurement leaves open, and spread over them as the posterior."""
    physics = operator(name)
    prior = hidden(physics, count)
    _, y, x = drawn(physics, prior, std, 4 * 19)
    posterior = prior.posterior(y, physics, max(std, FLOOR))
    distances = (x[:, None] - posterior.means[0]).flatten(2).square().sum(2)
    nearest, second = distances.topk(2, dim=1, largest=False).values.unbind(1)
    assert (nearest < second / 2).all(), "each is in one of them"
    found = [len(set(some.tolist())) for some in distances.argmin(1).split(19)]
    assert sum(found) >= 0.95 * count * len(found)
    assert (x.var(0).sum() / posterior.variance()[0].sum()).sqrt() == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize(("name", "std"), [("pixels", 0.1), ("blur", 0.1)])
def test_a_mode_that_is_measured_is_the_only_one(name: str, std: float) -> None:
    physics = operator(name)
    prior = hidden(physics, 3, seen=1.0)
    _, y, x = drawn(physics, prior, std, 19)
    posterior = prior.posterior(y, physics, std)
    assert posterior.weights[0].max() > 0.999
    distances = (x[:, None] - posterior.means[0]).flatten(2).square().sum(2)
    assert (distances.argmin(1) == posterior.weights[0].argmax()).all()
