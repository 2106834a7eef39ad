"""Which timesteps are visited, how often the prior is asked, and what REDDiff refuses."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics import SuperResolution
from reddiff_pl.priors import Gaussian, Prior
from reddiff_pl.priors.base import linear_abar
from reddiff_pl.samplers import REDDiff, SeededNoise, Stopped, run
from reddiff_pl.samplers.timesteps import ordered_times, step_size, time_grid, uniform_grid

SHAPE = (1, 8, 8)


class Watched(Prior):
    """A prior that writes down the timesteps it is asked for."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.shape, self.abar, self.prior = prior.shape, prior.abar, prior
        self.asked: list[list[int]] = []

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert t.dtype == torch.long and not torch.is_grad_enabled()
        self.asked.append(t.tolist())
        return self.prior.eps(x_t, t, label)


def measurement(batch: int = 2) -> Tensor:
    return torch.randn(batch, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def restore(batch: int = 2, run_options: dict[str, Any] | None = None, **options: Any) -> Watched:
    """Run REDDiff and return the prior that it asked."""
    prior = Watched(Gaussian(SHAPE))
    noise = SeededNoise(0, [f"key{i}" for i in range(batch)])
    run(REDDiff(**options), measurement(batch), SuperResolution(4), prior, noise, **run_options or {})
    return prior


@pytest.mark.parametrize(
    ("steps", "first", "stride", "count"),
    [
        (100, 990, 10, 100),
        (1000, 999, 1, 1000),
        (300, 999, 3, 334),  # does not divide 1000
        (600, 999, 1, 1000),
        (7, 994, 142, 8),
        (1, 0, 1000, 1),
    ],
)
def test_uniform_grid(steps: int, first: int, stride: int, count: int) -> None:
    grid = uniform_grid(1000, steps)
    assert grid == [first - stride * i for i in range(count)]
    assert grid[-1] == 0


@pytest.mark.parametrize("steps", [-1, 0, 1001])
def test_grid_out_of_range(steps: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.1000"):
        uniform_grid(1000, steps)


def test_fixed_orders() -> None:
    noise, grid = SeededNoise(0, ["a", "b"]), uniform_grid(1000, 20)
    assert ordered_times(grid, "descending", noise, 2).tolist() == [grid] * 2
    assert ordered_times(grid, "ascending", noise, 2).tolist() == [grid[::-1]] * 2


def test_random_without_replacement_is_a_permutation_of_its_own_for_each_key() -> None:
    grid, keys = uniform_grid(1000, 100), [f"key{i}" for i in range(50)]
    times = ordered_times(grid, "random_without_replacement", SeededNoise(0, keys), len(keys))
    assert times.dtype == torch.long
    assert times.sort(dim=1, descending=True).values.tolist() == [grid] * len(keys)
    assert len(times.unique(dim=0)) == len(keys)
    # each position sees the whole grid: the mean of 50 uniform draws from 0..990 has deviation 40
    assert (times.double().mean(0) - 495).abs().max() < 200


def test_random_draws_uniformly_from_the_grid() -> None:
    """Chi-square over 10 timesteps, for all draws and at each position: under its .9999 quantile, 33.7."""
    grid, keys = uniform_grid(1000, 10), [f"key{i}" for i in range(1000)]
    times = ordered_times(grid, "random", SeededNoise(0, keys), len(keys))

    def chi_square(draws: Tensor) -> float:
        expected = draws.numel() / len(grid)
        return sum(((draws == t).sum().item() - expected) ** 2 / expected for t in grid)

    assert set(times.unique().tolist()) == set(grid)
    assert chi_square(times) < 33.7
    assert max(chi_square(times[:, i]) for i in range(10)) < 33.7
    # with replacement: 10 draws hit 10 (1 - .9^10) = 6.51 different timesteps on average, deviation .03
    distinct = sum(len(set(row)) for row in times.tolist()) / len(keys)
    assert distinct == pytest.approx(10 * (1 - 0.9**10), abs=0.15)
    # the draws of neighbouring positions and of neighbouring keys are uncorrelated
    scaled = (times.double() - 450) / math.sqrt(82500)
    assert (scaled[:, 1:] * scaled[:, :-1]).mean().abs() < 0.05
    assert (scaled[1:] * scaled[:-1]).mean().abs() < 0.05


@pytest.mark.parametrize("order", ["random", "random_without_replacement"])
def test_random_orders_belong_to_the_key(order: Any) -> None:
    """The same in any batch; another one for another key, seed or sample."""
    grid = uniform_grid(1000, 50)

    def draw(keys: list[str], seed: int = 0, sample: int = 0) -> list[list[int]]:
        return ordered_times(grid, order, SeededNoise(seed, keys, sample=sample), len(keys)).tolist()

    a, b = draw(["a", "b"])
    assert draw(["b", "c", "a"])[::2] == [b, a]
    others = [b, *draw(["a"], seed=1), *draw(["a"], sample=1)]
    assert a not in others


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize(
    ("steps", "K", "evaluations"), [(10, 1, 10), (10, 4, 10), (10, 50, 10), (300, 1, 334)]
)
def test_evaluations_of_the_prior(steps: int, K: int, evaluations: int, antithetic: bool) -> None:
    """One a timestep of the grid, two with antithetic pairs, whatever K is."""
    seen: list[int] = []
    prior = restore(
        steps=steps,
        timesteps_per_step=K,
        antithetic=antithetic,
        run_options={"callback": lambda step, x, x0_hat: seen.append(step)},
    )
    grid = uniform_grid(1000, steps)
    assert len(prior.asked) == evaluations * (2 if antithetic else 1)
    assert prior.asked == [[t, t] for t in grid for _ in range(2 if antithetic else 1)]
    assert seen == list(range(1, math.ceil(evaluations / K) + 1))


@pytest.mark.parametrize("order", ["descending", "ascending"])
@pytest.mark.parametrize(
    "timesteps",
    [
        [700, 300, 300, 13],
        pytest.param(
            [13, 300, 700, 300],
        ),
    ],
)
def test_explicit_timesteps_are_visited_as_the_order_says(timesteps: list[int], order: Any) -> None:
    asked = restore(batch=1, timesteps=timesteps, order=order).asked
    assert asked == [[t] for t in sorted(timesteps, reverse=order == "descending")]


def test_state_says_where_it_stands() -> None:
    y, prior, noise = measurement(), Gaussian(SHAPE), SeededNoise(0, ["a", "b"])
    sampler = REDDiff(steps=10, timesteps_per_step=4, order="random")
    state = sampler.init(y, SuperResolution(4), prior, noise)
    assert (state.step, state.steps, state.t.tolist()) == (0, 3, [-1, -1])
    times = ordered_times(uniform_grid(1000, 10), "random", noise, 2)
    for step, last in enumerate((3, 7, 9), 1):  # 10 timesteps in groups of 4
        state = sampler.step(state)
        assert (state.step, state.t.tolist()) == (step, times[:, last].tolist())


def test_callback_sees_each_step() -> None:
    """What it gets last is the result; x0_hat is the guess made from the x before it."""
    seen: list[tuple[int, Tensor, Tensor]] = []
    y, prior, noise = measurement(), Gaussian(SHAPE), SeededNoise(0, ["a", "b"])
    x = run(
        REDDiff(timesteps=[300, 200, 100]),
        y,
        SuperResolution(4),
        prior,
        noise,
        callback=lambda step, x, x0_hat: seen.append((step, x.clone(), x0_hat.clone())),
    )
    assert [step for step, _, _ in seen] == [1, 2, 3]
    assert torch.equal(seen[-1][1], x)
    assert not torch.equal(seen[0][1], seen[1][1])
    before = SuperResolution(4).A_dagger(y)
    for (step, after, x0_hat), t in zip(seen, (300, 200, 100), strict=True):
        alpha, sigma = prior.abar[t].sqrt(), (1 - prior.abar[t]).sqrt()
        x_t = alpha * before + sigma * noise.normal("z", SHAPE, torch.float64, step - 1)
        guess = (x_t - sigma * prior.eps(x_t, torch.tensor([t, t]))) / alpha
        torch.testing.assert_close(x0_hat, guess, rtol=1e-10, atol=1e-10)
        before = after


def test_should_stop() -> None:
    """Looked at before each step; what was set before the first lets none happen."""
    seen: list[int] = []

    def callback(step: int, x: Tensor, x0_hat: Tensor) -> None:
        seen.append(step)

    with pytest.raises(Stopped):
        restore(steps=10, run_options={"callback": callback, "should_stop": lambda: len(seen) == 4})
    assert seen == [1, 2, 3, 4]
    with pytest.raises(Stopped):
        restore(steps=10, run_options={"callback": callback, "should_stop": lambda: True})
    assert len(seen) == 4
    restore(steps=10, run_options={"should_stop": lambda: False})


def lbfgs(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(params)


def adafactor(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(params)


def names_option(error: Exception, option: str) -> bool:
    """One line that begins with the option's place in the configuration."""
    return str(error).startswith(f"model.sampler.init_args.{option}: ") and "\n" not in str(error)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", 0),
        ("steps", -3),
        ("timesteps_per_step", 0),
        ("lr", -0.1),
        ("lam", -1.0),
        ("lam", math.nan),
        ("obs_weight", -1.0),
        ("sigma_x0", -1e-4),
        ("weighting", "cubic"),
        pytest.param("order", "sideways"),
        pytest.param("output", "x0"),
    ],
)
def test_bad_options(option: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        REDDiff(**{option: value})
    assert names_option(caught.value, option)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", 1001),
        ("timesteps", []),
        ("timesteps", [10, 1000]),
        ("timesteps", [-1]),
        ("optimizer", lbfgs),
        ("optimizer", adafactor),
    ],
)
def test_options_that_do_not_fit_the_prior_or_the_image(option: str, value: Any) -> None:
    """Found before any evaluation of the prior."""
    prior = Watched(Gaussian(SHAPE))
    sampler = REDDiff(**{option: value})
    with pytest.raises(ConfigError) as caught:
        sampler.init(measurement(), SuperResolution(4), prior, SeededNoise(0, ["a", "b"]))
    assert names_option(caught.value, option)
    assert not prior.asked


@pytest.mark.parametrize("options", [{}, {"lam": 0.0}, {"sigma_x0": 0.0}, {"steps": 1000}, {"lr": 0.0}])
def test_options_at_the_edge_are_fine(options: dict[str, Any]) -> None:
    REDDiff(**options).init(measurement(), SuperResolution(4), Gaussian(SHAPE), SeededNoise(0, ["a", "b"]))


@pytest.mark.parametrize(
    "make",
    [lambda p: torch.optim.SGD(p, lr=0.1), lambda p: torch.optim.RMSprop(p), lambda p: torch.optim.AdamW(p)],
)
def test_element_wise_optimizers_are_taken(make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> None:
    y = measurement()
    prior, physics, noise = Gaussian(SHAPE), SuperResolution(4), SeededNoise(0, ["a", "b"])
    x = run(REDDiff(steps=5, optimizer=make), y, physics, prior, noise)
    assert x.isfinite().all() and not torch.equal(x, physics.A_dagger(y))


@pytest.mark.parametrize(
    ("grid", "scale"),
    [
        ("uniform", lambda t, r: t),
        ("quadratic", lambda t, r: t**0.5),
        ("geometric", lambda t, r: math.log(t)),
        ("log_snr", lambda t, r: math.log(r)),
        ("karras", lambda t, r: r ** (1 / 7)),
    ],
)
def test_a_grid_is_even_in_its_scale(grid, scale):
    """As far as whole timesteps allow: each is one of the two around the even place."""
    abar = linear_abar()
    r = ((1 - abar) / abar).sqrt().tolist()
    times = time_grid(grid, abar, 25, 900, 2)
    assert len(times) == 25 and times[0] == 900 and times[-1] == 2
    assert times == sorted(times, reverse=True)
    first, last = scale(900, r[900]), scale(2, r[2])
    for i, t in enumerate(times):
        wanted = first + (last - first) * i / 24
        assert scale(t - 1, r[t - 1]) <= wanted + 1e-9 and wanted - 1e-9 <= scale(t + 1, r[t + 1])


def test_a_grid_without_bounds():
    abar = linear_abar()
    assert time_grid("uniform", abar, 300, None, None) == uniform_grid(1000, 300)
    assert time_grid("geometric", abar, 10, None, None)[::9] == [999, 1]
    assert time_grid("karras", abar, 10, None, None)[::9] == [999, 0]
    assert time_grid("geometric", abar, 10, 5000, 3)[::9] == [999, 3]
    for low, high in ((0, 500), (600, 500), (1000, 1000)):
        with pytest.raises(ValueError, match="t_min and t_max"):
            time_grid("geometric", abar, 10, high, low)


@pytest.mark.parametrize("schedule", ["constant", "sqrt", "linear", "cosine"])
def test_step_sizes_fall_from_one(schedule):
    sizes = [step_size(schedule, i, 50) for i in range(50)]
    assert sizes[0] == 1 and sizes == sorted(sizes, reverse=True)
    assert sizes[-1] > 0 and (schedule == "constant") == (sizes[-1] == 1)


def test_the_step_size_reaches_the_optimiser():
    """Gradient descent on the data term alone, whose steps are known: mu moves by lr factor A^T (y - A mu) / M."""
    y = torch.ones(1, 1, 4, 4)
    physics, prior = SuperResolution(1), Gaussian((1, 4, 4))
    moves: list[float] = []
    last = torch.zeros(1, 1, 4, 4)

    def look(step, x, x0_hat):
        nonlocal last
        moves.append(float((x - last).flatten()[0] / (1 - last.flatten()[0])))
        last = x.clone()

    sampler = REDDiff(steps=4, lam=0, optimizer=lambda p: torch.optim.SGD(p, lr=8.0), lr_schedule="linear")
    run(sampler, y, physics, prior, SeededNoise(0, ["a"]), x_init=torch.zeros(1, 1, 4, 4), callback=look)
    assert moves == pytest.approx([0.5, 0.375, 0.25, 0.125])
