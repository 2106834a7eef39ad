"""UNets from diffusers folders: the bundled one, and tiny random ones for what folders may hold."""

import math
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import WEIGHTS, noise
from networks import tiny_unet as tiny
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import interpolate

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors import UNet
from reddiff_pl.priors.forward import few_sizes


@pytest.fixture(scope="module")
def bundled() -> UNet:
    return UNet(precision="32")


@pytest.fixture
def contacted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The addresses that were asked for over the network; every attempt fails."""
    addresses: list[Any] = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        addresses.append(args)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return addresses


def abar(t: int, start: float = 1e-4, end: float = 0.02, T: int = 1000) -> float:
    return math.prod(1 - (start + (end - start) * s / (T - 1)) for s in range(t + 1))


def smooth_images(count: int) -> Tensor:
    return interpolate(0.4 * noise(count, 3, 4, 4), (64, 64), mode="bicubic").clamp(-1, 1)


def test_bundled_prior_needs_no_network(contacted: list[Any]) -> None:
    prior = UNet()
    assert prior.shape == (3, 64, 64)
    assert not contacted
    assert not any(p.requires_grad for p in prior.parameters())
    assert not any(module.training for module in prior.network.modules())


def test_schedule(bundled: UNet) -> None:
    assert bundled.abar.dtype == torch.float64 and bundled.abar.shape == (1000,)
    for t in (0, 1, 400, 999):
        assert bundled.abar[t].item() == pytest.approx(abar(t), rel=1e-12)


def test_other_schedules(tmp_path: Path) -> None:
    """The length comes from the network's own configuration."""
    tiny(tmp_path, num_train_timesteps=50)
    prior = UNet(str(tmp_path), beta_start=0.01, beta_end=0.3)
    assert prior.abar.tolist() == pytest.approx([abar(t, 0.01, 0.3, 50) for t in range(50)], rel=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eps_is_float32_and_finite(bundled: UNet, dtype: torch.dtype) -> None:
    t = torch.tensor([0, 999])
    eps = bundled.eps(noise(2, 3, 64, 64).to(dtype), t)
    assert eps.dtype == torch.float32 and eps.shape == (2, 3, 64, 64) and eps.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize(("t", "bound"), [(100, 0.1), (400, 0.05)])
def test_bundled_prior_predicts_the_noise(bundled: UNet, t: int, bound: float) -> None:
    """On smooth images nearly all of it; guessing nothing has a mean square error of 1."""
    x0, z, a = smooth_images(4), noise(4, 3, 64, 64, seed=1), abar(t)
    eps = bundled.eps(math.sqrt(a) * x0 + math.sqrt(1 - a) * z, torch.full((4,), t))
    assert (eps - z).square().mean((1, 2, 3)).max() < bound


@torch.no_grad()
@pytest.mark.parametrize(("out_channels", "size"), [(3, 16), (6, 16), (6, (8, 24))])
def test_eps_is_the_networks_first_channels(tmp_path: Path, out_channels: int, size: Any) -> None:
    """With a learned variance the network gives twice the channels."""
    network = tiny(tmp_path, out_channels=out_channels, sample_size=size)
    prior = UNet(str(tmp_path), precision="32")
    assert prior.shape == ((3, 16, 16) if size == 16 else (3, 8, 24))
    x_t, t = noise(2, *prior.shape), torch.tensor([3, 700])
    whole = network(x_t, t).sample
    assert whole.shape[1] == out_channels
    torch.testing.assert_close(prior.eps(x_t, t), whole[:, :3], rtol=0, atol=1e-5)
    assert not torch.allclose(whole[:1, :3], network(x_t[:1], t[1:]).sample[:, :3], atol=1e-3)  # t counts


@torch.no_grad()
def test_labels(tmp_path: Path) -> None:
    """They reach a class-conditional network and are of no use to another."""
    x_t, t, label = noise(2, 3, 16, 16), torch.tensor([3, 700]), torch.tensor([1, 4])
    network = tiny(tmp_path / "classes", num_class_embeds=5)
    prior = UNet(str(tmp_path / "classes"), precision="32")
    expected = network(x_t, t, class_labels=label).sample
    torch.testing.assert_close(prior.eps(x_t, t, label), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(prior.eps(x_t, t, label.flip(0)), expected, atol=1e-3)

    tiny(tmp_path / "none")
    prior = UNet(str(tmp_path / "none"))
    assert torch.equal(prior.eps(x_t, t, label), prior.eps(x_t, t))


@torch.no_grad()
def test_bf16_is_close_to_float32(bundled: UNet) -> None:
    """To the precision of bf16, 8 bits, and not by computing in float32 after all."""
    half = UNet(precision="bf16")
    x_t, t = noise(1, 3, 64, 64), torch.tensor([500])
    full, short = bundled.eps(x_t, t), half.eps(x_t, t)
    assert short.dtype == torch.float32
    assert 1e-5 < (short - full).norm() / full.norm() < 0.03
    # 937 is no bf16 number: rounded to one, it would be 936 and the two calls equal
    assert not torch.equal(half.eps(x_t, torch.tensor([937])), half.eps(x_t, torch.tensor([936])))


def broken(tmp_path: Path, how: str) -> Path:
    """A folder that is not a usable model."""
    folder = tmp_path / how.replace(" ", "_")
    if how == "missing":
        return folder
    tiny(folder)
    weights = folder / WEIGHTS
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "damaged config":
        (folder / "config.json").write_text('{"sample_size": ')
    elif how == "no weights":
        weights.unlink()
    elif how == "pickled weights":  # loading them would run whatever code they hold
        torch.save(load_file(weights), folder / "diffusion_pytorch_model.bin")
        weights.unlink()
    elif how == "truncated header":
        weights.write_bytes(weights.read_bytes()[:20])
    elif how == "truncated tensors":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "empty file":
        weights.write_bytes(b"")
    else:
        tensors = load_file(weights)
        if how == "tensor missing":
            del tensors["conv_out.weight"]
        else:
            tensors["conv_out.weight"] = tensors["conv_out.weight"][:1].clone()
        save_file(tensors, weights, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "how",
    [
        "missing",
        "no config",
        "damaged config",
        "no weights",
        "truncated header",
        "truncated tensors",
        "empty file",
        "tensor of another shape",
        pytest.param(
            "tensor missing",
        ),
        pytest.param(
            "pickled weights",
        ),
    ],
)
def test_unusable_folders(tmp_path: Path, how: str, contacted: list[Any]) -> None:
    """One line that names the option and the path; nothing is looked for elsewhere."""
    folder = broken(tmp_path, how)
    with pytest.raises(ConfigError) as caught:
        UNet(str(folder))
    message = str(caught.value)
    assert message.startswith("model.prior.init_args.path: ")
    assert str(folder) in message
    assert "\n" not in message
    assert not contacted


def test_a_hub_id_without_hub_is_a_missing_folder(contacted: list[Any]) -> None:
    with pytest.raises(ConfigError, match=r"google/ddpm-cifar10-32.*hub: true"):
        UNet("google/ddpm-cifar10-32")
    assert not contacted


def test_fingerprint(tmp_path: Path, bundled: UNet) -> None:
    """Stable over loads and places on disk, another one when a single weight changes by its last bit."""
    assert bundled.fingerprint() == UNet(precision="32").fingerprint()
    assert len(bundled.fingerprint()) == 64

    tiny(tmp_path / "one")
    tiny(tmp_path / "same")
    tiny(tmp_path / "changed")
    weights = tmp_path / "changed" / WEIGHTS
    tensors = load_file(weights)
    bias = tensors["conv_in.bias"]
    bias[-1] = torch.nextafter(bias[-1], torch.tensor(math.inf))
    save_file(tensors, weights, metadata={"format": "pt"})
    one, same, changed = (UNet(str(tmp_path / name)).fingerprint() for name in ("one", "same", "changed"))
    assert one == same != changed


def test_unknown_precision(tmp_path: Path) -> None:
    tiny(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.prior\.init_args\.precision"):
        UNet(str(tmp_path), precision="bfloat16")  # type: ignore[arg-type]


def test_eight_bits_need_their_kernels() -> None:
    """Refused before any work where they cannot be had, with what is missing."""
    for options in ({"fused": False}, {"compile": True}):
        with pytest.raises(
            ConfigError, match=r"init_args\.precision: fp8 needs fused: true and compile: false"
        ):
            UNet(precision="fp8", **options)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"init_args\.precision: fp8 needs a CUDA device"):
            UNet(precision="fp8")


@pytest.mark.parametrize("change", [{"beta_end": 0.01}, {"precision": "bf16"}], ids=str)
def test_fingerprint_holds_all_that_the_prior_computes_with(tmp_path: Path, change: dict[str, Any]) -> None:
    tiny(tmp_path)
    assert UNet(str(tmp_path)).fingerprint() != UNet(str(tmp_path), **change).fingerprint()


@pytest.mark.parametrize("most", [1, 2, 6, 16, 256])
def test_few_sizes_of_calls(most: int) -> None:
    """Whatever the number of images, full batches and one smaller size, little of it padding."""
    seen: set[int] = set()
    for images in range(most, 5 * most + 1):
        sizes = few_sizes(images, most)
        assert max(sizes) == most and 0 <= sum(sizes) - images < max(most / 4, 1)
        seen |= set(sizes)
    assert len(seen) <= 2
    for images in range(1, most):
        sizes = few_sizes(images, most)
        assert max(sizes) <= most and 0 <= sum(sizes) - images <= images / 3
