"""Several restorations of one measurement, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def spread(restore: Callable[[int], Tensor], num_samples: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Restore a batch several times, with independent noise.

    Args:
        restore: gives restoration i of the batch, (B, C, H, W) in [-1, 1], not clipped.
        num_samples: how many, at least 2.

    Returns:
        their mean, (B, C, H, W); the standard deviation of each pixel on the [0, 1] scale, like it; the restorations.
    """
    samples = [restore(i) for i in range(num_samples)]
    std, mean = torch.std_mean(torch.stack(samples), dim=0)
    return mean, std / 2, samples
