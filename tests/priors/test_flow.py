"""Flow matching: a flow is an eps prior on the samplers' own grid of levels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from closed_forms import MEAN, SHAPE, Denoiser, Predicting, Velocity
from diffusers import DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler
from networks import noise, tiny_unet
from torch import Tensor

import reddiff_pl.samplers as samplers
from reddiff_pl.errors import ConfigError
from reddiff_pl.physics import SuperResolution
from reddiff_pl.priors import EDM, Flow, Gaussian, Prior, UNet, linear_abar
from reddiff_pl.samplers import SeededNoise, run

EXACT = Gaussian(SHAPE, mean=MEAN)
SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
FORMS: dict[str, Prior] = {
    "flow": Flow(network=Velocity(), shape=SHAPE, time_scale=1.0),
    "flow in thousandths": Flow(network=Velocity(scale=1000), shape=SHAPE, time_scale=1000),
    "data at 1": Flow(network=Velocity(data_at=1), shape=SHAPE, data_at=1),
    "v": Predicting("v_prediction"),
    "sample": Predicting("sample"),
    # its own sigma_min and sigma_max would be other levels
    "edm": EDM(SHAPE, Denoiser(), preconditioned=True, sigma_min=1e-3, sigma_max=200),
}
SAMPLERS: dict[str, Any] = {
    "REDDiff": {"steps": 8},
    "ProximalREDDiff": {"steps": 8},
    "DPS": {"steps": 8},
    "PiGDM": {"steps": 8},
    "DDRM": {"steps": 8},
    "DiffPIR": {"steps": 8},
    "DDIM": {"steps": 8},
    "DDNM": {"steps": 8},
    "DAPS": {"steps": 4, "ode_steps": 2, "langevin_steps": 3},
    "PnPDM": {},
    "Renoise": {"steps": 8},
}


def restored(prior: Prior, sampler: str, dtype: torch.dtype) -> Tensor:
    physics = SuperResolution(2)
    x = EXACT.sample(noise(2, *SHAPE).double())
    y = (physics.A(x) + 0.1 * noise(2, 1, 4, 4, seed=1).double()).to(dtype)
    made = getattr(samplers, sampler)(**SAMPLERS[sampler])
    if sampler == "PnPDM":
        made = made.with_evaluations(20)
    return run(
        made, y, physics, prior, SeededNoise(0, ["a", "b"]), noise_std=torch.full((2,), 0.1, dtype=dtype)
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_form_of_one_prior_restores_the_same(sampler: str) -> None:
    expected = restored(EXACT, sampler, torch.float64)
    assert expected.isfinite().all() and expected.std() > 0.05
    for name, prior in FORMS.items():
        dtype, limit = (torch.float32, 1e-3) if name == "edm" else (torch.float64, 1e-4)
        error = (restored(prior, sampler, dtype) - expected).abs().max().item()
        assert error < limit, f"{name}: {error}"


def test_the_samplers_are_all_there() -> None:
    made = {name for name in samplers.__all__ if hasattr(getattr(samplers, name), "with_evaluations")}
    assert made - {"Sampler", "Sequence"} == set(SAMPLERS)


def folder(path: Path, **config: Any) -> Path:
    tiny_unet(path, scheduler=SCHEDULER, **config)
    return path


@pytest.mark.parametrize("data_at", [0, 1])
def test_it_is_what_diffusers_does(tmp_path: Path, data_at: Any) -> None:
    """An Euler step of diffusers' scheduler from t to t' equals the way from eps and x0_hat."""
    prior = Flow(str(folder(tmp_path)), data_at=data_at, grid="scheduler", precision="32")
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER)
    # the grid is the scheduler's own, moved by its shift; what is beyond r = 157 is brought back to it
    torch.testing.assert_close(
        flow_times(prior).flip(0)[20:], scheduler.sigmas.double()[20:], rtol=1e-5, atol=1e-6
    )
    scheduler.set_timesteps(10)
    step = 4
    now, then = scheduler.sigmas[step].double(), scheduler.sigmas[step + 1].double()
    i = (flow_times(prior) - now).abs().argmin()
    t = flow_times(prior)[i]  # the nearest of the prior's levels
    x = noise(2, 3, 16, 16)
    sign, time = (1, t) if data_at == 0 else (-1, 1 - t)
    with torch.no_grad():
        velocity = sign * prior.network(x, (1000 * time).float().expand(2)).sample
    expected = x + (then - t) * velocity
    scale = ((1 - t) ** 2 + t**2).sqrt()
    eps = prior.eps((x / scale).float(), torch.full((2,), int(i)))
    x0_hat = (x - t * eps) / (1 - t)
    torch.testing.assert_close(
        ((1 - then) * x0_hat + then * eps).float(), expected.float(), rtol=1e-5, atol=1e-5
    )
    scheduler.sigmas[step] = t
    by_diffusers = scheduler.step(velocity, scheduler.timesteps[step], x).prev_sample
    torch.testing.assert_close(expected.float(), by_diffusers, rtol=1e-5, atol=1e-5)


def flow_times(prior: Flow) -> Tensor:
    r = ((1 - prior.abar) / prior.abar).sqrt()
    return r / (1 + r)


def test_levels_and_the_shift(tmp_path: Path) -> None:
    path = str(folder(tmp_path))
    assert torch.equal(Flow(path).abar, linear_abar())
    assert torch.equal(Flow(path, shift=9.0).abar, linear_abar()), "it moves the scheduler's grid alone"
    moved = Flow(path, grid="scheduler", shift=1.0)
    torch.testing.assert_close(flow_times(moved)[:990], torch.arange(1, 991, dtype=torch.float64) / 1000)
    assert moved.abar[-1] == linear_abar()[-1]
    x, t = noise(1, 3, 16, 16), torch.tensor([400])
    same = (
        (moved.abar - Flow(path).abar[t]).abs().argmin()
    )  # what a network is told depends on the level alone
    assert (moved.eps(x, same[None]) - Flow(path).eps(x, t)).abs().max() < 0.05
    (tmp_path / "scheduler_config.json").write_text(json.dumps(SCHEDULER | {"use_dynamic_shifting": True}))
    assert len(Flow(path).abar) == 1000
    with pytest.raises(ConfigError, match="shift: "):
        Flow(path, grid="scheduler")


def test_transformers_with_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
        num_embeds_ada_norm=10, norm_num_groups=4,
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    network.save_pretrained(tmp_path / "transformer", safe_serialization=True)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    prior = Flow(str(tmp_path), label=3, fully_convolutional=True)
    assert (prior.shape, prior.classes) == ((4, 8, 8), 10)
    x, t = noise(2, 4, 8, 8), torch.tensor([300, 700])
    eps = prior.eps(x, t)
    assert torch.equal(eps, prior.eps(x, t, torch.tensor([3, 3])))
    assert not torch.allclose(eps, prior.eps(x, t, torch.tensor([3, 4])))
    # a learned variance is not the velocity's
    assert eps.shape == x.shape and prior.eps(noise(1, 4, 7, 7), t[:1]).shape == (1, 4, 7, 7)


def test_gradients_go_through_it(tmp_path: Path) -> None:
    prior = Flow(str(folder(tmp_path)))
    x = noise(1, 3, 16, 16).requires_grad_()
    prior.eps(x, torch.tensor([500])).square().sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0


@pytest.mark.parametrize(
    "how", ["neither", "no shape", "noise", "flow as noise", "label", "shift", "weights"]
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, how: str) -> None:
    path = str(folder(tmp_path))
    if how == "noise":
        (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDPMScheduler"}))
    tries: dict[str, Any] = {
        "neither": lambda: Flow(),
        "no shape": lambda: Flow(network=Velocity()),
        "noise": lambda: Flow(path),
        "flow as noise": lambda: UNet(path),
        "label": lambda: Flow(path, label=1),
        "shift": lambda: Flow(path, grid="scheduler", shift=-1.0),
        "weights": lambda: Flow(network=torch.nn.Conv2d(1, 1, 1), weights=path, shape=SHAPE),
    }
    with pytest.raises(ConfigError, match=r"^model\.prior[^\n]*$") as raised:
        tries[how]()
    if how in ("noise", "flow as noise"):
        assert ("priors.UNet" if how == "noise" else "priors.Flow") in str(raised.value)
