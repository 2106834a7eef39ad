"""The Gaussian prior against dense matrices: everything that other tests take from it has a second derivation."""

import math

import pytest
import torch
from torch import Tensor

from reddiff_pl.physics import Inpainting, SuperResolution, bind
from reddiff_pl.priors import Gaussian, linear_abar

SHAPES = [(1, 8, 8), (2, 8, 8), (1, 6, 9), (3, 5, 4)]  # odd and even sides, several channels


def covariance(shape: tuple[int, int, int], variance: float = 0.25, exponent: float = 1.25) -> Tensor:
    """C, dense: C_ij = sum_k s_k cos(2 pi k.(i-j)) / n over the plane of frequencies, with sum_k s_k = n var."""
    channels, height, width = shape
    k = torch.stack(
        torch.meshgrid(
            *(torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in (height, width)), indexing="ij"
        ),
        -1,
    ).reshape(-1, 2)
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    spectrum = (1 + k.square().sum(1)) ** -exponent
    phase = 2 * math.pi * (places / torch.tensor([height, width])) @ k.T
    C = (phase.cos() * spectrum) @ phase.cos().T + (phase.sin() * spectrum) @ phase.sin().T
    return torch.block_diag(*[C * variance / spectrum.sum()] * channels)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_covariance(shape: tuple[int, int, int]) -> None:
    for variance, exponent in ((0.25, 1.25), (1.5, 0.5)):
        ours = Gaussian(shape, variance, exponent).covariance()
        torch.testing.assert_close(ours, covariance(shape, variance, exponent), rtol=1e-12, atol=1e-14)
        assert ours.diagonal().tolist() == pytest.approx([variance] * len(ours))


@pytest.mark.parametrize("shape", SHAPES)
def test_samples_have_that_mean_and_covariance(shape: tuple[int, int, int]) -> None:
    """Exactly: sample is affine in its draws, so zeros give the mean and the identity a root of C."""
    prior, D = Gaussian(shape, mean=0.3), math.prod(shape)
    zeros = torch.zeros(1, *shape, dtype=torch.float64)
    torch.testing.assert_close(prior.sample(zeros), zeros + 0.3)
    root = (prior.sample(torch.eye(D, dtype=torch.float64).reshape(D, *shape)) - 0.3).reshape(D, D)
    torch.testing.assert_close(root.T @ root, covariance(shape), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("t", [0, 10, 200, 500, 999])
@pytest.mark.parametrize("shape", SHAPES)
def test_eps_is_the_conditional_mean_of_the_noise(shape: tuple[int, int, int], t: int) -> None:
    """Var(x_t) = a C + (1-a) I and Cov(z, x_t) = sqrt(1-a) I, so E[z | x_t] is a linear regression."""
    prior, x_t, D = Gaussian(shape, mean=0.3), normal(4, *shape), math.prod(shape)
    a = math.prod(1 - (1e-4 + (0.02 - 1e-4) * s / 999) for s in range(t + 1))
    system = a * covariance(shape) + (1 - a) * torch.eye(D, dtype=torch.float64)
    expected = math.sqrt(1 - a) * torch.linalg.solve(system, (x_t.flatten(1) - math.sqrt(a) * 0.3).T).T
    ours = prior.eps(x_t, torch.full((4,), t)).flatten(1)
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)


def test_eps_takes_another_timestep_for_each_image() -> None:
    prior, x_t = Gaussian((2, 8, 8)), normal(3, 2, 8, 8)
    t = torch.tensor([5, 500, 900])
    together = prior.eps(x_t, t)
    for i in range(3):
        torch.testing.assert_close(together[i], prior.eps(x_t[i : i + 1], t[i : i + 1])[0])


def test_eps_keeps_the_dtype() -> None:
    prior, x_t, t = Gaussian((1, 8, 8)), normal(2, 1, 8, 8), torch.tensor([100, 900])
    assert prior.eps(x_t, t).dtype == torch.float64
    single = prior.eps(x_t.float(), t)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), prior.eps(x_t, t), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("t", [100, 500])
def test_mean_of_the_regulariser(t: int) -> None:
    """E_z[e - z] = sqrt(a (1-a)) (a C + (1-a) I)^-1 (mu - m), exact already for a pair z, -z."""
    shape = (1, 8, 8)
    prior, mu, z = Gaussian(shape, mean=0.3), normal(1, *shape), normal(1, *shape, seed=1)
    a = linear_abar()[t]
    pair = [prior.eps(a.sqrt() * mu + (1 - a).sqrt() * s * z, torch.tensor([t])) - s * z for s in (1, -1)]
    system = a * covariance(shape) + (1 - a) * torch.eye(64, dtype=torch.float64)
    expected = (a * (1 - a)).sqrt() * torch.linalg.solve(system, (mu - 0.3).flatten())
    torch.testing.assert_close((sum(pair) / 2).flatten(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("noise_std", [0.1, 0.5])
@pytest.mark.parametrize("task", ["inpainting", "sr4"])
def test_posterior(task: str, noise_std: float) -> None:
    """Against the information form: precision C^-1 + A^T A / s^2."""
    shape, D = (2, 8, 8), 128
    prior = Gaussian(shape, mean=0.3)
    if task == "inpainting":
        mask = (normal(1, 1, 8, 8, seed=2) > 0).double()
        physics: Inpainting | SuperResolution = Inpainting()
        bind(physics, {"mask": mask})
        A, side = mask.expand(1, 2, 8, 8).flatten().diag(), 8
    else:
        physics, side = SuperResolution(4), 2
        pool = torch.kron(torch.eye(2, dtype=torch.float64), torch.full((1, 4), 0.25, dtype=torch.float64))
        A = torch.kron(torch.eye(2, dtype=torch.float64), torch.kron(pool, pool))
    y = normal(3, len(A), seed=3)
    covariance_ = torch.linalg.inv(torch.linalg.inv(covariance(shape)) + A.T @ A / noise_std**2)
    mean = 0.3 + (y - 0.3 * A.sum(1)) @ A @ covariance_ / noise_std**2

    ours_mean, ours_covariance = prior.posterior(y.reshape(3, 2, side, side), physics, noise_std)
    assert ours_mean.shape == (3, *shape) and ours_covariance.shape == (D, D)
    torch.testing.assert_close(ours_mean.flatten(1), mean, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(ours_covariance, covariance_, rtol=1e-9, atol=1e-10)


def test_abar() -> None:
    """The linear schedule of 1,000 betas, as a running product written out."""
    product, expected = 1.0, []
    for s in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * s / 999)
        expected.append(product)
    abar = Gaussian().abar
    assert abar.dtype == torch.float64
    assert abar.tolist() == pytest.approx(expected, rel=1e-12)
    assert linear_abar(50, 0.01, 0.1).tolist()[:2] == pytest.approx([0.99, 0.99 * (0.99 - 0.09 / 49)])


@pytest.mark.parametrize(
    "change",
    [
        {"variance": 0.3},
        {"exponent": 1.0},
        {"shape": (1, 8, 9)},
        {"T": 500},
        pytest.param(
            {"mean": 0.1},
        ),
        pytest.param(
            {"shape": (3, 8, 8)},
        ),
    ],
    ids=str,
)
def test_fingerprint(change: dict) -> None:
    """The same for the same prior, another one when anything it computes with changes."""
    options = {"shape": (1, 8, 8)}
    assert Gaussian(**options).fingerprint() == Gaussian(**options).fingerprint()
    assert Gaussian(**(options | change)).fingerprint() != Gaussian(**options).fingerprint()
