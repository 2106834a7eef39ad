"""Training a network for so many seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn


def train(
    network: nn.Module,
    loss: Callable[[], Tensor],
    after: Callable[[int], None],
    seconds: float,
    lr: float,
    warmup: int,
) -> list[float]:
    """Descend by Adam, its step size rising over the first steps and falling as a cosine; the losses.

    Args:
        network: whose parameters are trained, in place.
        loss: draws a batch, and gives its loss.
        after: what is done after each step, told how many there were: averages.
        seconds: to train for.
        lr: the largest step size.
        warmup: steps over which it rises.
    """
    adam = torch.optim.AdamW(network.parameters(), lr, (0.9, 0.99), weight_decay=0.0)
    losses: list[Tensor] = []
    began = time.perf_counter()
    while (share := (time.perf_counter() - began) / seconds) < 1:
        for group in adam.param_groups:
            group["lr"] = lr * min(1.0, (len(losses) + 1) / warmup) * (1 + math.cos(math.pi * share)) / 2
        found = loss()
        adam.zero_grad()
        found.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        losses.append(found.detach())
        if len(losses) % 10 == 0:
            float(losses[-1])  # the clock is the device's
        with torch.no_grad():
            after(len(losses))
    return torch.stack(losses).tolist()
