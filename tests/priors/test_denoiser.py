"""Denoisers as priors: closed form, deepinv's, FFDNet; nothing is downloaded or run from a file."""

from __future__ import annotations

import pickle
import socket
from pathlib import Path
from typing import Any

import deepinv.models
import pytest
import torch
from closed_forms import MEAN, SHAPE
from networks import noise
from safetensors.torch import save_file
from torch import Tensor, nn

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics import SuperResolution
from reddiff_pl.priors import Denoiser, FFDNet, Gaussian, linear_abar
from reddiff_pl.samplers import DAPS, DDIM, DPS, DiffPIR, PiGDM, ProximalREDDiff, REDDiff, SeededNoise, run

TINY: dict[str, Any] = {"nc": [4, 4, 4, 4], "nb": 1}


class OnUnitRange(nn.Module):
    """The closed-form denoiser of a Gaussian field for images in [0, 1]."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = (2 * sigma).reshape(-1, 1, 1, 1)
        image = 2 * x - 1
        return (MEAN + Gaussian(SHAPE, mean=MEAN).filter(image - MEAN, lambda c: c / (c + s**2)) + 1) / 2


def closed_form(**options: Any) -> Denoiser:
    return Denoiser(f"{__name__}.OnUnitRange", shape=SHAPE, multiple=1, **options)


class Shortened(Gaussian):
    """The exact prior on the first levels alone."""

    def __init__(self, T: int) -> None:
        super().__init__(SHAPE, mean=MEAN)
        self.abar = self.abar[:T]


@pytest.mark.parametrize(
    "sampler", [REDDiff(steps=6), ProximalREDDiff(steps=6), DDIM(6), DPS(6), PiGDM(6), DiffPIR(6), DAPS(4, 2)]
)
def test_restorations_are_those_of_the_exact_prior(sampler: Any) -> None:
    prior = closed_form()
    exact = Shortened(len(prior.abar))
    physics = SuperResolution(2)
    y = physics.A(exact.sample(noise(2, *SHAPE).double()))
    results = [run(sampler, y, physics, p, SeededNoise(0, ["a", "b"])) for p in (exact, prior)]
    assert (results[0] - results[1]).abs().max() < 1e-6


def test_the_grid_ends_with_the_levels_that_it_knows() -> None:
    prior = closed_form(sigma_max=0.2, sigma_min=0.01)
    sigma = ((1 - prior.abar) / prior.abar).sqrt() / 2
    assert 0.01 <= sigma[0] < 0.012 and 0.19 < sigma[-1] <= 0.2
    assert set(prior.abar.tolist()) <= set(linear_abar().tolist())
    with pytest.raises(ConfigError, match="timesteps"):
        REDDiff(timesteps=[500]).init(
            torch.zeros(1, 1, 4, 4), SuperResolution(2), prior, SeededNoise(0, ["a"])
        )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("DRUNet", TINY), ("GSDRUNet", TINY), ("SCUNet", {"config": [1] * 7, "dim": 64})],
)
def test_denoisers_of_deepinv(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = getattr(deepinv.models, name)(**arguments, pretrained=None).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    prior = Denoiser(f"deepinv.models.{name}", arguments, str(tmp_path / "weights.pth"))
    x, t = noise(2, 3, 64, 64), torch.tensor([20, 100])
    alpha, r = prior.abar[t].sqrt(), ((1 - prior.abar[t]) / prior.abar[t]).sqrt()
    for i in range(2):
        with torch.no_grad():
            clean = network((x[i : i + 1] / alpha[i].float() + 1) / 2, float(r[i] / 2))
        expected = (x[i] / alpha[i] - (2 * clean[0] - 1)) / r[i]
        torch.testing.assert_close(prior.eps(x, t)[i], expected.float(), rtol=1e-3, atol=1e-3)
    # any size
    assert prior.eps(noise(1, 3, 41, 50), t[:1]).shape == (1, 3, 41, 50)


def test_ffdnet_reads_the_published_layout(tmp_path: Path) -> None:
    """Tensors named and shaped as in ffdnet_color.pth; an identity is made of them."""
    network = FFDNet()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["model.0.weight"] == (96, 13, 3, 3) and shapes["model.22.bias"] == (12,)
    assert len(shapes) == 24
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    for name, value in tensors.items():
        if name.endswith("weight"):
            for channel in range(min(12, len(value))):
                value[channel, channel, 1, 1] = 1  # through all layers, for positive pixels
    save_file(tensors, tmp_path / "ffdnet.safetensors")
    prior = Denoiser("reddiff_pl.priors.FFDNet", weights=str(tmp_path / "ffdnet.safetensors"))
    x = noise(1, 3, 7, 9).clamp(-0.9, 0.9)
    # a denoiser that leaves all as it is sees no noise
    assert prior.eps(prior.abar[0].sqrt().float() * x, torch.tensor([0])).abs().max() < 1e-3
    tensors["model.0.weight"][0, 12, 1, 1] = 1
    save_file(tensors, tmp_path / "ffdnet.safetensors")
    moved = FFDNet()
    moved.load_state_dict(tensors)
    out = moved(torch.zeros(1, 3, 4, 4), torch.tensor([0.25]))
    assert out[0, 0, 0, 0] == 0.25 and out.sum() == 4 * 0.25, "the noise's level is the last channel"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"denoiser": "deepinv.models.DRUNet"}, "weights: "),
        ({"denoiser": "deepinv.models.RAM"}, "weights: "),
        ({"denoiser": "deepinv.models.Nothing"}, "denoiser: "),
        ({"denoiser": "os.getcwd"}, "denoiser: "),
        ({"denoiser": "deepinv.models.DRUNet", "arguments": {"pretrained": "download"}}, "arguments: "),
        ({"denoiser": "reddiff_pl.priors.FFDNet"}, "weights: "),
        ({"denoiser": "reddiff_pl.priors.FFDNet", "download": True}, "download: "),
        ({"denoiser": "deepinv.models.DRUNet", "download": True, "weights": "x"}, "download: "),
        ({"denoiser": "reddiff_pl.priors.FFDNet", "weights": "evil.pth"}, "weights: "),
        ({"denoiser": "reddiff_pl.priors.FFDNet", "weights": "nowhere.pth"}, "weights: "),
        ({"denoiser": "reddiff_pl.priors.FFDNet", "sigma_max": 0.001}, "sigma_max: "),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
) -> None:
    """And nothing asks the network for weights, nor runs what a file holds."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("downloads")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(ConfigError, match=rf"^model\.prior\.init_args\.{said}[^\n]*$"):
        Denoiser(**options)
    assert not (tmp_path / "run").exists()


class _Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("run"),)
