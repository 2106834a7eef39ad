"""Feature networks that cost nothing, and end their process when told to."""

from __future__ import annotations

import os
import signal

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Twelve features of a fixed random projection, and a classifier of ten classes.

    Args:
        dies_at: number of the call in which the process gets a signal; 0: never.
        by: which signal.
    """

    name = "small"

    def __init__(self, dies_at: int = 0, by: str = "SIGKILL") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("projection", torch.randn(48, 12, generator=generator) / 48**0.5)
        self.register_buffer("head", torch.randn(12, 10, generator=generator))
        self.dies_at, self.by, self.calls = dies_at, by, 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.dies_at:
            os.kill(os.getpid(), signal.Signals[self.by])
        # in float64: float32's last bit depends on the batch and on the threads, and the tests compare to 1e-9
        pooled = nn.functional.adaptive_avg_pool2d(images.double() / 255, 4)
        return (pooled.flatten(1) @ self.projection.double()).relu().float()

    def logits(self, features: Tensor) -> Tensor:
        return features @ self.head


class Flat(nn.Module):
    """No features but an image."""

    def forward(self, images: Tensor) -> Tensor:
        return images
