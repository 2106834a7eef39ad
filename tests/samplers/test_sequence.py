"""Samplers one after another."""

import pytest
import torch
from helpers import QUICK, VAL_SHARD
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics import SuperResolution
from reddiff_pl.priors import Gaussian
from reddiff_pl.restoring.options import RestoreCLI
from reddiff_pl.samplers import DDRM, ProximalREDDiff, REDDiff, SeededNoise, Sequence, run

Y = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PROBLEM = (Y, SuperResolution(4), Gaussian((1, 16, 16)))


class Recorded(SeededNoise):
    """Noise that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(0, ["a", "b"])
        self.asked: list[tuple[str, int]] = []

    def normal(self, name, shape, dtype, step=0, k=0) -> Tensor:
        self.asked.append((name, step))
        return super().normal(name, shape, dtype, step, k)


def test_it_is_one_run_after_another():
    """The second stage begins where the first ended; no draw is used twice."""
    first, second = DDRM(steps=5), ProximalREDDiff(steps=4, r_max=0.3, r_min=0.05)
    noise, seen = Recorded(), []
    together = run(
        Sequence([first, second]), *PROBLEM, noise, callback=lambda step, x, x0_hat: seen.append(step)
    )
    assert seen == list(range(1, 10))
    assert len(set(noise.asked)) == len(noise.asked)
    middle = run(first, *PROBLEM, SeededNoise(0, ["a", "b"]))

    class Shifted(SeededNoise):
        def normal(self, name, shape, dtype, step=0, k=0) -> Tensor:
            return super().normal(name, shape, dtype, step + 5, k)

    apart = run(second, *PROBLEM, Shifted(0, ["a", "b"]), x_init=middle)
    torch.testing.assert_close(together, apart)


def test_alone_it_is_the_sampler_itself():
    noise = SeededNoise(0, ["a", "b"])
    sampler = REDDiff(steps=6)
    assert torch.equal(run(Sequence([sampler]), *PROBLEM, noise), run(sampler, *PROBLEM, noise))


def test_a_stage_that_ends_early_hands_over():
    """The discrepancy principle in the first stage: the second still runs whole."""
    seen: list[int] = []
    early = ProximalREDDiff(
        steps=50,
        r_max=4.0,
        r_min=0.02,
        lr=0.5,
        momentum=0.5,
        local_variance=0.0,
        antithetic=False,
        stop_at_noise=1.0,
    )
    stages = Sequence([early, ProximalREDDiff(steps=3, r_max=0.2)])
    levels = torch.full((2,), 0.5)
    start = torch.full((2, 1, 16, 16), 3.0, dtype=torch.float64)
    run(
        stages,
        *PROBLEM,
        SeededNoise(0, ["a", "b"]),
        x_init=start,
        noise_std=levels,
        callback=lambda step, *_: seen.append(step),
    )
    assert 3 < seen[-1] < 53


def test_from_the_command_line(tmp_path):
    sampler = (
        "{class_path: reddiff_pl.samplers.Sequence, init_args: {samplers: ["
        "{class_path: reddiff_pl.samplers.DDRM, init_args: {steps: 5}}, "
        "{class_path: reddiff_pl.samplers.ProximalREDDiff, init_args: {steps: 3, r_max: 0.3}}]}}"
    )
    options = [option for option in QUICK if "steps" not in option]
    options += ["--model.physics=reddiff_pl.physics.SuperResolution", f"--model.sampler={sampler}"]
    cli = RestoreCLI("restore", [*options, "--data.shards", str(VAL_SHARD), "--out", str(tmp_path)])
    cli.make()
    cli.model.check(cli.model.prior.shape)
    assert [type(stage) for stage in cli.model.sampler.samplers] == [DDRM, ProximalREDDiff]


def test_it_needs_a_sampler():
    with pytest.raises(ConfigError, match="samplers"):
        Sequence([])
