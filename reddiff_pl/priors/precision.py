"""What networks compute in: what the options called precision mean under torch's autocast, and which attention."""

from __future__ import annotations

import contextlib
import itertools

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

DTYPES = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast for `bf16` and `16`, nothing for `32`."""
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


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
