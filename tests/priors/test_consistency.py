"""Consistency networks: what our eps leaves is the image that diffusers' own schedulers give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, LCMScheduler
from networks import noise, tiny_unet
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics import Inpainting, bind
from reddiff_pl.priors import UNet, linear_abar
from reddiff_pl.samplers import DiffPIR, SeededNoise, run

CM = {
    "_class_name": "CMStochasticIterativeScheduler",
    "sigma_min": 0.02,
    "sigma_max": 60.0,
    "clip_denoised": False,
}
LCM = {"_class_name": "LCMScheduler", "timestep_scaling": 8.0, "clip_sample": False}


def x0(prior: UNet, x_t: Tensor, t: int) -> Tensor:
    a = prior.abar[t]
    eps = prior.eps(x_t, torch.full((len(x_t),), t))
    return ((x_t - (1 - a).sqrt() * eps) / a.sqrt()).float()


@torch.no_grad()
@pytest.mark.parametrize("t", [0, 40, 500, 999])
def test_in_sigma_it_is_what_diffusers_does(tmp_path: Path, t: int) -> None:
    network = tiny_unet(tmp_path, scheduler=CM)
    prior = UNet(str(tmp_path), precision="32")
    scheduler = CMStochasticIterativeScheduler.from_config(CM)
    sigma = ((1 - prior.abar[t]) / prior.abar[t]).sqrt()
    # one step from our level down to the smallest, which adds no noise
    scheduler.sigmas = torch.tensor([sigma, scheduler.config.sigma_min])
    scheduler.timesteps = torch.from_numpy(scheduler.sigma_to_t(scheduler.sigmas[:1].double().numpy()))
    scheduler.num_inference_steps, scheduler._step_index = 1, 0
    x_t = noise(2, 3, 16, 16)
    x = x_t * (1 + sigma**2).sqrt().float()
    output = network(scheduler.scale_model_input(x, scheduler.timesteps[0]), scheduler.timesteps[0]).sample
    expected = scheduler.step(output, scheduler.timesteps[0], x).prev_sample
    torch.testing.assert_close(x0(prior, x_t, t), expected, rtol=1e-5, atol=1e-5 * max(float(sigma), 1))


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [0, 3, 499, 999])
def test_at_timesteps_it_is_what_diffusers_does(tmp_path: Path, prediction: str, t: int) -> None:
    network = tiny_unet(tmp_path, scheduler=LCM | {"prediction_type": prediction})
    prior = UNet(str(tmp_path), precision="32")
    schedule = {
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": "linear",
    }  # LCMScheduler's own is another
    scheduler = LCMScheduler.from_config(LCM | schedule | {"prediction_type": prediction})
    scheduler.set_timesteps(1, original_inference_steps=1)
    scheduler.timesteps = torch.tensor([t])
    x_t = noise(2, 3, 16, 16)
    expected = scheduler.step(network(x_t, t).sample, t, x_t).denoised
    limit = 1e-5 / float(prior.abar[t].sqrt())
    torch.testing.assert_close(x0(prior, x_t, t), expected, rtol=1e-5, atol=limit)


def test_its_levels_are_those_that_it_knows(tmp_path: Path) -> None:
    tiny_unet(tmp_path, scheduler=CM)
    prior = UNet(str(tmp_path))
    r = ((1 - prior.abar) / prior.abar).sqrt()
    torch.testing.assert_close(r[[0, -1]], torch.tensor([0.02, 60.0], dtype=torch.float64))
    inside = (r > 0.0201) & (r < 59.9)
    assert inside.sum() > 800 and torch.equal(prior.abar[inside], linear_abar()[inside])
    # where it knows no less noise, the image is what it sees
    x = noise(1, 3, 16, 16)
    assert prior.eps(x, torch.tensor([0])).abs().max() < 1e-6
    other = tmp_path / "other"
    tiny_unet(other, scheduler=CM | {"sigma_data": 0.4})
    assert UNet(str(other)).fingerprint() != prior.fingerprint()


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({"sigma_min": 90.0}, {}, "0 < sigma_min < sigma_max"),
        ({"sigma_data": "much"}, {}, "CMStochasticIterativeScheduler cannot be read"),
        ({}, {"beta_end": 0.01}, r"init_args\.beta_end: a network with a CMStoch"),
        ({}, {"prediction_type": "sample"}, r"init_args\.prediction_type: a network with a CMStoch"),
    ],
)
def test_what_makes_none_is_refused(
    tmp_path: Path, change: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    tiny_unet(tmp_path, scheduler=CM | change)
    with pytest.raises(ConfigError, match=rf"^model\.prior[^\n]*{message}[^\n]*$"):
        UNet(str(tmp_path), **arguments)


@torch.no_grad()
@pytest.mark.parametrize("scheduler", [CM, LCM])
def test_a_few_evaluations_meet_the_measurement(tmp_path: Path, scheduler: dict[str, Any]) -> None:
    """As LATINO does: renoise afresh, one guess, the nearest image that fits, and again."""
    tiny_unet(tmp_path, scheduler=scheduler)
    prior, physics, x = UNet(str(tmp_path)), Inpainting(), noise(2, 3, 16, 16).clamp(-1, 1)
    bind(physics, {"mask": (noise(2, 1, 16, 16, seed=1) > 0).float()})
    y = physics.A(x)
    restored = run(
        DiffPIR(timesteps=[999, 749, 499, 249], zeta=1.0), y, physics, prior, SeededNoise(0, ["a", "b"])
    )
    assert restored.isfinite().all()
    torch.testing.assert_close(physics.A(restored), y, rtol=0, atol=2e-3)
