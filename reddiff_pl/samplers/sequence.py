"""Warm starts: samplers one after another, each beginning where the one before ended."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.samplers.base import Problem, Sampler, State
from reddiff_pl.samplers.noise import Noise


@dataclass
class SequenceState(State):
    """The running sampler's state, and what the next ones begin with.

    Attributes:
        inner: the running sampler's own.
        stage: which sampler runs.
        problem: of the first.
    """

    inner: State
    stage: int
    problem: Problem


class Sequence(Sampler):
    """Runs several samplers; the result of one is the start of the next.

    A few steps of a sampler that finds the coarse image soon, or of RED-diff on a coarse grid, then RED-diff from a
    small `t_max` on. Evaluations add up.

    Args:
        samplers: at least one, in order.

    Raises:
        ConfigError: there is none.
    """

    def __init__(self, samplers: list[Sampler]) -> None:
        if not samplers:
            raise ConfigError("model.sampler.init_args.samplers: name at least one")
        self.samplers = samplers

    def with_evaluations(self, evaluations: int) -> Sequence:
        """Shared out in proportion to the stages' own steps."""
        weights = [getattr(sampler, "steps", 1) for sampler in self.samplers]
        left, total, stages = evaluations, sum(weights), []
        for sampler, weight in zip(self.samplers, weights, strict=True):
            share = round(left * weight / total)
            stages.append(sampler.with_evaluations(share))
            left, total = left - share, total - weight
        return Sequence(stages)

    def begin(self, problem: Problem) -> SequenceState:
        inner = self.samplers[0].begin(problem)
        # all stages, so that options that do not fit stop before any work
        later = [sampler.begin(replace(problem, x_init=inner.x)).steps for sampler in self.samplers[1:]]
        return SequenceState(
            x=inner.x,
            x0_hat=inner.x0_hat,
            t=inner.t,
            step=0,
            steps=inner.steps + sum(later),
            inner=inner,
            stage=0,
            problem=problem,
        )

    def step(self, state: SequenceState) -> SequenceState:  # type: ignore[override]
        before = state.inner.step
        state.inner = self.samplers[state.stage].step(state.inner)
        state.step += state.inner.step - before
        state.x, state.x0_hat, state.t = state.inner.x, state.inner.x0_hat, state.inner.t
        if state.inner.step >= state.inner.steps:
            if state.stage + 1 == len(self.samplers):
                state.steps = state.step  # a stage may have ended early
            else:
                state.stage += 1
                noise = _Later(state.problem.noise, state.step)
                problem = replace(state.problem, noise=noise, x_init=state.x)
                state.inner = self.samplers[state.stage].begin(problem)
        return state


class _Later:
    """Draws of later steps, so that no stage sees the noise of another."""

    def __init__(self, noise: Noise, steps: int) -> None:
        self.noise, self.steps = noise, steps

    def normal(
        self, name: str, shape: SequenceOf[int], dtype: torch.dtype, step: int = 0, k: int = 0
    ) -> Tensor:
        return self.noise.normal(name, shape, dtype, step + self.steps, k)
