"""Tiny random networks that the tests of priors share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor

WEIGHTS = "diffusion_pytorch_model.safetensors"


def tiny_unet(
    folder: Path, seed: int = 0, scheduler: dict[str, Any] | None = None, **config: Any
) -> UNet2DModel:
    """A random network, saved to a folder; with a scheduler_config.json beside it where `scheduler` is given."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "sample_size": 16,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }
    network = UNet2DModel(**(options | config)).eval()
    network.save_pretrained(folder, safe_serialization=True)
    assert (folder / WEIGHTS).is_file()
    if scheduler is not None:
        (folder / "scheduler_config.json").write_text(json.dumps(scheduler))
    return network


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(value: Tensor, expected: Tensor) -> float:
    """Relative, in the norm of all numbers."""
    return float((value.double() - expected.double()).norm() / expected.double().norm())
