"""What the options called precision mean for networks that run under torch's autocast."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

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
