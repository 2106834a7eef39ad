"""The dial between faithful and sharp: an estimate, renoised, and a sample of the posterior from there.

An estimate of least error is smooth where the measurement leaves details open. A sample has them: one of those that
could have been there, at the cost of some decibels. Renoised to level r, the estimate keeps what is coarser than the
noise; what is finer is drawn anew. So r is the dial: 0 leaves the estimate, a large r makes a sample of the posterior.

From x = estimate + noise of level r, level by level down to 0 (s is the next one, images divided by alpha):

    x0_hat = the network's guess of the image in x
    x0     = a guess, or a draw, of the images that x and the measurement leave open
    x      = x0 + sqrt(s^2 - c^2) (x - x0) / r + c n,     c = eta s sqrt(1 - s^2 / r^2)

What a sample adds at random costs its own square, twice the least error in all. A map that carries the estimate to an
image as those of the prior are costs less. `eta` is the share of chance: at 1 samples of the posterior, at 0 one map,
by the noise it begins with. And the noise that the measurement has is noise of that level already: with A = U S V^T,
a coefficient i that is measured with noise b_i = sigma / s_i, begins as

    y_i + sqrt(r^2 - b_i^2) n where b_i < r, and stays about y_i until s < b_i,
    x_i + r (y_i - x_i) / b_i where b_i > r: the noise that the estimate has taken out is put back, not other noise.

So denoising is the way from the measurement itself. On Gaussian fields, at eta 0, it ends at sqrt(P / (P + sigma^2)) y
of a mode of power P: the spectrum is the field's, at the least error that images with it can have.

With C_r = C r^2 / (C + r^2) what noise of level r leaves open of a Gaussian field of covariance C, that of photos
(`starts.py`), and z, of variance v_i = 1 / (1 / b_i^2 - 1 / r^2), what y_i says beyond x,

    x~ = x0_hat + C_r^1/2 n1,     x0 = x~ + K (z + v^1/2 n2 - V^T x~),     K = C_r V (V^T C_r V + v)^-1

so that what is measured informs what is not and few steps do: a step of any length is exact on that field. The last
step takes no draws, and none does below eta 1, where x0 is the mean; of measurements without noise x0 is then the
network's guess, and what is measured pulls twice: in its place, and in the noise x - x0_hat that is kept there. Photos
are not that field, and the network knows better. Operators that are linear but have no known decomposition use y and
its noise instead, and fresh noise at the start. Noise-free measurements are met exactly by the proximal step, which is
all that nonlinear operators have.

Levels are even in log r / (1 + r): few for what is coarse, and short steps where fine structure is decided, in which
the draws, as strong in a plain sky as in grass, weigh little.

From level 150 on nothing is left of the estimate: each sample of the posterior begins at noise alone, and several find
its modes.

What a sample adds to coarse structure costs most of the decibels and is seen least: `cut` keeps what is coarser as the
estimate has it. And of all images at some distance from the photos' own those nearest to the image lie between the
estimate and a sample: `share` is how far towards the sample.

A trained network takes a little more than the noise away, which forty steps add up to detail that is missing:
`epsilon_scale` times what it takes for noise is taken, but in the last step. Of the exact denoiser that is 1.

References:
    The Perception-Distortion Tradeoff | https://arxiv.org/abs/1711.06077
    Elucidating the Exposure Bias in Diffusion Models (epsilon scaling) | https://arxiv.org/abs/2308.15321
    MAP-RPS | https://arxiv.org/abs/2605.28711
    Fast sampling of Gaussian posteriors by Matheron's rule | https://arxiv.org/abs/2011.04026
    A Theory of the Distortion-Perception Tradeoff in Wasserstein Space | https://arxiv.org/abs/2107.02555
    Denoising Diffusion Restoration Models | https://arxiv.org/abs/2201.11793
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.physics.compose import is_linear
from reddiff_pl.physics.proximal import proximal
from reddiff_pl.physics.unit_range import on_symmetric_range
from reddiff_pl.priors.base import host_abar, per_image
from reddiff_pl.samplers.base import Problem, ProblemState, Sampler, steps_for
from reddiff_pl.samplers.coefficients import FIELD_STEPS, coefficients
from reddiff_pl.samplers.options import check_option
from reddiff_pl.samplers.starts import Field, coarse, regress
from reddiff_pl.samplers.timesteps import nearest_timestep

R_MIN = 0.02  # the last level: half a grey value of 8 bits
TOLERANCE = 1e-6  # weight of the guess where a noise-free measurement is met
LOCAL_VARIANCE = 0.05  # of images about the guess, for operators without that draw


@dataclass
class RenoiseState(ProblemState):
    """State with what the steps need. `x` is the noisy image over alpha; free of noise after the last step.

    Attributes:
        estimate: what was renoised, like x.
        noise_std: standard deviation of each measurement's noise, (B,); 0 where it is not known.
        some_clean, all_clean: whether any of them is 0, and whether all are.
        times: timesteps, descending.
        abar: abar of each, and a last 1.
        problem: operator, measurement and noise level on [-1, 1], where that makes the operator linear.
    """

    estimate: Tensor
    noise_std: Tensor
    some_clean: bool
    all_clean: bool
    times: list[int]
    abar: list[float]
    problem: tuple[Physics, Tensor, Tensor] = field(init=False)


def levels(abar: Tensor, steps: int, level: float) -> list[int]:
    """At most `steps` timesteps, descending, whose r_t fall from `level` to R_MIN, or half of a level below that.

    Args:
        abar: the prior's, (T,), on the CPU.
        steps: how many; less where they fall on one timestep.
        level: the first r.
    """
    first = min(level, math.sqrt((1 - float(abar[-1])) / float(abar[-1])))
    last = min(R_MIN, first / 2)
    ends = [r / (1 + r) for r in (first, last)]
    shares = [ends[0] * (ends[1] / ends[0]) ** (i / max(steps - 1, 1)) for i in range(steps)]
    return sorted({nearest_timestep(abar, share / (1 - share)) for share in shares}, reverse=True)


class Renoise(Sampler):
    """A sample of the posterior near an estimate: x_init, by default A_dagger(y). For any operator.

    Args:
        steps: noise levels, evenly in log r / (1 + r); one network evaluation each, less where they fall on one
            timestep.
        level: the noise r = sigma_t / alpha_t that the estimate gets, at least 1e-3; the prior's largest where that is
            less.
        cut: what is coarser than so many cycles a pixel stays as the estimate has it, half of it at the cut; 0:
            nothing.
        eta: share of chance, 0 to 1: at 1 a sample of the posterior, at 0 the same way for the same noise at its
            start, nearer to the image.
        share: of what is added to the estimate, 0 to 1.
        epsilon_scale: factor of the network's noise, .5 to 1.5; less leaves more detail.
        inner_steps: iterations of the proximal step, for operators whose decomposition is not known.

    Raises:
        ConfigError: an option is out of its range.
    """

    def __init__(
        self,
        steps: int = 40,
        level: float = 1.5,
        cut: float = 0.0,
        eta: float = 1.0,
        share: float = 1.0,
        epsilon_scale: float = 1.0,
        inner_steps: int = 10,
    ) -> None:
        check_option("steps", steps, 1)
        check_option("level", level, 1e-3)
        check_option("cut", cut, 0, 1)
        check_option("eta", eta, 0, 1)
        check_option("share", share, 0, 1)
        check_option("epsilon_scale", epsilon_scale, 0.5, 1.5)
        check_option("inner_steps", inner_steps, 1)
        self.steps, self.level, self.cut, self.eta, self.inner_steps = steps, level, cut, eta, inner_steps
        self.share, self.epsilon_scale = share, epsilon_scale

    def with_evaluations(self, evaluations: int) -> Renoise:
        return self._changed(steps=steps_for(evaluations))

    def begin(self, problem: Problem) -> RenoiseState:
        schedule, noise_std = host_abar(problem.prior), problem.known_noise()
        times = levels(schedule, self.steps, self.level)
        estimate = problem.start()
        return RenoiseState.begin(
            problem,
            estimate,
            len(times),
            estimate=estimate,
            noise_std=noise_std,
            some_clean=not bool((noise_std > 0).all()),
            all_clean=not bool((noise_std > 0).any()),
            times=times,
            abar=[*schedule[times].tolist(), 1.0],
        )

    def step(self, state: RenoiseState) -> RenoiseState:  # type: ignore[override]
        n = state.step
        r, s = (math.sqrt((1 - a) / a) for a in state.abar[n : n + 2])
        if n == 0:  # not in `begin`, where the operator may not be bound yet
            state.problem = on_symmetric_range(state.physics, state.y, state.noise_std, state.x)
        known = coefficients(*state.problem, state.x, r)
        if n == 0:
            noise = state.normal("init")
            state.x = known.renoised(state.x, noise) if known else state.x + r * noise
        state.t = torch.full_like(state.t, state.times[n])
        eps = state.eps(state.x / math.sqrt(1 + r**2)) * (self.epsilon_scale if s else 1.0)
        state.x0_hat = state.x - r * eps
        if known:
            x0 = state.x0_hat
            if self.eta == 1 or not state.all_clean:
                draws = [state.normal(name) for name in ("z", "y")] if s and self.eta == 1 else []
                x0 = known.informed(x0, state.x, *draws)
            if self.eta < 1:
                x0 = torch.where(known.clean, state.x0_hat, x0)
            if s:
                state.x = known.onwards(x0, state.x0_hat, state.x, s, self.eta, state.normal("n"))
        else:
            x0, noise = self._near(state, eps, r, self.eta if s else 0.0)
            if s:
                fresh = self.eta * math.sqrt(1 - s**2 / r**2)
                noise = math.sqrt(1 - fresh**2) * noise + fresh * state.normal("n")
                state.x = x0 + s * noise
        if not s:
            state.x = self._beside_estimate(state, self._met(state, x0))
        state.step += 1
        return state

    def _near(self, state: RenoiseState, eps: Tensor, r: float, chance: float) -> tuple[Tensor, Tensor]:
        """x0 at level r, and the noise that x has beside it, both (B, C, H, W)."""
        physics, y, noise_std = state.problem
        x = state.x0_hat
        if not is_linear(physics) or y.is_complex() or x.is_complex():
            variance = LOCAL_VARIANCE * r**2 / (LOCAL_VARIANCE + r**2)
            rho = TOLERANCE + noise_std.square() / variance
            return proximal(physics, x, y, rho, self.inner_steps), eps
        root, std = Field(x).root_left(r), noise_std.to(x)
        if chance:
            x = x + chance * root(state.normal("z"))
            draw = state.noise.normal("y", y.shape[1:], y.dtype, state.step)
            y = y + chance * per_image(std, y) * draw
        weight = per_image(std.clamp(min=max(0.05 * r, 1e-3)).square().reciprocal(), x)
        x = x + regress(root, physics.A, physics.A_adjoint, y - physics.A(x), weight, FIELD_STEPS)
        x = self._met(state, x)
        return x, (state.x - x) / r

    def _met(self, state: RenoiseState, x: Tensor) -> Tensor:
        """The images nearest to x that meet their measurement, where that is free of noise, (B, C, H, W)."""
        physics, y, noise_std = state.problem
        if not state.some_clean or not (is_linear(physics) or hasattr(physics, "prox")):
            return x
        met = proximal(physics, x, y, torch.full_like(noise_std, TOLERANCE), self.inner_steps)
        return torch.where(per_image(noise_std > 0, x), x, met)

    def _beside_estimate(self, state: RenoiseState, x: Tensor) -> Tensor:
        """The estimate with its share of what a sample adds to it, (B, C, H, W)."""
        if not self.cut and self.share == 1:
            return x
        added = x - state.estimate
        if self.cut:
            added = added - coarse(added, self.cut)
        return self._met(state, state.estimate + self.share * added)
