"""Networks in sigma, on a grid of timesteps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import CONFIGS, VAL_SHARD
from networks import noise
from safetensors.torch import save_file
from torch import Tensor, nn

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors import EDM, linear_abar

SHAPE = (3, 8, 8)
TIMES = torch.tensor([0, 250, 700, 999])


class Raw(nn.Module):
    """F: a convolution, moved by c_noise and the class."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        moved = c_noise if label is None else c_noise + label
        return self.conv(x) + moved[:, None, None, None]


class Denoiser(nn.Module):
    """D(x, sigma) of F, as the paper writes it."""

    def __init__(self, raw: nn.Module, sigma_data: float) -> None:
        super().__init__()
        self.raw, self.sigma_data = raw, sigma_data

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s, d = sigma.double()[:, None, None, None], self.sigma_data
        c_in = 1 / (s**2 + d**2).sqrt()
        output = self.raw((c_in * x).float(), sigma.log() / 4).double()
        return d**2 / (s**2 + d**2) * x + s * d * c_in * output


class Zero(nn.Module):
    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return torch.zeros_like(x)


def raw() -> Raw:
    torch.manual_seed(0)
    return Raw()


@pytest.mark.parametrize("grid", ["ddpm", "karras"])
def test_the_grid(grid: Any) -> None:
    prior = EDM(SHAPE, Zero(), grid=grid, sigma_min=0.01, sigma_max=50)
    r = ((1 - prior.abar) / prior.abar).sqrt()
    assert (prior.abar.diff() <= 0).all() and prior.abar.dtype == torch.float64
    assert 0.01 <= r[0] < 0.011 and r[-1].item() == pytest.approx(50)
    if grid == "ddpm":
        inside = (1 - linear_abar()) / linear_abar() < 50**2
        torch.testing.assert_close(prior.abar[inside], linear_abar()[inside])
    else:
        torch.testing.assert_close(
            r ** (1 / 7), torch.linspace(0.01 ** (1 / 7), 50 ** (1 / 7), 1000).double()
        )


def test_white_gaussian_images() -> None:
    """For x0 ~ N(0, s^2 I) the best F is 0, and eps = sigma_t / (abar s^2 + 1 - abar) x_t."""
    prior, x_t = EDM(SHAPE, Zero(), sigma_data=0.4), noise(4, *SHAPE)
    a = prior.abar[TIMES][:, None, None, None]
    expected = (1 - a).sqrt() / (a * 0.16 + 1 - a) * x_t
    eps = prior.eps(x_t, TIMES)
    assert eps.dtype == torch.float32
    torch.testing.assert_close(eps.double(), expected, rtol=1e-5, atol=1e-6)


def test_preconditioning_is_that_of_the_paper() -> None:
    """F under the prior's preconditioning is D(x, sigma) preconditioned by hand."""
    x_t = noise(4, *SHAPE)
    eps = EDM(SHAPE, raw(), sigma_data=0.6).eps(x_t, TIMES)
    other = EDM(SHAPE, Denoiser(raw(), 0.6), preconditioned=True).eps(x_t, TIMES)
    # at sigma = .01 x - D is a small difference, and amplified by 1 / sigma
    torch.testing.assert_close(eps[1:], other[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(eps[:1], other[:1], rtol=1e-2, atol=1e-3)


def test_classes() -> None:
    x_t, label = noise(4, *SHAPE), torch.tensor([0, 1, 2, 0])
    prior = EDM(SHAPE, raw(), classes=3)
    eps = prior.eps(x_t, TIMES, label)
    plain = EDM(SHAPE, raw()).eps(x_t, TIMES)
    assert torch.equal(eps[0], plain[0]) and not torch.allclose(eps[1], plain[1], atol=0.1)
    with pytest.raises(ConfigError, match="no label"):
        prior.eps(x_t, TIMES)
    zeros = torch.zeros(4, dtype=torch.long)
    assert torch.equal(EDM(SHAPE, raw(), classes=3, label=0).eps(x_t, TIMES), prior.eps(x_t, TIMES, zeros))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_torchscript_only_when_trusted(tmp_path: Path) -> None:
    path = tmp_path / "network.ts"
    torch.jit.trace(raw(), (torch.zeros(1, *SHAPE), torch.zeros(1))).save(path)
    with pytest.raises(ConfigError, match=r"init_args\.trust: .*holds code"):
        EDM(SHAPE, torchscript=str(path))
    prior = EDM(SHAPE, torchscript=str(path), trust=True)
    x_t = noise(1, *SHAPE)
    torch.testing.assert_close(prior.eps(x_t, TIMES[:1]), EDM(SHAPE, raw()).eps(x_t, TIMES[:1]))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"^model\.prior\.init_args\.torchscript: cannot load [^\n]*$"):
        EDM(SHAPE, torchscript=str(path), trust=True)


def test_from_yaml(reddiff, tmp_path: Path) -> None:
    """A diffusers network by class_path, with weights from a file."""
    from diffusers import UNet2DModel

    init_args = {
        "sample_size": 16,
        "block_out_channels": [8],
        "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }
    torch.manual_seed(0)
    save_file(UNet2DModel(**init_args).state_dict(), tmp_path / "weights.safetensors")
    network = {"class_path": "diffusers.UNet2DModel", "init_args": init_args}
    prior = {
        "shape": [3, 16, 16],
        "network": network,
        "weights": str(tmp_path / "weights.safetensors"),
        "T": 100,
    }
    (tmp_path / "edm.yaml").write_text(
        yaml.safe_dump({"model": {"prior": {"class_path": "reddiff_pl.priors.EDM", "init_args": prior}}})
    )
    code, printed = reddiff(
        *(
            "restore",
            "--config",
            CONFIGS / "tasks" / "superresolution_2x.yaml",
            "--config",
            tmp_path / "edm.yaml",
        ),
        *("--data.shards", VAL_SHARD, "--limit=2", "--out", tmp_path / "out"),
        *("--model.sampler.init_args.steps=4", "--trainer.accelerator=cpu"),
    )
    assert code == 0, printed


@pytest.mark.parametrize(
    "options",
    [{}, {"network": Zero(), "torchscript": "x"}, {"network": Zero(), "sigma_max": 0.001},
     {"network": Zero(), "label": 0}, {"network": Zero(), "weights": "/nowhere"}],
    ids=str,
)  # fmt: skip
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^model\.prior\.init_args[^\n]*$"):
        EDM(SHAPE, **options)


def test_fingerprint() -> None:
    prints = {
        EDM(SHAPE, raw(), **options).fingerprint()
        for options in (
            {},
            {"sigma_data": 0.4},
            {"preconditioned": True},
            {"grid": "karras"},
            {"sigma_max": 20},
        )
    }
    assert len(prints) == 5
    assert EDM(SHAPE, raw()).fingerprint() in prints
