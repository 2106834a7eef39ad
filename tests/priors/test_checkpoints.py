"""Checkpoints as people find them: used, or one line that says what is wrong and what to do; exit code 2, no work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CONFIGS, png, read_json, restored_keys, write_shard
from networks import WEIGHTS, tiny_unet
from safetensors.torch import load_file, save_file
from test_adm import checkpoint

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors import Denoiser, FFDNet, UNet

TASK = ["--config", str(CONFIGS / "tasks" / "superresolution_4x.yaml"), "--trainer.accelerator=cpu"]
SHORT = ["--model.sampler.init_args.steps=2", "--model.prior.class_path=reddiff_pl.priors.UNet"]
WEB_PAGE = b"<!DOCTYPE html><html><body>Sign in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


def spoil(folder: Path, how: str) -> None:
    """Make a folder with a network one that is not usable."""
    weights = folder / WEIGHTS
    tensors = load_file(weights)
    if how in ("nan", "inf"):
        for name in ("conv_out.weight", "conv_norm_out.bias"):
            tensors[name].view(-1)[-1] = float(how)
        save_file(tensors, weights)
    elif how == "int8":
        save_file({name: (100 * value).to(torch.int8) for name, value in tensors.items()}, weights)
    elif how == "pickle":
        torch.save(tensors, folder / "diffusion_pytorch_model.bin")
        weights.unlink()
    elif how == "nothing":
        weights.unlink()
    elif how == "page":
        weights.write_bytes(WEB_PAGE)
    elif how == "pointer":
        weights.write_bytes(POINTER)
    elif how == "config page":
        (folder / "config.json").write_bytes(WEB_PAGE)
    else:
        field, _, value = how.partition("=")
        config = read_json(folder / "config.json") | {field: json.loads(value)}
        (folder / "config.json").write_text(json.dumps(config))


def test_prefixes_of_a_folders_weights_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "net"
    tiny_unet(folder)
    # copies: an older safetensors writes into the file that its tensors are views of
    plain = {name: value.clone() for name, value in UNet(str(folder)).state_dict().items()}
    copies = {f"module.{name}": value.clone() for name, value in load_file(folder / WEIGHTS).items()}
    save_file(copies, folder / WEIGHTS)
    found = UNet(str(folder)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in plain.items())
    assert "prefix 'module.' of all names left out" in caplog.text


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("wrapped", ["plain", "module.", "params", "both"])
def test_weights_of_a_denoiser_as_people_find_them(tmp_path: Path, wrapped: str, kind: str) -> None:
    """Its own names begin with a prefix that others put around theirs."""
    network = FFDNet(width=8, layers=3)
    tensors: dict = network.state_dict()
    if wrapped in ("module.", "both"):
        tensors = {f"module.{name}": value for name, value in tensors.items()}
    if kind == "safetensors":
        save_file(tensors, tmp_path / f"w.{kind}")
    else:
        torch.save(
            {"params_ema": tensors, "step": 3} if wrapped in ("params", "both") else tensors,
            tmp_path / "w.pth",
        )
    arguments = {"width": 8, "layers": 3}
    prior = Denoiser("reddiff_pl.priors.FFDNet", arguments, str(tmp_path / f"w.{kind}"), shape=(3, 16, 16))
    assert all(
        torch.equal(prior.network.state_dict()[name], value) for name, value in network.state_dict().items()
    )


@pytest.mark.parametrize(
    ("content", "says"), [(WEB_PAGE, "a web page"), (POINTER, "git lfs"), (b"", "an empty file")]
)
def test_weights_that_are_none(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^model\.prior\.init_args\.weights: cannot load .*{says}"):
        Denoiser("reddiff_pl.priors.FFDNet", weights=str(tmp_path / "w.pth"), shape=(3, 16, 16))


def test_quantised_weights_of_a_denoiser(tmp_path: Path) -> None:
    network = FFDNet(width=8, layers=3)
    torch.save({k: (100 * v).to(torch.int8) for k, v in network.state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"model\.0\.weight holds whole numbers"):
        Denoiser("reddiff_pl.priors.FFDNet", {"width": 8, "layers": 3}, str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    "schedule",
    [
        {"beta_start": "x"},
        {"num_train_timesteps": 0},
        {"num_train_timesteps": -5},
        {"trained_betas": [0.1, "x"]},
    ],
)
def test_schedules_that_are_none(tmp_path: Path, schedule: dict) -> None:
    folder = tmp_path / "net"
    tiny_unet(folder)
    (folder / "scheduler_config.json").write_text(json.dumps(schedule))
    with pytest.raises(ConfigError, match=r"^model\.prior: the schedule"):
        UNet(str(folder))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("nan", "NaN or infinite values, in tensor conv_norm_out.bias, and 1 more"),
        ("inf", "NaN or infinite values, in tensor conv_norm_out.bias, and 1 more"),
        ("int8", "holds whole numbers; quantised weights cannot be used"),
        ("pickle", "weights_only=True"),
        ("nothing", "no diffusion_pytorch_model.safetensors"),
        ("page", "is a web page"),
        ("pointer", "git lfs pull"),
        ("config page", "is a web page"),
        ("sample_size=null", "sample_size is None"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, how: str, says: str) -> None:
    tiny_unet(tmp_path)
    spoil(tmp_path, how)
    with pytest.raises(ConfigError) as caught:
        UNet(str(tmp_path))
    assert says in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"in_channels": 6}, "in_channels is 6 and out_channels 3"),
        ({"class_embed_type": "timestep"}, "class_embed_type is timestep"),
        ({"class_embed_type": "identity"}, "class_embed_type is identity"),
    ],
)
def test_networks_that_are_no_priors(tmp_path: Path, config: dict, says: str) -> None:
    tiny_unet(tmp_path, **config)
    with pytest.raises(ConfigError) as caught:
        UNet(str(tmp_path))
    assert says in str(caught.value) and "config.json" in str(caught.value)


def test_a_variant_alone_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = tiny_unet(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    network.half().save_pretrained(tmp_path, variant="fp16")
    prior = UNet(str(tmp_path))
    assert "weights in fp16 alone" in caplog.text
    expected = network.float().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in prior.network.state_dict().items())


def test_nothing_is_begun_with_weights_that_are_not_finite(reddiff, tmp_path: Path) -> None:
    tiny_unet(tmp_path / "prior")
    spoil(tmp_path / "prior", "nan")
    shard = write_shard(tmp_path / "a.tar", [("a", {"png": png(np.zeros((16, 16, 3), np.uint8))})])
    options = [*TASK, *SHORT, "--model.prior.init_args.path", tmp_path / "prior", "--data.shards", shard]
    code, printed = reddiff("restore", *options, "--out", tmp_path / "out")
    assert code == 2 and "conv_norm_out.bias" in printed and "Traceback" not in printed
    assert not list(tmp_path.rglob("out/**/*.tar*"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (WEB_PAGE, "a web page"),
        (POINTER, "git lfs pull"),
        (b"\xef\xbb\xbf <HTML>", "a web page"),
        (b'{"error": "not found"}', "a JSON text"),
        (b"", "truncated"),
    ],
)
def test_files_that_are_no_checkpoints(reddiff, tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "16x16.pt"
    path.write_bytes(content)
    code, printed = reddiff("prior", "import", path, "--out", tmp_path / "out")
    assert code == 2 and says in printed and printed.count("\n") == 1 and str(path) in printed


def test_wrappers_prefixes_and_long_schedules(reddiff, tmp_path: Path) -> None:
    """What a trainer put around the tensors is taken off, and said; so is what was assumed."""
    plain, wrapped = tmp_path / "16x16.pt", tmp_path / "wrapped" / "16x16.pt"
    wrapped.parent.mkdir()
    checkpoint(plain)
    tensors = torch.load(plain, weights_only=True)
    torch.save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}, "epoch": 3}, wrapped)
    command = ["--head-channels=16", "--timesteps=4000"]
    for path in (plain, wrapped):
        code, printed = reddiff("prior", "import", path, "--out", path.with_suffix(""), *command)
        assert code == 0, printed
        assert ("'state_dict'" in printed and "'module.'" in printed) == (path == wrapped)
        assert "linear schedule of 4000 steps" in printed and "assumed" in printed
    one, other = (load_file(path.with_suffix("") / WEIGHTS) for path in (plain, wrapped))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    prior = UNet(str(plain.with_suffix("")))
    assert len(prior.abar) == 4000
    short = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)  # the same noise in the end, in more steps
    assert prior.abar[-1].log().item() == pytest.approx((1 - short).log().sum().item(), rel=0.02)


def test_an_import_of_weights_that_are_not_finite(reddiff, tmp_path: Path) -> None:
    path = tmp_path / "16x16.pt"
    checkpoint(path)
    tensors = torch.load(path, weights_only=True)
    tensors["out.2.weight"].view(-1)[0] = torch.nan
    torch.save(tensors, path)
    code, printed = reddiff("prior", "import", path, "--out", tmp_path / "out", "--head-channels=16")
    assert code == 2 and f"{path}: the weights hold NaN" in printed and "out.2.weight" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("channels", "expected"), [(3, 0), (1, 0)])
def test_a_visible_device_that_is_none(
    reddiff, tmp_path: Path, monkeypatch, channels: int, expected: int
) -> None:
    """CUDA_VISIBLE_DEVICES=-1 means the CPU, with --trainer.devices too."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    tiny_unet(tmp_path / "prior", in_channels=channels, out_channels=channels)
    shape = (16, 16, 3) if channels == 3 else (16, 16)
    shard = write_shard(tmp_path / "a.tar", [("a", {"png": png(np.zeros(shape, np.uint8))})])
    options = [*TASK[:2], *SHORT, "--model.prior.init_args.path", tmp_path / "prior", "--data.shards", shard]
    code, printed = reddiff("restore", *options, "--out", tmp_path / "out")
    assert code == expected, printed
    assert restored_keys(tmp_path / "out" / "shards" / "a.tar") == ["a"]
