"""What the metrics make of images before they look at them."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of ITU-R BT.601, as Pillow's grey


def unit(images: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images on the [0, 1] scale.

    Args:
        images: uint8, or floats that are on it already.
        dtype: of the result.
    """
    return images.to(dtype) / 255 if images.dtype == torch.uint8 else images.to(dtype)


def luminance(images: Tensor) -> Tensor:
    """Luminance on the [0, 1] scale, float64 (B, H, W), of images (B, C, H, W), C 1 or 3."""
    values = unit(images)
    if values.shape[1] == 1:
        return values[:, 0]
    return torch.einsum("bchw,c->bhw", values, torch.tensor(LUMA, dtype=values.dtype, device=values.device))


def rgb(images: Tensor) -> Tensor:
    """Grey images (B, 1, H, W) as (B, 3, H, W); those of three channels as they are."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
