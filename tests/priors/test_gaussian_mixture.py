"""The mixture prior against densities differentiated by autograd, and its posterior against importance weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics import Inpainting, bind
from reddiff_pl.priors import Gaussian, GaussianMixture
from reddiff_pl.priors.gaussian import dense_matrix

SHAPE = (2, 3, 4)
D = math.prod(SHAPE)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(exponent: float = 1.0) -> GaussianMixture:
    return GaussianMixture(normal(3, *SHAPE) / 2, [1.0, 2.0, 5.0], SHAPE, variance=0.1, exponent=exponent)


@pytest.mark.parametrize("t", [0, 200, 600, 999])
def test_eps_is_minus_sigma_times_the_score(t: int) -> None:
    """log p(x_t), written as dense normal densities, differentiated by autograd."""
    prior, x_t = mixture(), normal(4, *SHAPE, seed=1).requires_grad_()
    a = prior.abar[t]
    density = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([1.0, 2.0, 5.0]).double()),
        torch.distributions.MultivariateNormal(
            a.sqrt() * prior.means.flatten(1), a * prior.covariance() + (1 - a) * torch.eye(D)
        ),
    )
    score = torch.autograd.grad(density.log_prob(x_t.flatten(1)).sum(), x_t)[0]
    found = prior.eps(x_t.detach(), torch.full((4,), t))
    torch.testing.assert_close(found, -(1 - a).sqrt() * score, rtol=1e-6, atol=1e-6)


def test_one_component_is_the_gaussian() -> None:
    one, field = GaussianMixture([0.3], shape=SHAPE, variance=0.2), Gaussian(SHAPE, 0.2, mean=0.3)
    x_t, t = normal(2, *SHAPE), torch.tensor([100, 700])
    torch.testing.assert_close(one.eps(x_t, t), field.eps(x_t, t))
    torch.testing.assert_close(one.sample(x_t), field.sample(x_t))


def test_the_posterior_is_what_weighted_draws_say() -> None:
    """Self-normalised importance sampling from the prior, 100,000 draws."""
    prior, noise_std = mixture(), 0.5
    physics = Inpainting()
    mask = torch.ones(1, 1, *SHAPE[1:])
    mask[..., :2] = 0
    bind(physics, {"mask": mask})
    component = torch.multinomial(
        prior.log_weights.exp(), 100_000, True, generator=torch.Generator().manual_seed(5)
    )
    x = prior.sample(normal(100_000, *SHAPE, seed=2), component)
    y = physics.A(prior.sample(normal(1, *SHAPE, seed=3)))
    weight = (-(physics.A(x) - y).square().flatten(1).sum(1) / (2 * noise_std**2)).softmax(0)
    posterior = prior.posterior(y, physics, noise_std)
    by_component = torch.stack([weight[component == k].sum() for k in range(3)])
    torch.testing.assert_close(posterior.weights[0], by_component, rtol=0.1, atol=0.01)
    mean = torch.einsum("b,bchw->chw", weight, x)
    torch.testing.assert_close(posterior.mean()[0], mean, rtol=0, atol=0.02)
    variance = torch.einsum("b,bchw->chw", weight, (x - mean).square())
    torch.testing.assert_close(posterior.variance()[0], variance, rtol=0.1, atol=0.002)


def test_the_posterior_of_nothing_is_the_prior() -> None:
    prior, physics = mixture(), Inpainting()
    bind(physics, {"mask": torch.zeros(1, 1, *SHAPE[1:])})
    posterior = prior.posterior(torch.zeros(1, *SHAPE), physics, 0.1)
    torch.testing.assert_close(posterior.weights[0], torch.tensor([1.0, 2.0, 5.0]).double() / 8)
    torch.testing.assert_close(posterior.covariance, prior.covariance())
    assert dense_matrix(physics, SHAPE).abs().max() == 0


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"means": []}, "means"),
        ({"means": [[[[0.0]]]]}, "means"),
        ({"means": [0.0, 1.0], "weights": [1.0]}, "weights"),
        ({"means": [0.0, 1.0], "weights": [1.0, 0.0]}, "weights"),
    ],
)
def test_bad_options(options: dict, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.prior\.init_args\.{name}: "):
        GaussianMixture(shape=SHAPE, **options)
