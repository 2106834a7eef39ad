"""From a clean image to its measurement: one sample, on the CPU, seeded by its key."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Mapping

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.errors import SampleError
from reddiff_pl.physics.binding import (
    bind,
    check_parameters,
    configured_parameters,
    draw_parameters,
    measured,
    measurement_scale,
)
from reddiff_pl.physics.noise import MeasurementNoise, NoNoise, estimate_noise_std
from reddiff_pl.seeding import stream

_FAR = 1e4  # a measurement so much larger than those of images is in other units, or damaged


class Degradation:
    """Makes measurements, and checks those that samples bring. The same in the loader and in `degrade`.

    Args:
        physics: the operator; copied, one copy a thread, so that decoding threads do not share parameters.
        noise: the measurement noise.
        shape: (C, H, W) of the images.
        seed: the run's seed.
        sigma_y: noise level, on the [0, 1] scale, assumed where a measurement does not say its own, or "estimate";
            None: that of `noise`.

    Attributes:
        scale: what one unit of [0, 1] is in the measurement's range.
    """

    def __init__(
        self,
        physics: Physics,
        noise: MeasurementNoise,
        shape: tuple[int, int, int],
        seed: int,
        sigma_y: float | str | None = None,
    ) -> None:
        self.noise, self.shape, self.seed, self.sigma_y = noise, shape, seed, sigma_y
        self.scale = measurement_scale(physics)
        self.physics = copy.deepcopy(physics)  # deepinv's own clone() walks the whole interpreter
        self._configured = configured_parameters(self.physics)
        self._local = threading.local()

    def bound(self, params: Mapping[str, Tensor]) -> Physics:
        """This thread's own operator with one image's parameters."""
        if not hasattr(self._local, "physics"):
            self._local.physics = copy.deepcopy(self.physics)
        bind(self._local.physics, {name: value[None] for name, value in params.items()})
        return self._local.physics

    def parameters(self, key: str, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All of the operator's parameters for one image: what the sample brings, else drawn, else configured.

        Raises:
            SampleError: a given parameter does not fit, or one is missing.
        """
        check_parameters(self.physics, self.shape, given)
        return {**self._configured, **self._drawn(key, given), **given}

    def _drawn(self, key: str, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is random of the operator and not given."""
        return draw_parameters(self.physics, self.shape, stream(self.seed, key, "mask"), given)

    @torch.no_grad()
    def __call__(self, x: Tensor, key: str, given: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Degrade one image: (C, H, W) in [-1, 1] -> (measurement (...), parameters)."""
        params = self.parameters(key, given)
        physics = self.bound(params)
        y = physics.A(x[None])[0].clone()
        if isinstance(self.noise, NoNoise):
            return y, params  # nothing to clear, and clearing costs five times the operator
        y = self.noise(y, self.scale, stream(self.seed, key, "y"))
        return self._clear_unmeasured(y, physics), params

    @torch.no_grad()
    def noise_std(self, y: Tensor, params: Mapping[str, Tensor], sigma_y: object = None) -> float:
        """Standard deviation of one measurement's noise, in y's units.

        Args:
            y: measurement, (...).
            params: its operator's parameters.
            sigma_y: its level on the [0, 1] scale where that is known (KEY.json), "estimate" to find it from the
                measurement; None: that of the configured noise.

        Raises:
            SampleError: sigma_y is no level.
        """
        if sigma_y is None:
            return self.noise.std(y, self.scale)
        if sigma_y == "estimate":
            return estimate_noise_std(y, measured(self.bound(params), torch.zeros(1, *self.shape))[0][0])
        if isinstance(sigma_y, bool) or not isinstance(sigma_y, (int, float)) or not 0 <= sigma_y < math.inf:
            raise SampleError(f"sigma_y in the metadata must be a number from 0 up, got {str(sigma_y)[:40]}")
        return self.scale * sigma_y

    @torch.no_grad()
    def accept(self, y: Tensor, key: str, given: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Check a measurement that a sample brought: (...) -> (measurement, parameters).

        Raises:
            SampleError: its size does not fit the operator, it is not finite, or it comes without the parameters
                that it was made with.
        """
        params = self.parameters(key, given)
        if missing := self._drawn(key, given):
            name = next(iter(missing))
            raise SampleError(
                f"no {name}: a measurement must bring the {name} it was made with (KEY.{name}.png or npy)"
            )
        physics = self.bound(params)
        expected = tuple(physics.A(torch.zeros(1, *self.shape)).shape[1:])
        if tuple(y.shape) != expected:
            raise SampleError(
                f"the measurement has shape {tuple(y.shape)}, expected {expected} for images of {self.shape}"
            )
        if not torch.isfinite(y).all():
            raise SampleError("the measurement holds NaN or infinite values")
        self._check_range(y, physics)
        return self._clear_unmeasured(y, physics), params

    def _check_range(self, y: Tensor, physics: Physics) -> None:
        """No level of noise, and no operator's gain, puts a measurement so far off the images that it shows."""
        largest = y.abs().max().item() if y.numel() else 0.0
        if largest <= _FAR:  # nearly all: the operator need not be asked
            return
        reach = max(
            physics.A(torch.full((1, *self.shape), value)).abs().max().item() for value in (-1.0, 1.0)
        )
        if not largest <= _FAR * reach:
            raise SampleError(
                f"the measurement reaches {largest:.3g}, but the operator gives {reach:.3g} at most for a white or a "
                "black image; store it in the operator's own range"
            )

    def _clear_unmeasured(self, y: Tensor, physics: Physics) -> Tensor:
        """Where the image has no say, as under a mask, nothing is measured, not even noise."""
        moved, nothing = measured(physics, torch.zeros(1, *self.shape))
        return torch.where(moved[0], y, nothing[0])
