"""bf16 on a CPU: how far it is from float32, and that nothing but a sample's own data decides its bits."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import error, noise, tiny_unet
from torch import Tensor

from reddiff_pl.priors import UNet
from reddiff_pl.priors.precision import multiplies_bf16

pytestmark = pytest.mark.usefixtures("one_thread")

T = torch.tensor([20, 300, 800])
CPU = torch.device("cpu")


def mean_colour(eps: Tensor) -> Tensor:
    return eps.mean((2, 3))


@torch.no_grad()
def test_the_ends_are_exact() -> None:
    """Without, the last convolution's rounded weights are a colour cast, and the noisy image is rounded as well."""
    x = noise(3, 3, 64, 64)
    exact, half = UNet(precision="32").eps(x, T), UNet(precision="bf16").eps(x, T)
    with torch.autocast("cpu", torch.bfloat16):
        network: Any = UNet(precision="32").network
        for conv in (network.conv_in, network.conv_out):
            del conv.forward  # as diffusers has it
        plain = network(x, T).sample.float()
    assert half.dtype == torch.float32
    assert not torch.equal(half, half.bfloat16().float()), "nor is the result rounded"
    assert 1e-4 < error(half, exact) < 0.7 * error(plain, exact)
    assert error(mean_colour(half), mean_colour(exact)) < 0.5 * error(mean_colour(plain), mean_colour(exact))


@torch.no_grad()
def test_companions_do_not_count() -> None:
    """Not a bit of a sample's eps changes with the others of its batch, or with its place."""
    prior, x = UNet(precision="bf16"), noise(3, 3, 64, 64)
    eps = prior.eps(x, T)
    others = noise(3, 3, 64, 64, seed=1)
    others[2] = x[0]
    assert torch.equal(prior.eps(others, T.flip(0))[2], eps[0])
    assert torch.equal(prior.eps(x, T), eps)


@torch.no_grad()
def test_auto_is_what_the_processor_has(tmp_path: Path) -> None:
    """And what a run writes down is what was computed."""
    info = Path("/proc/cpuinfo")
    if info.exists() and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        flags = set(info.read_text().split())
        has = bool(flags & {"avx512_bf16", "amx_bf16"}) and "ATEN_CPU_CAPABILITY" not in os.environ
        assert multiplies_bf16(CPU) == has
    tiny_unet(tmp_path)
    prior, x = UNet(str(tmp_path)), noise(3, 3, 16, 16)
    name = prior.precision_on(CPU)
    assert name == ("bf16" if multiplies_bf16(CPU) else "32")
    assert torch.equal(prior.eps(x, T), UNet(str(tmp_path), precision=name).eps(x, T))  # type: ignore[arg-type]


def test_gradients_come_through(tmp_path: Path) -> None:
    tiny_unet(tmp_path)
    gradients = []
    for precision in ("32", "bf16"):
        x = noise(3, 3, 16, 16).requires_grad_()
        UNet(str(tmp_path), precision=precision).eps(x, T).square().sum().backward()
        assert x.grad is not None
        gradients.append(x.grad)
    assert 1e-5 < error(gradients[1], gradients[0]) < 0.05


@torch.no_grad()
def test_a_copy_computes_with_its_own_weights(tmp_path: Path) -> None:
    tiny_unet(tmp_path)
    prior, x = UNet(str(tmp_path), precision="bf16"), noise(3, 3, 16, 16)
    before = prior.eps(x, T)
    other = copy.deepcopy(prior)
    assert torch.equal(other.eps(x, T), before)
    other.network.conv_out.weight.zero_()  # type: ignore[union-attr,operator]
    assert torch.equal(prior.eps(x, T), before)
    assert not torch.equal(other.eps(x, T), before)
