"""Networks with schedules and predictions of their own, and with classes."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from helpers import CONFIGS, png, read_json, restored_keys, write_shard
from networks import noise, tiny_unet

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors import UNet
from reddiff_pl.priors.schedule import abar_from

SCHEDULES: list[dict[str, Any]] = [
    {},
    {"beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.03},
    {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 64},
    {"beta_schedule": "sigmoid", "num_train_timesteps": 200},
    {"trained_betas": [0.01, 0.02, 0.5, 0.3]},
    {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
]


@pytest.mark.parametrize("config", SCHEDULES, ids=str)
def test_schedules_are_those_of_diffusers(config: dict[str, Any]) -> None:
    expected = DDPMScheduler(**config).alphas_cumprod.double()
    abar = abar_from({"_class_name": "DDPMScheduler", **config})
    assert abar.dtype == torch.float64 and abar.shape == expected.shape
    assert (abar.diff() < 0).all() and abar.min() > 0
    # theirs is float32; the last of a schedule that ends in pure noise is 0, which no sampler can divide by
    torch.testing.assert_close(abar[:-1], expected[:-1], rtol=3e-5, atol=1e-6)
    torch.testing.assert_close(abar[-1], expected[-1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["ScoreSdeVeScheduler", "EDMEulerScheduler", "CMStochasticIterativeScheduler"]
)
def test_schedules_without_timesteps_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} has no discrete timesteps"):
        abar_from({"_class_name": name, "num_train_timesteps": 1000})


@pytest.mark.parametrize(
    "config", [{"beta_schedule": "laplace"}, {"beta_end": 1.5}, {"trained_betas": [0.1, -0.1, 3.0]}], ids=str
)
def test_impossible_schedules_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^model\.prior[^\n]*$"):
        abar_from(config)


@pytest.mark.parametrize("layout", ["beside", "pipeline", "pipeline's unet"])
def test_folders_bring_their_schedule(tmp_path: Path, layout: str) -> None:
    scheduler = {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "squaredcos_cap_v2",
        "num_train_timesteps": 50,
    }
    if layout == "beside":
        tiny_unet(tmp_path, scheduler=scheduler, num_train_timesteps=20)
        path = tmp_path
    else:
        tiny_unet(tmp_path / "unet")
        (tmp_path / "scheduler").mkdir()
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
        path = tmp_path if layout == "pipeline" else tmp_path / "unet"
    assert torch.equal(UNet(str(path)).abar, abar_from(scheduler))
    # arguments win, one by one
    prior = UNet(str(path), beta_schedule="linear", beta_end=0.1)
    assert torch.equal(prior.abar, abar_from({"num_train_timesteps": 50, "beta_end": 0.1}))


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
@pytest.mark.parametrize("by", ["file", "argument"])
def test_predictions_become_noise(tmp_path: Path, prediction: str, by: str) -> None:
    """The noise and the image that the prediction stands for make up x_t, for every t."""
    scheduler = {"prediction_type": prediction} if by == "file" else {}
    network = tiny_unet(tmp_path, scheduler=scheduler, out_channels=6)
    options = {"prediction_type": prediction} if by == "argument" else {}
    prior = UNet(str(tmp_path), precision="32", **options)
    t, x_t = torch.tensor([0, 300, 999]), noise(3, 3, 16, 16)
    eps, output = prior.eps(x_t, t).double(), network(x_t, t).sample[:, :3].double()
    abar = prior.abar[t][:, None, None, None]
    if prediction == "sample":
        x0 = output
    else:  # v = alpha eps - sigma x0
        x0 = abar.sqrt() * x_t - (1 - abar).sqrt() * output
        torch.testing.assert_close(abar.sqrt() * eps - (1 - abar).sqrt() * x0, output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(abar.sqrt() * x0 + (1 - abar).sqrt() * eps, x_t.double(), rtol=1e-5, atol=1e-5)
    other = UNet(str(tmp_path), precision="32", prediction_type="epsilon")
    assert other.fingerprint() != prior.fingerprint()


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("256x256_diffusion_uncond.pt", "download 256x256_diffusion_uncond.pt from https://openaipublic"),
        ("/models/512x512_diffusion", "reddiff prior import 512x512_diffusion.pt"),
        ("models/ffhq_10m.pt", "diffusion-posterior-sampling"),
        ("google/ddpm-cifar10-32", "hf download google/ddpm-cifar10-32 --local-dir"),
        ("/nowhere/prior", "config.json and diffusion_pytorch_model.safetensors"),
    ],
)
def test_missing_models_say_what_to_download(path: str, advice: str) -> None:
    with pytest.raises(ConfigError) as caught:
        UNet(path)
    message = str(caught.value)
    assert message.startswith(f"model.prior.init_args.path: no folder {path}") and advice in message
    assert "\n" not in message


def test_a_checkpoint_is_to_be_imported(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"reddiff prior import .*mine\.pt --out"):
        UNet(str(tmp_path / "mine.pt"))


def test_the_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(ConfigError) as caught:
        UNet("google/ddpm-cifar10-32", hub=True)
    message = str(caught.value)
    assert "cannot download google/ddpm-cifar10-32" in message and "--local-dir FOLDER" in message
    assert "\n" not in message


def test_networks_that_want_a_prompt_are_refused(tmp_path: Path) -> None:
    tiny_unet(tmp_path)
    config = read_json(tmp_path / "config.json") | {"_class_name": "UNet2DConditionModel"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match=r"UNet2DConditionModel, expected UNet2DModel; .* reddiff_pl.priors.Pipeline"
    ):
        UNet(str(tmp_path))


def test_labels_from_metadata(reddiff, tmp_path: Path) -> None:
    """They reach the network; without a default a sample without one fails alone."""
    tiny_unet(tmp_path / "prior", num_class_embeds=5)
    picture = png((noise(16, 16, 3) * 40 + 128).clamp(0, 255).byte().numpy())
    metas = {"a": {"label": 1}, "b": {"label": 4}, "c": {}, "d": {"label": 5}, "e": {"label": "dog"}}
    samples = [(key, {"png": picture, "json": json.dumps(meta).encode()}) for key, meta in metas.items()]
    command = [
        *("restore", "--config", CONFIGS / "tasks" / "superresolution_2x.yaml"),
        *("--data.shards", write_shard(tmp_path / "in.tar", samples), "--data.batch_size=2"),
        *("--model.prior.init_args.path", tmp_path / "prior", "--model.sampler.init_args.steps=4"),
        "--trainer.accelerator=cpu",
    ]
    code, printed = reddiff(*command, "--out", tmp_path / "out")
    assert code == 3, printed
    assert restored_keys(tmp_path / "out" / "shards" / "in.tar") == ["a", "b"]
    failed = {f["key"]: f["reason"] for f in read_json(tmp_path / "out" / "accounts" / "in.json")["failed"]}
    assert "class-conditional" in failed["c"] and "KEY.json" in failed["c"]
    assert "from 0 to 4" in failed["d"] and "dog" in failed["e"]

    code, printed = reddiff(*command, "--out", tmp_path / "default", "--model.prior.init_args.label=1")
    assert code == 3, printed
    assert restored_keys(tmp_path / "default" / "shards" / "in.tar") == ["a", "b", "c"]
    # measurements are the same for all classes
    code, printed = reddiff("degrade", *command[1:], "--out", tmp_path / "measured")
    assert code == 0, printed


def test_a_label_that_the_network_has_not(tmp_path: Path) -> None:
    tiny_unet(tmp_path, num_class_embeds=5)
    with pytest.raises(ConfigError, match=r"init_args\.label: the network has 5 classes, got 5"):
        UNet(str(tmp_path), label=5)
    with pytest.raises(ConfigError, match="no label"):
        UNet(str(tmp_path)).eps(noise(1, 3, 16, 16), torch.tensor([3]))
    x_t, t = noise(2, 3, 16, 16), torch.tensor([3, 700])
    given = UNet(str(tmp_path)).eps(x_t, t, torch.tensor([2, 2]))
    assert torch.equal(UNet(str(tmp_path), label=2).eps(x_t, t), given)
