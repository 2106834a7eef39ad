"""`reddiff prior average`: the mean of priors of one architecture, and a clear line for anything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file

from reddiff_pl.priors import UNet
from reddiff_pl.training.files import schedule, write_prior

NETWORK = {
    "sample_size": 8,
    "block_out_channels": [8],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "norm_num_groups": 4,
}
SCHEDULE = schedule("epsilon")
WEIGHTS = "diffusion_pytorch_model.safetensors"


def make(folder: Path, seed: int, **changes) -> Path:
    torch.manual_seed(seed)
    network = UNet2DModel(**(NETWORK | changes))
    write_prior(folder, network.config, network.state_dict(), SCHEDULE)
    return folder


@pytest.fixture
def priors(tmp_path) -> list[Path]:
    return [make(tmp_path / f"p{i}", i, dropout=0.1 * i) for i in range(3)]


def test_the_mean_of_three(priors, reddiff, tmp_path):
    code, printed = reddiff("prior", "average", *priors, "--out", tmp_path / "mean")
    assert code == 0, printed
    inputs = [load_file(folder / WEIGHTS) for folder in priors]
    mean = load_file(tmp_path / "mean" / WEIGHTS)
    assert mean.keys() == inputs[0].keys()
    for name, tensor in mean.items():
        assert tensor.dtype == torch.float16
        exact = sum(one[name].double() for one in inputs) / 3
        assert ((tensor.double() - exact).abs() <= 2**-11 * exact.abs() + 2**-24).all(), "rounded once"
    prior = UNet(str(tmp_path / "mean"))
    assert prior.eps(torch.zeros(1, 3, 8, 8), torch.tensor([5])).isfinite().all()


def test_a_folder_named_twice_counts_twice(priors, reddiff, tmp_path):
    a, b, _ = priors
    assert reddiff("prior", "average", a, b, b, b, "--out", tmp_path / "mean")[0] == 0
    x, y, mean = (
        load_file(folder / WEIGHTS)["conv_in.weight"].double() for folder in (a, b, tmp_path / "mean")
    )
    torch.testing.assert_close(mean, (x + 3 * y) / 4, rtol=1e-3, atol=1e-6)


def test_others_are_refused_in_one_line(priors, reddiff, tmp_path):
    a, b, c = priors
    wider = make(tmp_path / "wider", 0, block_out_channels=[12])
    tuned = shutil.copytree(b, tmp_path / "tuned")
    schedule = json.loads((tuned / "scheduler_config.json").read_text())
    (tuned / "scheduler_config.json").write_text(json.dumps(schedule | {"beta_end": 0.01}))
    swapped = shutil.copytree(b, tmp_path / "swapped")
    shutil.copy(wider / WEIGHTS, swapped / WEIGHTS)
    cut = shutil.copytree(b, tmp_path / "cut")
    (cut / WEIGHTS).write_bytes((cut / WEIGHTS).read_bytes()[:1000])
    for others, words in {
        (wider,): "block_out_channels of config.json is [12], not [8]",
        (tuned,): "beta_end of scheduler_config.json is 0.01, not 0.02",
        (swapped,): "is another network than",
        (cut,): f"cannot read {WEIGHTS}",
        (tmp_path / "nowhere",): "nowhere",
        (): "two folders or more",
    }.items():
        code, printed = reddiff("prior", "average", a, *others, "--out", tmp_path / "mean")
        assert code == 2
        assert words in printed and len(printed.strip().splitlines()) == 1
        assert not (tmp_path / "mean").exists()
    code, printed = reddiff("prior", "average", a, c, "--out", b)
    assert code == 2 and "not an empty folder" in printed
