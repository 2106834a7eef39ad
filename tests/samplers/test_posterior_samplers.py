"""DAPS, PnP-DM and DDNM+ where what they do is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from affine import Silent, abar, in_modes, levels, spectrum
from torch import Tensor

from reddiff_pl.physics import GaussianDeblurring, Inpainting, SuperResolution, UnitRange, bind
from reddiff_pl.priors import Gaussian, GaussianMixture
from reddiff_pl.samplers import DAPS, DDNM, PnPDM, SeededNoise, run

pytestmark = pytest.mark.usefixtures("one_thread")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def identity(n: int) -> Inpainting:
    physics = Inpainting()
    bind(physics, {"mask": torch.ones(1, 1, n, n)})
    return physics


# --- PnP-DM: its stationary law at a fixed rho


def coupled(rho: float, steps: int, average: float = 0.0) -> PnPDM:
    return PnPDM(steps, denoise_steps=60, rho_max=rho, rho_min=rho, decay=1.0, average=average)


@pytest.mark.parametrize("noise_std", [0.1, 0.5])
def test_pnpdm_settles_at_its_own_mean(noise_std: float) -> None:
    """Block means have A A^T = I / f^2: the law is the posterior for noise s^2 + rho^2 / f^2."""
    n, f, rho = 8, 2, 0.3
    prior, physics = Gaussian((1, n, n)), SuperResolution(f)
    y = physics.A(prior.sample(normal(2, 1, n, n))) + noise_std * normal(2, 1, n // f, n // f, seed=1)
    mean, _ = prior.posterior(y, physics, math.sqrt(noise_std**2 + rho**2 / f**2))
    found = run(coupled(rho, 60), y, physics, prior, Silent(2), noise_std=torch.full((2,), noise_std))
    assert (found - mean).norm() < 0.03 * mean.norm()


def test_pnpdm_spreads_as_its_law() -> None:
    """Denoising, A = I: every Fourier mode has its own variance, C (s^2 + rho^2) / (C + s^2 + rho^2)."""
    n, rho, noise_std, count = 8, 0.3, 0.4, 64
    prior, C = Gaussian((1, n, n)), spectrum(8)
    noise = SeededNoise(0, [str(i) for i in range(count)])
    y = torch.zeros(count, 1, n, n, dtype=torch.float64)
    x = run(coupled(rho, 15), y, identity(n), prior, noise, noise_std=torch.full((count,), noise_std))
    powers = torch.fft.fft2(x, norm="ortho").abs().square().mean((0, 1))
    total = noise_std**2 + rho**2
    expected = C * total / (C + total)
    assert (powers.sum() / expected.sum()).sqrt() == pytest.approx(1, abs=0.04)


def test_pnpdm_averages_its_last_draws() -> None:
    prior, physics = Gaussian((1, 8, 8)), SuperResolution(2)
    y, noise, seen = physics.A(normal(1, 1, 8, 8)), SeededNoise(0, ["a"]), []
    run(coupled(0.5, 8), y, physics, prior, noise, callback=lambda step, x, x0_hat: seen.append(x))
    mean = run(coupled(0.5, 8, 0.5), y, physics, prior, noise)
    torch.testing.assert_close(mean, torch.stack(seen[4:]).mean(0))


def test_pnpdm_finds_both_modes() -> None:
    """Nothing distinguishes the two components: about half of the samples are of each."""
    prior = GaussianMixture([-0.6, 0.6], shape=(1, 4, 4), variance=0.02)
    physics, count = Inpainting(), 60
    bind(physics, {"mask": torch.zeros(1, 1, 4, 4)})
    y, noise = torch.zeros(count, 1, 4, 4).double(), SeededNoise(0, [str(i) for i in range(count)])
    x = run(PnPDM(10, 10), y, physics, prior, noise, noise_std=torch.full((count,), 0.1))
    level = x.mean((1, 2, 3))
    assert ((level.abs() - 0.6).abs() < 0.3).float().mean() > 0.9
    assert 0.3 < (level > 0).float().mean() < 0.7


# --- DAPS: one level, by hand


def test_daps_decouples() -> None:
    """Without noise in its draws, every mode of a Gaussian field goes its own way: denoised by the Euler steps, then
    pulled towards the measurement by Langevin's."""
    n, C = 16, spectrum(16)
    prior, y = Gaussian((1, n, n)), in_modes(normal(1, 1, n, n), spectrum(16).sqrt())
    sampler = DAPS(1, ode_steps=1, r_max=0.5, langevin_steps=30, eta=1e-3, delta=1.0, tau=0.1)
    state = sampler.init(y, identity(n), prior, Silent(1))
    (path,) = state.paths
    r2 = (1 - abar(path[0])) / abar(path[0])
    guess = C / (C + r2)  # one Euler step from r to 0 is the denoiser
    x = guess.clone()
    for _ in range(30):
        x = x - 1e-3 * ((x - 1) / 0.1**2 + (x - guess) / r2)
    found = sampler.step(state).x
    torch.testing.assert_close(found, in_modes(y, x), rtol=1e-5, atol=1e-5)


def test_daps_comes_near_a_gaussian_posterior() -> None:
    """Its mean; the spread is wider, since x0 given x_r is taken to vary by r whatever the prior says."""
    n, noise_std, count = 8, 0.3, 48
    prior = Gaussian((1, n, n))
    physics = SuperResolution(2)
    y = physics.A(prior.sample(normal(1, 1, n, n))) + noise_std * normal(1, 1, 4, 4, seed=1)
    mean, covariance = prior.posterior(y, physics, noise_std)
    sampler = DAPS(40, ode_steps=4, r_max=10, r_min=0.03, langevin_steps=30, eta=4e-3, delta=0.2, tau=0.01)
    noise = SeededNoise(0, [str(i) for i in range(count)])
    std = torch.full((count,), noise_std)
    x = run(sampler, y.expand(count, -1, -1, -1), physics, prior, noise, noise_std=std)
    assert (x.mean(0) - mean[0]).norm() < 0.35 * mean.norm()
    assert 1 < (x.var(0).mean() / covariance.diagonal().mean()).sqrt() < 1.4


def test_daps_levels() -> None:
    """Levels fall from r_max to r_min, the stops of each ODE from its level on, whatever the schedule's length."""
    for T in (100, 1000):
        prior = Gaussian((1, 8, 8), T=T)
        y = torch.zeros(1, 1, 8, 8).double()
        state = DAPS(20, ode_steps=4, r_max=10).init(y, identity(8), prior, Silent(1))
        r = ((1 - prior.abar) / prior.abar).sqrt()
        first = torch.tensor([float(r[path[0]]) for path in state.paths])
        assert (first.diff() <= 0).all() and first[-1] == pytest.approx(0.1, rel=0.3)
        assert all(path == sorted(path, reverse=True) and len(path) == 4 for path in state.paths)


# --- DDNM+


@pytest.mark.parametrize(
    "make",
    [lambda: SuperResolution(2), lambda: UnitRange(SuperResolution(2)), lambda: GaussianDeblurring(0.5)],
    ids=["superresolution", "unit_range", "blur"],
)
def test_ddnm_fits_what_is_free_of_noise(make) -> None:
    physics, prior = make(), Gaussian((2, 8, 8))
    y = physics.A(prior.sample(normal(2, 2, 8, 8)))
    x = run(DDNM(20), y, physics, prior, SeededNoise(0, ["a", "b"]))
    assert (physics.A(x) - y).norm() < 1e-8 * y.norm()


def test_ddnm_by_its_projection_and_by_its_spectrum() -> None:
    """Without noise the two forms are one."""
    from deepinv.physics import LinearPhysics

    known, hidden = SuperResolution(2), LinearPhysics()
    hidden.A, hidden.A_adjoint, hidden.A_dagger = known.A, known.A_adjoint, known.A_dagger
    prior, y, noise = Gaussian((1, 8, 8)), known.A(normal(1, 1, 8, 8)), SeededNoise(0, ["a"])
    torch.testing.assert_close(run(DDNM(10), y, known, prior, noise), run(DDNM(10), y, hidden, prior, noise))


def test_ddnm_denoises_by_its_recursion() -> None:
    """A = I with noise: every Fourier mode by itself, the noise of each level never exceeded."""
    n, steps, noise_std, eta = 16, 20, 0.5, 0.6
    prior, C = Gaussian((1, n, n)), spectrum(16)
    y = in_modes(normal(1, 1, n, n), C.sqrt()) + noise_std * normal(1, 1, n, n, seed=1)
    a0 = levels(steps)[0][0]
    x = math.sqrt(a0) * torch.ones_like(C)  # x_t over y; the start is sqrt(a) A_dagger(y)
    for a, s in levels(steps):
        eps = math.sqrt(1 - a) / (a * C + 1 - a) * x
        guess, r = (x - math.sqrt(1 - a) * eps) / math.sqrt(a), math.sqrt((1 - s) / s)
        fresh = math.sqrt(max(r**2 - min(noise_std, r) ** 2, 0))
        x = guess + min(1, r / noise_std) * (1 - guess) + fresh * math.sqrt(1 - eta**2) * eps
        x = math.sqrt(s) * x
    found = run(DDNM(steps, eta=eta), y, identity(n), prior, Silent(1), noise_std=torch.tensor([noise_std]))
    torch.testing.assert_close(found, in_modes(y, x), rtol=1e-5, atol=1e-5)


class Blank(Gaussian):
    """Predicts no noise at all, and remembers when it was asked."""

    def __init__(self) -> None:
        super().__init__((1, 8, 8))
        self.seen: list[int] = []

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen.append(int(t[0]))
        return torch.zeros_like(x_t)


def test_time_travel() -> None:
    """A stretch of two steps is gone through twice, the second time from the right level of noise."""
    physics, count = Inpainting(), 200
    bind(physics, {"mask": torch.zeros(1, 1, 8, 8)})
    prior, noise = Blank(), SeededNoise(0, [str(i) for i in range(count)])
    y = torch.zeros(count, 1, 8, 8).double()
    x = run(DDNM(4, eta=1.0, travel_length=2, travel_repeats=2), y, physics, prior, noise)
    assert prior.seen == [750, 500, 750, 500, 250, 0, 250, 0]
    a = {t: abar(t) for t in (750, 500, 250, 0, -1)}
    variance = 1 - a[750]  # of x_t

    def step(variance: float, t: int, s: int) -> float:
        return a[s] / a[t] * variance + 1 - a[s]

    def back(variance: float, s: int, t: int) -> float:
        return a[t] / a[s] * variance + 1 - a[t] / a[s]

    for stretch in ((750, 500, 250), (250, 0, -1)):
        for again in (True, False):
            variance = step(step(variance, *stretch[:2]), *stretch[1:])
            variance = back(variance, stretch[2], stretch[0]) if again else variance
    assert float(x.var()) == pytest.approx(variance, rel=0.03)
