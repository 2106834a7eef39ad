"""The contract of all samplers, and the plain loop that drives one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.errors import Stopped
from reddiff_pl.priors.base import Prior
from reddiff_pl.samplers.noise import Noise


@dataclass
class State:
    """Where a batch stands between two steps.

    Attributes:
        x: the estimate, (B, C, H, W) in [-1, 1], not clipped.
        x0_hat: the network's last guess of the clean image, like x.
        t: timestep last visited, long (B,); -1 before the first.
        step: steps done.
        steps: steps to do.
    """

    x: Tensor
    x0_hat: Tensor
    t: Tensor
    step: int
    steps: int


class Sampler:
    """Restores a batch in steps. Every tensor of its state leads with B; no image sees another."""

    def init(
        self,
        y: Tensor,
        physics: Physics,
        prior: Prior,
        noise: Noise,
        label: Tensor | None = None,
        x_init: Tensor | None = None,
        noise_std: Tensor | None = None,
    ) -> State:
        """The state before the first step.

        Args:
            y: measurements, (B, ...), in the operator's range.
            physics: the operator, its per-image parameters bound.
            prior: the diffusion model.
            noise: where every draw comes from.
            label: class labels, long (B,), for class-conditional priors.
            x_init: start, (B, C, H, W) in [-1, 1]; default: the sampler's own.
            noise_std: standard deviation of each measurement's noise, in y's own units, (B,); None: unknown.
        """
        raise NotImplementedError

    def step(self, state: State) -> State:
        """The state one step later."""
        raise NotImplementedError


def run(
    sampler: Sampler,
    y: Tensor,
    physics: Physics,
    prior: Prior,
    noise: Noise,
    label: Tensor | None = None,
    x_init: Tensor | None = None,
    noise_std: Tensor | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """Run all steps of a sampler; returns x, (B, C, H, W), not clipped.

    Args:
        callback: called after each step with (step, x, x0_hat); must not change them.
        should_stop: looked at before each step.

    Raises:
        Stopped: `should_stop` said so.
    """
    with torch.no_grad():
        state = sampler.init(y, physics, prior, noise, label, x_init, noise_std)
        while state.step < state.steps:
            if should_stop is not None and should_stop():
                raise Stopped
            before = state.step
            state = sampler.step(state)
            if callback is not None and state.step > before:
                callback(state.step, state.x, state.x0_hat)
    return state.x
