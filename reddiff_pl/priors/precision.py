"""What networks compute in: what the options called precision mean under torch's autocast, and which attention."""

from __future__ import annotations

import contextlib
import itertools
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

DTYPES = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast for `bf16` and `16`, nothing for `32`."""
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device has instructions that multiply in bf16, and this torch uses them.

    Elsewhere bf16 is emulated: as exact as here, and slower than float32. A processor without its AVX-512
    (`ATEN_CPU_CAPABILITY=avx2`) counts as one that has none.
    """
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return torch.backends.cpu.get_cpu_capability() == "AVX512" and bool(
            has.get("avx512_bf16") or has.get("amx_bf16")
        )
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def exact_ends(network: nn.Module) -> None:
    """Let the first and the last convolution of a network multiply in float32 where a CPU's autocast is on.

    Rounding the noisy image and the last few weights makes most of the error in bf16, the latter as a colour cast, see
    docs/benchmarks.md. Tensors and their names stay as they are.

    Args:
        network: with `conv_in` and `conv_out`, as diffusers' UNets have them; others are left alone.
    """
    for name, forward in (("conv_in", _first), ("conv_out", _last)):
        conv = getattr(network, name, None)
        if isinstance(conv, nn.Conv2d) and conv.weight.dtype == torch.float32:
            # a method of the instance, so that copies of the network have their own
            conv.forward = MethodType(forward, conv)  # type: ignore[method-assign]


def _first(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What follows is in 16 bits: a sum with float32 would make all that comes after it float32."""
    output = _last(conv, x)
    return output.to(torch.get_autocast_dtype("cpu")) if _autocasts(x) else output


def _last(conv: nn.Conv2d, x: Tensor) -> Tensor:
    if not _autocasts(x):
        return nn.Conv2d.forward(conv, x)
    with torch.autocast("cpu", enabled=False):
        return nn.Conv2d.forward(conv, x.float())


def _autocasts(x: Tensor) -> bool:
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu")


def computing_dtype(network: nn.Module, x: Tensor, precision: str) -> torch.dtype:
    """What images x come to a network in: float32; float64 where its weights are, or where it has none and x is."""
    tensors = itertools.chain(network.parameters(), network.buffers())
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    analytic = not dtypes and DTYPES.get(precision) is None
    return x.dtype if analytic or dtypes == {torch.float64} else torch.float32


def sound_attention(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Attention by other ways than cuDNN's where gradients are asked for: its own are NaN for some shapes on Hopper.

    Args:
        x: what the network sees; only its device counts.

    References:
        cuDNN backward returns NaN grad_q on H100/H200 | https://github.com/pytorch/pytorch/issues/196678
        CUDNN SDPA backward results in NaN outputs | https://github.com/NVIDIA/cudnn-frontend/issues/160
    """
    if not (x.is_cuda and torch.is_grad_enabled()):
        return contextlib.nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
