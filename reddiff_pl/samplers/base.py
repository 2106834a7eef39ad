"""The contract of all samplers, and the plain loop that drives one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.errors import Stopped
from reddiff_pl.priors.base import Prior
from reddiff_pl.priors.tiled import pixels_at_once
from reddiff_pl.samplers.noise import Noise
from reddiff_pl.samplers.options import check_option

Self = TypeVar("Self", bound="Sampler")
Held = TypeVar("Held", bound="ProblemState")

_OF_A_LATENT = 64  # pixels: autoencoders take 8x8 to one


@dataclass
class Problem:
    """What a batch asks of a sampler: the arguments of `Sampler.init`, which says what each is."""

    y: Tensor
    physics: Physics
    prior: Prior
    noise: Noise
    label: Tensor | None = None
    x_init: Tensor | None = None
    noise_std: Tensor | None = None

    def start(self) -> Tensor:
        """x_init, or A_dagger(y) where there is none, (B, C, H, W)."""
        return self.physics.A_dagger(self.y) if self.x_init is None else self.x_init

    def known_noise(self) -> Tensor:
        """noise_std, (B,); zeros where it is not known."""
        return torch.zeros(len(self.y), device=self.y.device) if self.noise_std is None else self.noise_std


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


@dataclass
class ProblemState(State):
    """State of a sampler that needs its problem at every step.

    Attributes:
        y, physics, prior, noise, label: as `Sampler.init` got them.
    """

    y: Tensor
    physics: Physics
    prior: Prior
    noise: Noise
    label: Tensor | None

    @classmethod
    def begin(cls: type[Held], problem: Problem, x: Tensor, steps: int, **own: Any) -> Held:
        """Before the first of `steps` steps, at x (B, C, H, W); `own` are the fields of the subclass."""
        return cls(
            x=x,
            x0_hat=x,
            t=torch.full((len(x),), -1, device=x.device),
            step=0,
            steps=steps,
            y=problem.y,
            physics=problem.physics,
            prior=problem.prior,
            noise=problem.noise,
            label=problem.label,
            **own,
        )

    def normal(self, name: str) -> Tensor:
        """This step's standard normal draw `name`, like x."""
        return self.noise.normal(name, self.x.shape[1:], self.x.dtype, self.step)

    def eps(self, x_t: Tensor) -> Tensor:
        """The network's eps at x_t of this state's t, like x_t. Differentiable where grad is enabled.

        Args:
            x_t: (B, C, H, W), or k times as many, in the order of k batches: one call of the network where they are
                few, so that small batches fill it; k where they are many, which one would only take more memory for.
        """
        times = len(x_t) // len(self.t)
        pixels = x_t[:, 0].numel() * (_OF_A_LATENT if self.prior.latent else 1)
        if times > 1 and pixels > pixels_at_once(x_t.device):
            return torch.cat([self.eps(batch) for batch in x_t.split(len(self.t))])
        label = None if self.label is None else self.label.repeat(times)
        return self.prior.eps(x_t, self.t.repeat(times), label).to(x_t.dtype)


class Sampler:
    """Restores a batch in steps. Every tensor of its state leads with B; no image sees another.

    A subclass implements `begin`, `step` and `with_evaluations`.
    """

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
        return self.begin(Problem(y, physics, prior, noise, label, x_init, noise_std))

    def begin(self, problem: Problem) -> State:
        """The state before the first step of a problem."""
        raise NotImplementedError

    def with_evaluations(self: Self, evaluations: int) -> Self:
        """The same sampler with steps for `evaluations` forward passes of the network an image, or few less.

        A pass with its gradient counts as one and costs about three.

        Args:
            evaluations: at least as many as the sampler's smallest step takes.

        Raises:
            ConfigError: too few.
        """
        raise NotImplementedError

    def _changed(self: Self, **attributes: Any) -> Self:
        """A copy with other attributes."""
        other = copy.copy(self)
        vars(other).update(attributes)
        return other

    def step(self, state: State) -> State:
        """The state one step later."""
        raise NotImplementedError


def steps_for(evaluations: int, each: int = 1) -> int:
    """How many steps of `each` evaluations fit into so many.

    Raises:
        ConfigError: none.
    """
    check_option("evaluations", evaluations, each, prefix="--")
    return evaluations // each


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
