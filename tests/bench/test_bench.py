"""`reddiff bench`: what it times is what it says, every row is kept, and a row that fails costs only itself."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from reddiff_pl.bench import network, processes
from reddiff_pl.bench.plain import PlainPrior, plain_reddiff
from reddiff_pl.physics import Inpainting, bind
from reddiff_pl.priors import UNet
from reddiff_pl.samplers import REDDiff, ReplayedNoise, run

TINY = {
    **network.ADM256,
    "sample_size": 16,
    "block_out_channels": [32, 64],
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "attention_head_dim": 32,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a random network of the family, small."""
    return network.make_network(tmp_path_factory.mktemp("network") / "tiny", TINY)


def test_adm256_is_the_published_network():
    unet = network.empty_network(network.ADM256)
    assert sum(value.numel() for value in unet.parameters()) == 552_814_086
    assert network.flop(unet, (3, 256, 256)) == pytest.approx(2.24e12, rel=1e-3)


def test_flop_are_those_of_a_convolution():
    small = network.empty_network({**TINY, "layers_per_block": 1})
    more = network.empty_network({**TINY, "layers_per_block": 1, "out_channels": 7})
    # one channel more of the last 3x3 convolution of 32 channels at 16x16
    assert network.flop(more, (3, 16, 16)) - network.flop(small, (3, 16, 16)) == 2 * 9 * 32 * 16 * 16


def test_plain_loop_is_reddiff(tiny, one_thread):
    """A mean over the batch is Adam with B times the epsilon: the same steps as the sampler's."""
    generator = torch.Generator().manual_seed(0)
    steps, shape = 6, (3, 3, 16, 16)
    draws = [torch.randn(shape, generator=generator) for _ in range(2 * steps)]
    physics = Inpainting()
    bind(physics, {"mask": (torch.rand((3, 1, 16, 16), generator=generator) < 0.5).float()})
    y = physics.A(torch.rand(shape, generator=generator) * 2 - 1)
    prior = PlainPrior(tiny, "32")
    times = list(range(0, 1000, 1000 // steps))[::-1][:steps]
    plain = plain_reddiff(prior, y, physics.A, y, times, draw=lambda mu, step: draws[2 * step + 1])
    sampler = REDDiff(timesteps=times, adam_eps=3e-8)
    ours = run(sampler, y, physics, UNet(tiny, precision="32"), ReplayedNoise(draws))
    assert (plain - y).abs().mean() > 0.1
    assert (plain - ours).abs().max() < 1e-4


def test_networks_are_alive_and_dead_ones_found(tiny):
    first = UNet(tiny)
    unet = first.network
    x, t = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    found = network.zeros(unet, x, t)
    assert found["alive"] and found["tensors"] > 50 and found["largest"] < 0.01
    output = unet(x, t).sample
    assert 0.1 < output.std() < 10
    convolution = unet.get_submodule("down_blocks.0.resnets.0.conv2")
    assert isinstance(convolution, nn.Conv2d)
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    found = network.zeros(unet, x, t)
    assert not found["alive"]
    assert found["all_zero"] == ["down_blocks.0.resnets.0.conv2"]
    assert found["zero_weights"] == ["down_blocks.0.resnets.0.conv2.weight"]


def test_a_failing_row_costs_only_itself(tiny, tmp_path):
    """An unknown precision raises in its row, an unknown argument before any."""
    job = {
        **{"kind": "eager", "device": "cpu", "network": tiny, "prior": {}, "batch_size": 1, "flop": 1},
        **{"steps": 10, "repeats": 1, "seconds": 1, "rows": ["reference 99", "reference 32"]},
    }
    patience = processes.Patience(300, None)
    results = dict(processes.ask(job, tmp_path / "log", patience))
    assert "99" in results["reference 99"]["error"]
    assert results["reference 32"]["ms"] > 0 and results["reference 32"]["evaluations"] == 2
    job |= {"kind": "shipped", "prior": {"nonsense": 1}, "rows": ["forward", "loop"]}
    results = dict(processes.ask(job, tmp_path / "log", patience))
    assert all("nonsense" in results[name]["error"] for name in ("forward", "loop"))
    results = dict(processes.ask(job, tmp_path / "log", processes.Patience(300, 0)))
    assert all("no time" in results[name]["error"] for name in ("forward", "loop"))


def test_command(reddiff, tiny, tmp_path):
    """The whole command on a small network: rows, ratios, tables."""
    options = ["--out", tmp_path / "out", "--network", tiny, "--batch-sizes", "2", "--device", "cpu"]
    options += ["--steps", "4", "--repeats", "2", "--seconds", "1", "--disk-batches", "2"]
    options += ["--precision", "32"]
    code, said = reddiff("bench", *options, "--what", "forward,loop,disk")
    assert code == 0, said
    record = json.loads((tmp_path / "out" / "bench.json").read_text())
    rows = {row["what"]: row for row in record["rows"]}
    assert list(rows) == ["forward", "loop", "proximal", "disk"]
    assert record["network"]["zeros"]["alive"]
    for name in ("forward", "loop", "proximal"):
        row = rows[name]
        assert row["finite"] and row["peak_gib"] > 0
        assert row["tflops"] == pytest.approx(record["network"]["flop"] / row["ms"] / 1e9)
    assert [rows[name]["evaluations"] for name in rows] == [1, 4, 4, 4]
    disk = rows["disk"]
    assert (disk["images"], disk["steady_images"]) == (6, 4)
    assert disk["ratio_to_loop"] == pytest.approx(disk["ms"] / rows["proximal"]["ms"])
    assert disk["whole_seconds"] > disk["start_seconds"] + disk["work_seconds"] > 0
    table = (tmp_path / "out" / "bench.md").read_text()
    assert table.strip() in said and table.count("as shipped") == 4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--what", "forward,speed"], "--what"),
        (["--reference", "64"], "--reference"),
        (["--batch-sizes", "0"], "--batch-sizes"),
        (["--variant", "graph"], "--variant"),
    ],
)
def test_bad_options_are_one_line(reddiff, tmp_path, options, named):
    code, said = reddiff("bench", "--out", tmp_path / "out", *options)
    assert code == 2 and named in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
