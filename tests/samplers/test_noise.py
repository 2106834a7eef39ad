"""Draws named by (seed, key, sample, name, step, k) and by nothing else."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reddiff_pl.samplers import ReplayedNoise, SeededNoise
from reddiff_pl.seeding import stream, stream_seed

SHAPE = (3, 5, 7)  # odd sizes: no row of a batch is aligned


def draw(keys: list[str], seed: int = 0, sample: int = 0, **where: Any) -> Tensor:
    noise = SeededNoise(seed, keys, sample=sample)
    return noise.normal(**({"name": "z", "shape": SHAPE, "dtype": torch.float32} | where))


def test_same_key_same_draw_in_any_batch() -> None:
    a, b, c = draw(["a", "b", "c"], step=4)
    assert a.shape == SHAPE
    assert torch.equal(draw(["a"], step=4)[0], a)
    assert torch.equal(draw(["c", "x", "y", "z", "b"], step=4)[[0, 4]], torch.stack([c, b]))


def test_draws_do_not_depend_on_earlier_draws() -> None:
    """A resumed restoration, or one that skips z0, sees the same z."""
    noise = SeededNoise(0, ["a", "b"])
    noise.normal("z0", SHAPE, torch.float32)
    noise.normal("t", (11,), torch.float64)
    torch.manual_seed(1)
    assert torch.equal(noise.normal("z", SHAPE, torch.float32, step=3), draw(["a", "b"], step=3))


def test_draws_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draw(["a"])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"keys": ["b"]},
        {"sample": 1},
        {"name": "z0"},
        {"step": 1},
        {"k": 1},
        # parts must not run into each other
        {"step": 11, "k": 0},
        {"step": 1, "k": 10},
        {"seed": 10},
        {"keys": ["a0"]},
        {"keys": ["a\0"]},
    ],
    ids=str,
)
def test_every_part_of_the_name_counts(change: dict[str, Any]) -> None:
    """Another draw, and an independent one: correlation over 10,000 elements within 4 deviations."""
    where: dict[str, Any] = {"keys": ["a"], "shape": (10_000,)}
    one, other = draw(**where)[0], draw(**(where | change))[0]
    assert (one * other).mean().abs() < 0.04


def test_names_of_draws_do_not_collide() -> None:
    """Keys may hold anything, also what separates the parts."""
    seeds = {
        stream_seed(seed, key, name, step, k, sample)
        for seed in (0, 1, 11)
        for key in ("", "a", "1", "a\x001", "é")
        for name in ("z", "z0", "t", "y", "mask")
        for step in (0, 1, 11)
        for k in (0, 1)
        for sample in (0, 1)
    }
    assert len(seeds) == 3 * 5 * 5 * 3 * 2 * 2
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_stream_seeds_stay_what_they_are() -> None:
    """A seed written into a run's record gives the same draws with the next release."""
    assert stream_seed(0, "a", "z") == 2281434506344758419
    assert stream_seed(7, "shard/000001", "z", step=99, k=3, sample=2) == 6179615794685885066


def test_stream_is_the_first_draw_of_its_name() -> None:
    torch.testing.assert_close(
        torch.empty(SHAPE).normal_(generator=stream(3, "key", "y")), draw(["key"], seed=3, name="y")[0]
    )


def test_draws_are_standard_normal() -> None:
    """Within 4 deviations for mean, variance and the share beyond one deviation; images are independent."""
    x = draw([f"key{i}" for i in range(100)], shape=(10_000,)).double()
    assert x.mean().abs() < 4e-3
    assert (x.var() - 1).abs() < 4 * 2**0.5 * 1e-3
    assert ((x.abs() > 1).double().mean() - 0.31731).abs() < 4 * 0.4655e-3
    assert x.mean(1).abs().max() < 0.05
    correlation = (x @ x.T / 10_000).fill_diagonal_(0)
    assert correlation.abs().max() < 0.05


def test_float64_sees_the_float32_numbers() -> None:
    double = draw(["a", "b"], dtype=torch.float64)
    assert double.dtype == torch.float64
    assert torch.equal(double, draw(["a", "b"]).double())


def recorded(steps: int, shape: tuple[int, ...] = (2, *SHAPE)) -> list[Tensor]:
    return [torch.full(shape, float(i)) for i in range(2 * steps)]


def test_replay_order() -> None:
    """z0, z, z0, z, ...; asking only for z leaves z0 its place."""
    noise = ReplayedNoise(recorded(3))
    for step in range(3):
        assert noise.normal("z", SHAPE, torch.float64, step).unique().tolist() == [2 * step + 1]
    assert noise.normal("z0", SHAPE, torch.float32, 2).unique().tolist() == [4]
    assert noise.normal("z", SHAPE, torch.float64).dtype == torch.float64


def test_replay_order_of_the_parallel_form() -> None:
    """Each of a step's K evaluations has its own z0, z."""
    noise = ReplayedNoise(recorded(6), timesteps_per_step=3)
    order = [
        noise.normal(name, SHAPE, torch.float32, step, k)
        for step in (0, 1)
        for k in range(3)
        for name in ("z0", "z")
    ]
    assert [int(x.unique()) for x in order] == list(range(12))


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (2, 1, 5, 7), (2, 3, 5)])
def test_replay_of_another_shape(shape: tuple[int, ...]) -> None:
    """What would broadcast is refused as well."""
    noise = ReplayedNoise(recorded(2, shape))
    with pytest.raises(ValueError, match="z of step 1 has shape"):
        noise.normal("z", SHAPE, torch.float32, 1)
