"""DDIM, PiGDM, DDRM and DiffPIR under a Gaussian prior, where they are affine maps of their noise.

Their exact means and covariances are compared with recursions and posteriors written down here.
"""

from __future__ import annotations

import math

import pytest
import torch
from affine import Impulses, Silent, abar, in_modes, levels, spectrum, white
from deepinv.physics import LinearPhysics
from torch import Tensor

from reddiff_pl.physics import GaussianDeblurring, Inpainting, SuperResolution, UnitRange, bind
from reddiff_pl.priors import Gaussian
from reddiff_pl.priors.gaussian import dense_matrix
from reddiff_pl.samplers import DDIM, DDRM, DiffPIR, PiGDM, Sampler, SeededNoise, run

pytestmark = pytest.mark.usefixtures("one_thread")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def keep_half(*shape: int) -> Inpainting:
    physics = Inpainting()
    bind(physics, {"mask": (normal(1, *shape, seed=5) > 0).double()})
    return physics


class Anonymous(LinearPhysics):
    """A linear operator that hides its decomposition."""

    def __init__(self, physics: LinearPhysics) -> None:
        super().__init__()
        self.A, self.A_adjoint, self.A_dagger = physics.A, physics.A_adjoint, physics.A_dagger


# --- DDIM


def mode_gain(a: float, s: float, c2: float, C: Tensor) -> Tensor:
    """What a DDIM step does to x_t - sqrt(a) m in a mode of variance C."""
    return (math.sqrt(s * a) * C + c2 * math.sqrt(1 - a)) / (a * C + 1 - a)


@pytest.mark.parametrize("steps", [10, 100])
def test_ddim_is_a_product_of_gains(steps: int) -> None:
    """eta = 0: the result is a linear map of the start, known for each Fourier mode."""
    n, mean, C = 16, 0.3, spectrum(16)
    prior, noise = Gaussian((2, n, n), mean=mean), SeededNoise(0, ["a", "b", "c"])
    gain = torch.ones_like(C)
    for a, s in levels(steps):
        gain *= mode_gain(a, s, math.sqrt(1 - s), C)
    start = noise.normal("init", (2, n, n), torch.float64)
    expected = mean + in_modes(start - math.sqrt(levels(steps)[0][0]) * mean, gain)
    found = run(DDIM(steps), torch.zeros(3, 2, n, n, dtype=torch.float64), keep_half(1, n, n), prior, noise)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_ddim_ends_at_the_prior() -> None:
    """eta = 0, a thousand steps: the map takes white noise to the prior's own spectrum, gain = sqrt(C)."""
    n = 16
    start = normal(1, 1, n, n)

    class Start(Silent):
        def normal(self, name, shape, dtype, step=0, k=0):
            return start

    found = run(DDIM(1000), start, keep_half(1, n, n), Gaussian((1, n, n)), Start(1))
    gain = (torch.fft.fft2(found) / torch.fft.fft2(start)).real[0, 0]
    assert (gain / spectrum(n).sqrt() - 1).abs().max() < 0.02


@pytest.mark.parametrize("steps", [20, 200])
def test_ddim_with_noise_has_the_covariance_of_its_recursion(steps: int) -> None:
    """eta = 1. One pixel's impulse suffices for a stationary field: the sum of |response|^2 in each mode."""
    n, C = 8, spectrum(8)
    noise = Impulses(steps + 1, (1, n, n), pixels=[0])
    x = run(
        DDIM(steps, eta=1.0),
        torch.zeros(noise.batch, 1, n, n).double(),
        keep_half(1, n, n),
        Gaussian((1, n, n)),
        noise,
    )
    found = torch.fft.fft2(x).abs().square().sum((0, 1))
    variance = torch.ones_like(C)
    for a, s in levels(steps):
        c1 = math.sqrt((1 - a / s) * (1 - s) / (1 - a))
        variance = mode_gain(a, s, math.sqrt(1 - s - c1**2), C) ** 2 * variance + c1**2
    torch.testing.assert_close(found, variance, rtol=1e-8, atol=1e-12)
    # fewer steps lose variance, in the limit it is the prior's own
    error = (found / C - 1).abs().max()
    assert error < 0.2 if steps == 200 else error > 0.5


def test_ddim_ignores_the_measurement() -> None:
    prior, noise = Gaussian((1, 8, 8)), SeededNoise(0, ["a", "b"])
    results = [
        run(DDIM(5, eta=0.5), normal(2, 1, 8, 8, seed=i), keep_half(1, 8, 8), prior, noise) for i in (1, 2)
    ]
    assert torch.equal(*results)
    assert run(DDIM(5), normal(2, 1, 2, 2), SuperResolution(4), prior, noise).shape == (2, 1, 8, 8)


# --- PiGDM

N = 4
OPERATORS = {
    "inpainting": lambda: keep_half(1, N, N),
    "superresolution": lambda: SuperResolution(2),
    "blur": lambda: GaussianDeblurring(0.7),
    "conjugate_gradients": lambda: Anonymous(GaussianDeblurring(0.7)),
    "unit_range": lambda: UnitRange(GaussianDeblurring(0.7)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_pigdm_guides_by_the_posterior_score(name: str) -> None:
    """One step, with and without guidance. Under a standard normal prior x0 | x_t has variance 1 - a, as PiGDM assumes:
    y | x_t ~ N(A sqrt(a) x_t, (1 - a) A A^T + sigma^2)."""
    physics, x_init, noise_std, t, t_next = OPERATORS[name](), normal(2, 1, N, N), 0.3, 600, 200
    y = physics.A(normal(2, 1, N, N, seed=1))
    noise, prior = SeededNoise(0, ["a", "b"]), white((1, N, N))

    def step(lam: float) -> Tensor:
        sampler = PiGDM(timesteps=[t, t_next], eta=0.0, lam=lam, cg_steps=60)
        std = torch.full((2,), noise_std, dtype=torch.float64)
        return sampler.step(sampler.init(y, physics, prior, noise, x_init=x_init, noise_std=std)).x

    a, s = abar(t), abar(t_next)
    zero = torch.zeros(1, 1, N, N, dtype=torch.float64)
    A = dense_matrix(physics, (1, N, N)) - physics.A(zero).flatten(1).T
    x_t = math.sqrt(a) * x_init + math.sqrt(1 - a) * noise.normal("init", (1, N, N), torch.float64)
    residual = (y - physics.A(zero)).flatten(1) - math.sqrt(a) * x_t.flatten(1) @ A.T
    inner = (1 - a) * A @ A.T + noise_std**2 * torch.eye(len(A), dtype=torch.float64)
    score = math.sqrt(a) * torch.linalg.solve(inner, residual.T).T @ A
    weight = math.sqrt(s * a) * (1 - a)
    torch.testing.assert_close((step(2.0) - step(0.0)).flatten(1), 2 * weight * score, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("project", [False, True])
def test_pigdm_fits_what_is_free_of_noise(project: bool) -> None:
    physics, prior, noise = keep_half(1, 8, 8), Gaussian((1, 8, 8)), SeededNoise(0, ["a"])
    y = physics.A(prior.sample(normal(1, 1, 8, 8)))
    x = run(PiGDM(100, project=project), y, physics, prior, noise)
    misfit = (physics.A(x) - y).norm() / y.norm()
    assert misfit < (1e-10 if project else 0.1)


# --- DDRM

NOISE_FREE = {
    "inpainting": (lambda: keep_half(2, 8, 8), 1e-10),
    "superresolution": (lambda: SuperResolution(4), 1e-10),
    "unit_range": (lambda: UnitRange(SuperResolution(2)), 1e-10),
    # what is cut from the pseudo-inverse is left to the prior: at most cut times the image
    "blur": (lambda: GaussianDeblurring(1.0), 3e-2),
}


@pytest.mark.parametrize("name", NOISE_FREE)
def test_ddrm_fits_what_is_free_of_noise(name: str) -> None:
    make, tolerance = NOISE_FREE[name]
    physics, prior = make(), Gaussian((2, 8, 8))
    y = physics.A(prior.sample(normal(2, 2, 8, 8)))
    x = run(DDRM(), y, physics, prior, SeededNoise(0, ["a", "b"]))
    assert (physics.A(x) - y).norm() < tolerance * x.norm()
    back = physics.A_dagger(physics.A(x)) - physics.A_dagger(y)
    assert back.norm() < 1e-8 * x.norm()


def test_ddrm_denoises_by_its_recursion() -> None:
    """A = I: every Fourier mode goes its own way. The measurement while it is less noisy than the timestep, then the
    guess, kept at the measurement's own noise."""
    n, steps, noise_std, eta = 16, 20, 0.5, 0.6
    physics, C = Inpainting(), spectrum(16)
    bind(physics, {"mask": torch.ones(1, 1, n, n)})
    y = in_modes(normal(1, 1, n, n), C.sqrt()) + noise_std * normal(1, 1, n, n, seed=1)
    gain = torch.ones_like(C)  # of x / alpha over y
    for a, s in levels(steps):
        guess = C / (C + (1 - a) / a) * gain
        r = math.sqrt((1 - s) / s)
        past = guess + math.sqrt(1 - eta**2) * r / noise_std * (1 - guess)
        gain = torch.ones_like(C) if r >= noise_std else past
    found = run(
        DDRM(steps, eta=eta), y, physics, Gaussian((1, n, n)), Silent(1), noise_std=torch.tensor([noise_std])
    )
    torch.testing.assert_close(found, in_modes(y, gain), rtol=1e-6, atol=1e-6)
    mean = in_modes(y, C / (C + noise_std**2))
    assert (found - mean).norm() < 0.2 * mean.norm()


FIELD = 16


def problem(name: str, noise_std: float) -> tuple[LinearPhysics, Gaussian, Tensor, Tensor]:
    """Operator, prior, measurements of two images, and their posterior means."""
    physics = {
        "inpainting": lambda: keep_half(1, FIELD, FIELD),
        "superresolution": lambda: SuperResolution(4),
    }[name]()
    prior = Gaussian((1, FIELD, FIELD))
    y = physics.A(prior.sample(normal(2, 1, FIELD, FIELD)))
    y = y + noise_std * normal(*y.shape, seed=1)
    if name == "inpainting":
        y = physics.A(y)
    return physics, prior, y, prior.posterior(y, physics, noise_std or 1e-6)[0]


@pytest.mark.parametrize("noise_std", [0.1, 0.5])
@pytest.mark.parametrize("name", ["inpainting", "superresolution"])
@pytest.mark.parametrize(
    ("sampler", "tolerance"),
    [(DDRM(20), 0.3), (DiffPIR(100, lam=1.0, zeta=1.0), 0.11), (PiGDM(100, lam=0.3), 0.15)],
    ids=["ddrm", "diffpir", "pigdm"],
)
def test_the_mean_is_near_the_posterior_mean(
    sampler: Sampler, tolerance: float, name: str, noise_std: float
) -> None:
    """Told the noise, they come near it for weak and strong noise alike; A_dagger(y) is off by .37 to 2.1."""
    physics, prior, y, mean = problem(name, noise_std)
    found = run(sampler, y, physics, prior, Silent(2), noise_std=torch.full((2,), noise_std))
    error, start = ((x - mean).norm() / mean.norm() for x in (found, physics.A_dagger(y)))
    assert error < min(tolerance, start / 2)


# --- DiffPIR


@pytest.mark.parametrize("name", ["inpainting", "superresolution"])
def test_diffpir_fits_what_is_free_of_noise(name: str) -> None:
    physics, prior, y, _ = problem(name, 0.0)
    x = run(DiffPIR(50, noise_floor=1e-5), y, physics, prior, SeededNoise(0, ["a", "b"]))
    assert (physics.A(x) - y).norm() < 1e-4 * y.norm()
