"""Restoration that knows the noise: posterior means, and when to stop, in closed form."""

from __future__ import annotations

import pytest
import torch
import yaml
from helpers import CONFIGS
from torch import Tensor

from reddiff_pl.physics import Inpainting, SuperResolution, bind
from reddiff_pl.priors import Gaussian
from reddiff_pl.priors.base import Prior
from reddiff_pl.samplers import ProximalREDDiff, REDDiff, Sampler, SeededNoise, run

pytestmark = pytest.mark.usefixtures("one_thread")

N = 32
LEVELS = [("inpainting", 0.05), ("inpainting", 0.25), ("sr4", 0.05), ("sr4", 0.25)]


class Counted(Prior):
    """A prior that counts its evaluations."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior, self.shape, self.evaluations = prior, prior.shape, 0
        self.abar = prior.abar

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.evaluations += len(x_t) // 2  # images
        return self.prior.eps(x_t, t, label)


class Problem:
    """Two Gaussian fields, measured with noise, and their exact posterior from dense matrices."""

    def __init__(self, task: str, sigma_y: float) -> None:
        self.prior = Counted(Gaussian((1, N, N)))
        draws = torch.Generator().manual_seed(3)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draws, dtype=torch.float64)

        x0 = self.prior.prior.sample(normal(2, 1, N, N))
        identity = torch.eye(N * N, dtype=torch.float64)
        if task == "sr4":
            self.physics = SuperResolution(4)
            A = self.physics.A(identity.reshape(-1, 1, N, N)).flatten(1).T
        else:
            kept = torch.rand(N * N, generator=draws) < 0.5
            self.physics = Inpainting()
            bind(self.physics, {"mask": kept.reshape(1, 1, N, N).float()})
            A = identity[kept]
        s = 2 * sigma_y
        self.noise_std = torch.full((2,), s)
        clean = self.physics.A(x0)
        noise = s * normal(*clean.shape)
        self.y = clean + (noise if task == "sr4" else self.physics.A(noise))
        rows = self.y.flatten(1) if task == "sr4" else self.y.flatten(1)[:, kept]
        C = self.prior.prior.covariance()
        gain = torch.linalg.solve(A @ C @ A.T + s**2 * torch.eye(len(A), dtype=torch.float64), A @ C).T
        self.mean = (rows @ gain.T).reshape(-1, 1, N, N)

    def restore(self, sampler: Sampler, sample: int = 0, noise_std: bool = True) -> Tensor:
        noise = SeededNoise(0, ["a", "b"], sample=sample)
        return run(
            sampler, self.y, self.physics, self.prior, noise, noise_std=self.noise_std if noise_std else None
        )

    def error(self, x: Tensor) -> float:
        """The larger of the two images' distances from the posterior mean, relative to its size."""
        distance = (x - self.mean).flatten(1).norm(dim=1)
        return float((distance / self.mean.flatten(1).norm(dim=1)).max())


SHIPPED = yaml.safe_load((CONFIGS / "samplers" / "reddiff.yaml").read_text())["model"]["sampler"]["init_args"]
ADAM = {
    "steps": 100,
    "antithetic": True,
    "grid": "karras",
    "t_max": 400,
    "t_min": 30,
    "lr_schedule": "cosine",
    "lam": 0.0,
    "noise_weight": 1.0,
    "average": 0.1,
}


# as shipped, but for the noise's own weight: photos want a little less
WEIGHED = ProximalREDDiff(**{**SHIPPED, "noise_weight": 1.0}).with_evaluations(100)
# one draw a step, from A_dagger(y), small steps with momentum
PLAIN = {
    "start": "pseudo_inverse",
    "antithetic": False,
    "local_variance": 0.0,
    "momentum": 0.5,
    "lr_schedule": "sqrt",
    "lam": 1e-4,
}


@pytest.mark.parametrize(("task", "sigma_y"), LEVELS)
@pytest.mark.parametrize("sampler", [WEIGHED, REDDiff(**ADAM)], ids=["proximal", "adam"])
def test_the_posterior_mean(sampler: Sampler, task: str, sigma_y: float) -> None:
    """Within 10 % of the exact posterior mean: in 100 network evaluations, by Adam in 200."""
    problem = Problem(task, sigma_y)
    assert problem.error(problem.restore(sampler)) < 0.1
    assert problem.prior.evaluations <= (100 if isinstance(sampler, ProximalREDDiff) else 200)


@pytest.mark.parametrize("task", ["inpainting", "sr4"])
def test_knowing_the_noise_is_what_does_it(task: str) -> None:
    """Told nothing of the noise, the same sampler fits it."""
    problem = Problem(task, 0.25)
    sampler = ProximalREDDiff(**SHIPPED)
    known, unknown = (problem.error(problem.restore(sampler, noise_std=told)) for told in (True, False))
    assert known < 0.5 * unknown


@pytest.mark.parametrize("make", [ProximalREDDiff, REDDiff])
def test_discrepancy_principle(make: type[Sampler]) -> None:
    """From a start that does not fit: an image stands still once its misfit is down to the noise."""
    problem = Problem("sr4", 0.1)
    levels = {"t_max": 500, "t_min": 3} if make is REDDiff else {**PLAIN, "r_max": 4.0, "r_min": 0.02}
    options = {"steps": 100, "lr": 0.05, "average": 0.0, **levels}
    start = torch.zeros_like(problem.mean)
    misfits: list[Tensor] = []

    def look(step: int, x: Tensor, x0_hat: Tensor) -> None:
        misfits.append((problem.y - problem.physics.A(x)).square().flatten(1).mean(1).sqrt())

    noise = SeededNoise(0, ["a", "b"])
    arguments = (problem.y, problem.physics, problem.prior, noise)
    run(
        make(**options, stop_at_noise=1.0),
        *arguments,
        x_init=start,
        noise_std=problem.noise_std,
        callback=look,
    )
    stopped, steps = misfits[-1], len(misfits)
    assert steps < 100, "it ends early"
    assert (stopped <= problem.noise_std).all() and (stopped > 0.7 * problem.noise_std).all()
    # held images do not move while the others go on
    first = next(i for i, m in enumerate(misfits) if i > 2 and bool((m == misfits[i - 1]).any()))
    held = misfits[first] == misfits[first - 1]
    assert all(torch.equal(m[held], misfits[first][held]) for m in misfits[first:])
    misfits.clear()
    run(make(**options), *arguments, x_init=start, noise_std=problem.noise_std, callback=look)
    assert len(misfits) == 100 and (misfits[-1] < stopped).all(), "without it the noise is fitted"


@pytest.mark.parametrize("make", [ProximalREDDiff, REDDiff])
def test_an_image_does_not_depend_on_its_batch(make: type[Sampler]) -> None:
    """Different noise levels and stopping times in one batch: each image as if alone."""
    problem = Problem("sr4", 0.1)
    levels = torch.tensor([0.1, 0.4])
    spaced = {"t_max": 500, "t_min": 3} if make is REDDiff else {**PLAIN, "r_max": 4.0, "r_min": 0.02}
    sampler = make(steps=40, noise_weight=0.5, average=0.3, stop_at_noise=1.0, **spaced)

    def restore(rows: slice, keys: list[str]) -> Tensor:
        noise = SeededNoise(0, keys)
        y = problem.y[rows]
        return run(sampler, y, problem.physics, problem.prior, noise, noise_std=levels[rows])

    together = restore(slice(0, 2), ["a", "b"])
    alone = torch.cat([restore(slice(0, 1), ["a"]), restore(slice(1, 2), ["b"])])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


def test_the_average_of_the_last_iterates() -> None:
    problem = Problem("sr4", 0.05)
    seen: list[Tensor] = []
    options = {"steps": 20, "t_max": 400, "t_min": 3}
    noise = SeededNoise(0, ["a", "b"])
    arguments = (problem.y, problem.physics, problem.prior, noise)
    run(REDDiff(**options), *arguments, callback=lambda step, x, x0_hat: seen.append(x.clone()))
    mean = run(REDDiff(**options, average=0.25), *arguments)
    torch.testing.assert_close(mean, torch.stack(seen[-5:]).mean(0))
    assert not torch.equal(mean, seen[-1])
