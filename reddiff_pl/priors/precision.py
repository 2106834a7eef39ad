"""What the options called precision mean for networks that run under torch's autocast."""

from __future__ import annotations

import torch

DTYPES = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast for `bf16` and `16`, nothing for `32`."""
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
