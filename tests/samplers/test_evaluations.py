"""`with_evaluations`: every sampler does as many forward passes as it is told, or a few less."""

from __future__ import annotations

import pytest
import torch
from helpers import CONFIGS, VAL_SHARD
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics import SuperResolution
from reddiff_pl.priors import Gaussian
from reddiff_pl.restoring.options import RestoreCLI
from reddiff_pl.samplers import (
    DAPS,
    DDIM,
    DDNM,
    DDRM,
    DPS,
    DiffPIR,
    PiGDM,
    PnPDM,
    ProximalREDDiff,
    REDDiff,
    Sampler,
    SeededNoise,
    Sequence,
    run,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SAMPLERS = [
    *(cls() for cls in (DDIM, DDNM, DDRM, DPS, DiffPIR, PiGDM, REDDiff, ProximalREDDiff)),
    DDNM(travel_length=2, travel_repeats=3),
    DAPS(langevin_steps=2),
    PnPDM(),
    REDDiff(antithetic=True),
    ProximalREDDiff(antithetic=True),
    ProximalREDDiff(timesteps=[5, 3]),
    Sequence([DDIM(20), ProximalREDDiff(80)]),
]


class Counted(Gaussian):
    evaluations = 0

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.evaluations += len(x_t)  # one image
        return super().eps(x_t, t, label)


@pytest.mark.parametrize("images, latent, most", [(2, False, 4), (5, False, 5), (2, True, 2)])
def test_a_pair_is_one_call_of_few_images_and_two_of_many(images: int, latent: bool, most: int) -> None:
    """Two of many would take twice the memory for nothing; a pixel of a latent stands for many."""
    rows = []

    class Wide(Gaussian):
        def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            rows.append(len(x_t))
            return super().eps(x_t, t, label)

    prior = Wide((1, 96, 96))
    prior.latent = latent
    keys = [str(i) for i in range(images)]
    y = torch.zeros(images, 1, 48, 48, dtype=torch.float64)
    run(ProximalREDDiff(steps=1, antithetic=True), y, SuperResolution(2), prior, SeededNoise(0, keys))
    assert max(rows) == most and sum(rows) == 2 * images


@pytest.mark.parametrize("evaluations", [10, 30, 64, 200])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_so_many_evaluations(sampler: Sampler, evaluations: int) -> None:
    prior, physics = Counted((1, 8, 8)), SuperResolution(2)
    y = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    before = dict(vars(sampler))
    run(sampler.with_evaluations(evaluations), y, physics, prior, SeededNoise(0, ["a"]))
    assert 0.85 * evaluations <= prior.evaluations <= evaluations
    if isinstance(sampler, (DDIM, DPS, DDRM, DiffPIR, PiGDM, REDDiff, ProximalREDDiff)):
        assert prior.evaluations == evaluations  # none of them paired with an odd number here
    assert vars(sampler) == before, "the sampler itself stays as it was"


def test_too_few() -> None:
    for sampler in (REDDiff(), ProximalREDDiff(antithetic=True), DDIM()):
        with pytest.raises(ConfigError, match=r"^--evaluations: must be at least"):
            sampler.with_evaluations(0)


def test_from_the_command_line(tmp_path) -> None:
    options = ["--config", str(CONFIGS / "priors" / "gaussian.yaml"), "--data.shards", str(VAL_SHARD)]
    options += ["--config", str(CONFIGS / "tasks" / "denoising.yaml"), "--out", str(tmp_path)]
    cli = RestoreCLI("restore", [*options, "--evaluations", "30"])
    cli.make()
    assert cli.model.sampler.steps == 15  # antithetic pairs
    assert cli.config.model.evaluations == 30, "a resumed run compares it"


class Cosine(Gaussian):
    """The same field under another schedule, of another length."""

    def __init__(self, shape: tuple[int, int, int], T: int) -> None:
        super().__init__(shape)
        time = torch.arange(T + 1, dtype=torch.float64) / T
        level = ((time + 0.008) / 1.008 * torch.pi / 2).cos().square()
        self.abar = (1 - (1 - level[1:] / level[:-1]).clamp(max=0.999)).cumprod(0)


def test_settings_mean_the_same_under_every_schedule() -> None:
    """Levels are given in r_t: the linear schedule and a cosine of another length lead to one image."""
    physics, noise = SuperResolution(2), SeededNoise(0, ["a", "b"])
    field = Gaussian((1, 16, 16))
    y = physics.A(
        field.sample(torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)).double())
    )
    sampler = ProximalREDDiff(steps=10)
    linear, cosine = (run(sampler, y, physics, prior, noise) for prior in (field, Cosine((1, 16, 16), 3000)))
    start = run(ProximalREDDiff(steps=1, lr=0.0), y, physics, field, noise)
    assert (linear - cosine).norm() < 0.02 * linear.norm()
    assert (linear - start).norm() > 2 * (linear - cosine).norm()


def test_more_evaluations_are_steps_and_then_draws() -> None:
    """The levels stay those of about 25 steps; the evaluations beyond average over more draws."""
    made = {n: ProximalREDDiff().with_evaluations(n) for n in (10, 20, 50, 100, 1000)}
    assert {n: (s.steps, s.draws) for n, s in made.items()} == {
        10: (5, 1),
        20: (10, 1),
        50: (25, 1),
        100: (25, 2),
        1000: (25, 20),
    }
