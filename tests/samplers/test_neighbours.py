"""The samplers beside RED-diff keep the samplers' contract."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deepinv.physics import LinearPhysics, Physics
from helpers import CONFIGS, QUICK, VAL_SHARD, restored_keys
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics import GaussianDeblurring, Inpainting, SuperResolution, UnitRange, bind
from reddiff_pl.priors import Gaussian, Prior, UNet, linear_abar
from reddiff_pl.restoring.options import RestoreCLI
from reddiff_pl.samplers import DAPS, DDIM, DDNM, DDRM, DPS, DiffPIR, PiGDM, PnPDM, Sampler, SeededNoise, run
from reddiff_pl.samplers.diffusion import ddim_coefficients

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (2, 8, 8)
KEYS = ["a", "b", "c"]


class Wavy(Prior):
    """A noise predictor that is not linear, so that its Jacobian shows."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = SHAPE
        self.register_buffer("abar", linear_abar(1000))

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.sin(2 * x_t) + 0.3 * x_t.roll(1, -1) * x_t.roll(1, -2)


class Saturated(Physics):
    """A nonlinear operator."""

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return torch.tanh(2 * x)

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y / 2


class Anonymous(LinearPhysics):
    """A linear operator that hides its decomposition."""

    def __init__(self, physics: LinearPhysics) -> None:
        super().__init__()
        self.A, self.A_adjoint, self.A_dagger = physics.A, physics.A_adjoint, physics.A_dagger


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 2


def masked(rows: list[int]) -> Inpainting:
    physics = Inpainting()
    mask = (pictures(3, 1, *SHAPE[1:], seed=4) > 0).double()
    bind(physics, {"mask": mask[rows]})
    return physics


Make = Callable[[list[int]], Physics]
OPERATORS: dict[str, Make] = {
    "inpainting": masked,
    "superresolution": lambda rows: SuperResolution(2),
    "unit_blur": lambda rows: UnitRange(GaussianDeblurring(1.0)),
    "anonymous": lambda rows: Anonymous(GaussianDeblurring(1.0)),
    "nonlinear": lambda rows: Saturated(),
}
CASES: list[tuple[Sampler, str]] = [
    *((DPS(10), name) for name in OPERATORS),
    *((PiGDM(10), name) for name in OPERATORS if name != "nonlinear"),
    (PiGDM(10, noise_aware=False), "nonlinear"),
    (PiGDM(10, project=True), "inpainting"),
    *((DDRM(10), name) for name in OPERATORS if name not in ("anonymous", "nonlinear")),
    *((DiffPIR(10), name) for name in OPERATORS),
    (DDIM(10, eta=0.5), "superresolution"),
    *((DDNM(10), name) for name in OPERATORS if name not in ("anonymous", "nonlinear")),
]
# those whose steps are not the diffusion's own
OTHERS: list[tuple[Sampler, str]] = [
    *((DAPS(10, ode_steps=2, langevin_steps=5), name) for name in ("inpainting", "unit_blur", "nonlinear")),
    *(
        (PnPDM(10, denoise_steps=3, langevin_steps=5), name)
        for name in OPERATORS
        if name != "superresolution"
    ),
    (DDNM(4, travel_length=2, travel_repeats=3), "inpainting"),
]
EACH = pytest.mark.parametrize(
    ("sampler", "name"),
    [pytest.param(*case, id=f"{type(case[0]).__name__}-{case[1]}-{i}") for i, case in enumerate(CASES)],
)
EVERY = pytest.mark.parametrize(
    ("sampler", "name"),
    [
        pytest.param(*case, id=f"{type(case[0]).__name__}-{case[1]}-{i}")
        for i, case in enumerate(CASES + OTHERS)
    ],
)


def restore(sampler: Sampler, name: str, rows: list[int], **options: Any) -> Tensor:
    """Images `rows` of three, of which the first is free of noise."""
    physics, noise_std = OPERATORS[name](rows), torch.tensor([0.0, 0.05, 0.4]).double()
    y = OPERATORS[name]([0, 1, 2]).A(pictures(3, *SHAPE))
    y = y + noise_std.reshape(-1, 1, 1, 1) * pictures(*y.shape, seed=1)
    y = physics.A_dagger(y[rows]) if name == "inpainting" else y[rows]
    noise = SeededNoise(options.pop("seed", 0), [KEYS[i] for i in rows])
    options.setdefault("prior", Gaussian(SHAPE))
    return run(sampler, y, physics, noise=noise, noise_std=noise_std[rows], **options)


@EVERY
def test_one_batch_of_three_is_three_of_one(sampler: Sampler, name: str) -> None:
    together = restore(sampler, name, [0, 1, 2])
    apart = torch.cat([restore(sampler, name, [i]) for i in range(3)])
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(restore(sampler, name, [2, 0]), together[[2, 0]], rtol=1e-9, atol=1e-9)
    assert together.isfinite().all()


@EVERY
def test_seed_and_nothing_else(sampler: Sampler, name: str) -> None:
    first = restore(sampler, name, [0, 1])
    torch.manual_seed(1)
    assert torch.equal(restore(sampler, name, [0, 1]), first)
    assert not torch.equal(restore(sampler, name, [0, 1], seed=1), first)


@EACH
def test_steps_and_their_callback(sampler: Sampler, name: str) -> None:
    """x0_hat is the guess from the x before; the last x is the result."""
    seen: list[tuple[int, Tensor, Tensor]] = []
    prior = Gaussian(SHAPE)
    result = restore(
        sampler, name, [0, 1], callback=lambda step, x, x0: seen.append((step, x.clone(), x0.clone()))
    )
    assert [step for step, _, _ in seen] == list(range(1, 11))
    assert torch.equal(seen[-1][1], result)
    for (_, x, _), (step, _, x0_hat) in itertools.pairwise(seen):
        t = 1000 - 100 * step
        a = prior.abar[t]
        eps = prior.eps(x, torch.full((2,), t))
        torch.testing.assert_close(x0_hat, (x - (1 - a).sqrt() * eps) / a.sqrt(), rtol=1e-8, atol=1e-8)
    assert not result.requires_grad


@EACH
def test_start(sampler: Sampler, name: str) -> None:
    """From x_init, brought to the level of the first timestep."""
    x_init, physics = pictures(1, *SHAPE, seed=8), OPERATORS[name]([0])
    y, noise = physics.A(pictures(1, *SHAPE)), SeededNoise(0, ["a"])
    sampler = type(sampler)(timesteps=[700, 0])
    state = sampler.init(y, physics, Gaussian(SHAPE), noise, x_init=x_init)
    a = float(Gaussian(SHAPE).abar[700])
    expected = math.sqrt(a) * x_init + math.sqrt(1 - a) * noise.normal("init", SHAPE, torch.float64)
    torch.testing.assert_close(state.x, expected, rtol=1e-12, atol=1e-12)
    assert (state.step, state.steps, state.t.tolist()) == (0, 2, [-1])
    assert sampler.step(state).t.tolist() == [700]


# --- DPS


def test_dps_steps_along_the_gradient_of_the_misfit() -> None:
    """Through a nonlinear network and a nonlinear operator, against finite differences of q(x_t)."""
    physics, prior, x_init = Saturated(), Wavy(), pictures(2, *SHAPE, seed=5)
    y, noise, t = physics.A(pictures(2, *SHAPE)), SeededNoise(0, ["a", "b"]), 300
    a = float(prior.abar[t])

    def step(zeta: float) -> Tensor:
        sampler = DPS(timesteps=[t, 100], eta=1.0, zeta=zeta)
        return sampler.step(sampler.init(y, physics, prior, noise, x_init=x_init)).x

    def misfit(x_t: Tensor) -> Tensor:
        x0_hat = (x_t - math.sqrt(1 - a) * prior.eps(x_t, torch.full((2,), t))) / math.sqrt(a)
        return (y - torch.tanh(2 * x0_hat)).square().sum((1, 2, 3))

    x_t = math.sqrt(a) * x_init + math.sqrt(1 - a) * noise.normal("init", SHAPE, torch.float64)
    moved = (step(0.7) - step(0.0)) / 0.7
    for seed in range(5):
        direction, h = pictures(2, *SHAPE, seed=seed), 1e-5
        slope = (misfit(x_t + h * direction) - misfit(x_t - h * direction)) / (2 * h)
        found = -(moved * direction).sum((1, 2, 3))
        torch.testing.assert_close(found, slope / misfit(x_t).sqrt(), rtol=1e-6, atol=1e-6)


def test_dps_stands_still_where_nothing_is_wrong() -> None:
    """q = 0 has no direction: an image of which nothing is measured is a sample of the prior, beside others."""
    physics = Inpainting()
    bind(physics, {"mask": torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])})
    y, noise = physics.A(pictures(2, *SHAPE)), SeededNoise(0, ["a", "b"])
    x = run(DPS(20), y, physics, Gaussian(SHAPE), noise)
    x_T = torch.zeros(2, *SHAPE).double()
    free = run(DDIM(20, eta=1.0), y, physics, Gaussian(SHAPE), noise, x_init=x_T)
    torch.testing.assert_close(x[0], free[0])
    assert (x[1] - free[1]).norm() > 0.1 * free[1].norm()


@pytest.mark.parametrize(
    "sampler", [DPS(100, zeta=0.5), DiffPIR(100, inner_steps=10)], ids=["dps", "diffpir"]
)
def test_nonlinear_measurements_are_fitted(sampler: Sampler) -> None:
    prior, physics = Gaussian(SHAPE), Saturated()
    y = physics.A(prior.sample(2 * pictures(2, *SHAPE)))
    x = run(sampler, y, physics, prior, SeededNoise(0, ["a", "b"]))
    free = run(DDIM(100, eta=1.0), y, physics, prior, SeededNoise(0, ["a", "b"]))
    misfit, chance = ((physics.A(image) - y).norm() / y.norm() for image in (x, free))
    assert chance > 0.5
    assert misfit < 0.25


# --- the DDIM step's coefficients


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_coefficients(eta: float) -> None:
    """The noise in x_s has variance 1 - s whatever eta; eta = 1 is the variance of q(x_s | x_t, x0)."""
    for a, s in ((0.1, 0.2), (0.5, 0.50001), (0.9, 0.999), (0.99, 1.0), (4e-5, 5e-5)):
        c1, c2 = ddim_coefficients(a, s, eta)
        assert c1**2 + c2**2 == pytest.approx(1 - s)
        # Bayes: 1 / var = (a/s) / (1 - a/s) + 1 / (1 - s)
        posterior = 0.0 if s == 1 else 1 / ((a / s) / (1 - a / s) + 1 / (1 - s))
        assert c1**2 == pytest.approx(eta**2 * posterior)


# --- operators and options that do not fit


@pytest.mark.parametrize(
    ("sampler", "physics", "noise_std", "message"),
    [
        (DDRM(), Saturated(), None, r"^model\.sampler: DDRM needs .*, and Saturated is not one"),
        (DDRM(), UnitRange(Anonymous(GaussianDeblurring())), None, "Anonymous is not one"),
        (PiGDM(), Saturated(), 0.1, r"^model\.sampler\.init_args\.noise_aware: .*Saturated"),
        (DDNM(), Saturated(), None, r"^model\.sampler: DDNM needs a linear operator, and Saturated"),
        (DDNM(), Anonymous(GaussianDeblurring()), 0.1, r"^model\.sampler: with noise DDNM needs .*Anonymous"),
        (PiGDM(project=True), UnitRange(Saturated()), None, r"^model\.sampler\.init_args\.project: .*Saturated"),
    ],
)  # fmt: skip
def test_operators_that_do_not_fit(
    sampler: Sampler, physics: Physics, noise_std: float | None, message: str
) -> None:
    y = pictures(1, *SHAPE)
    std = None if noise_std is None else torch.tensor([noise_std])
    with pytest.raises(ConfigError, match=message) as caught:
        sampler.init(y, physics, Gaussian(SHAPE), SeededNoise(0, ["a"]), x_init=y, noise_std=std)
    assert "\n" not in str(caught.value)


BAD = [
    *((cls, "steps", value) for cls in (DPS, PiGDM, DDRM, DiffPIR, DDIM) for value in (0, 1001)),
    *((cls, "timesteps", value) for cls in (DPS, DDIM) for value in ([], [1000], [-1])),
    *((cls, "eta", value) for cls in (DPS, PiGDM, DDRM, DDIM) for value in (-0.1, 1.1, math.nan)),
    *((cls, "lam", -1.0) for cls in (PiGDM, DiffPIR)),
    (DPS, "zeta", -1.0),
    (DPS, "zeta", math.inf),
    (DDRM, "eta_b", 1.5),
    (DiffPIR, "zeta", 1.5),
    (DiffPIR, "noise_floor", 0.0),
    (DiffPIR, "inner_steps", 0),
    (PiGDM, "cg_steps", 0),
    *((DDNM, name, 0) for name in ("steps", "travel_length", "travel_repeats")),
    *((DAPS, name, 0) for name in ("steps", "ode_steps", "langevin_steps", "tau")),
    (DAPS, "r_max", 0.01),
    *((PnPDM, name, 0) for name in ("steps", "denoise_steps", "langevin_steps", "cg_steps", "noise_floor")),
    (PnPDM, "rho_max", 0.1),
    (PnPDM, "decay", 1.1),
]


@pytest.mark.parametrize(("cls", "option", "value"), BAD)
def test_bad_options(cls: type[Sampler], option: str, value: Any) -> None:
    """Found before any work, some of them once the prior's T is known."""
    y = pictures(1, *SHAPE)
    with pytest.raises(ConfigError) as caught:
        cls(**{option: value}).init(y, SuperResolution(2), Gaussian(SHAPE), SeededNoise(0, ["a"]), x_init=y)
    assert str(caught.value).startswith(f"model.sampler.init_args.{option}: ")
    assert "\n" not in str(caught.value)


# --- from the configuration, with the network, from the command


@pytest.mark.parametrize("name", ["dps", "pigdm", "ddrm", "diffpir", "ddim", "ddnm", "daps", "pnpdm"])
def test_runs_from_yaml(name: str, tmp_path: Path) -> None:
    options = [
        *(f"--config={CONFIGS / file}" for file in ("priors/gaussian.yaml", "tasks/superresolution_2x.yaml")),
        f"--config={CONFIGS / 'samplers' / name}.yaml",
        "--model.prior.init_args.shape=[2, 8, 8]",
        "--model.sampler.init_args.steps=4",
        f"--data.shards={VAL_SHARD}",
        f"--out={tmp_path}",
    ]
    cli = RestoreCLI("restore", options)
    cli.make()
    model = cli.model
    model.check(SHAPE)
    y = model.physics.A(pictures(2, *SHAPE))
    x = run(model.sampler, y, model.physics, model.prior, SeededNoise(0, ["a", "b"]))
    assert x.shape == (2, *SHAPE)
    assert x.isfinite().all()


@pytest.mark.parametrize(
    "sampler",
    [DPS(3), PiGDM(3), DDRM(3), DiffPIR(3), DDIM(3), DDNM(3), DAPS(3, langevin_steps=3), PnPDM(3, 2)],
    ids=lambda s: type(s).__name__,
)
def test_runs_with_a_network(sampler: Sampler, unet: UNet) -> None:
    """In float32; weights that take no gradient let it through."""
    y = SuperResolution(4).A(pictures(1, *unet.shape)).float()
    x = run(sampler, y, SuperResolution(4), unet, SeededNoise(0, ["a"]), noise_std=torch.tensor([0.1]))
    assert x.shape == (1, *unet.shape)
    assert x.dtype == torch.float32
    assert x.isfinite().all()
    assert x.abs().max() < 10


@pytest.fixture(scope="module")
def unet() -> UNet:
    return UNet()


@pytest.mark.parametrize("name", ["dps", "ddrm"])
def test_restores_a_shard(name: str, reddiff: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """Gradients of the network inside Lightning's loop, and a sampler that has none."""
    configs = ["--config", CONFIGS / "tasks" / "inpainting_random.yaml"]
    configs += ["--config", CONFIGS / "samplers" / f"{name}.yaml"]
    code, text = reddiff(
        "restore", *configs, *QUICK, "--data.shards", VAL_SHARD, "--out", tmp_path / "out", "--limit", "3"
    )
    assert code == 0, text
    (shard,) = (tmp_path / "out" / "shards").glob("*.tar")
    assert len(restored_keys(shard)) == 3
