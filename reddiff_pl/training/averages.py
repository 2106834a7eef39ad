"""Exponential moving averages of the weights: what is evaluated and exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Averages:
    """One average of a network's weights for each decay.

    After step n a decay counts as min(decay, (1 + n) / (10 + n)), so that the beginning is forgotten soon.

    Args:
        network: whose weights are averaged; the averages start from them and live on the same device.
        decays: of each average, in [0, 1).
    """

    def __init__(self, network: nn.Module, decays: Sequence[float]) -> None:
        self._weights = list(network.state_dict().values())
        self.names = list(network.state_dict())
        self.decays = list(decays)
        self.tensors = [[w.detach().clone() for w in self._weights] for _ in decays]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after `step` steps in."""
        for decay, tensors in zip(self.decays, self.tensors, strict=True):
            torch._foreach_lerp_(tensors, self._weights, 1 - min(decay, (1 + step) / (10 + step)))

    def weights(self, i: int) -> dict[str, Tensor]:
        """One average as a state_dict."""
        return dict(zip(self.names, self.tensors[i], strict=True))

    def state_dict(self) -> list[dict[str, Tensor]]:
        return [self.weights(i) for i in range(len(self.decays))]

    @torch.no_grad()
    def load_state_dict(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Raises ValueError when there were another number of averages."""
        for i, state in zip(range(len(self.decays)), states, strict=True):
            for name, tensor in self.weights(i).items():
                tensor.copy_(state[name])
