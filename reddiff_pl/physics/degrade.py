"""From a clean image to its measurement: one sample, on the CPU, seeded by its key."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.errors import SampleError
from reddiff_pl.physics.binding import (
    bind,
    check_parameters,
    draw_parameters,
    measurement_scale,
)
from reddiff_pl.physics.noise import MeasurementNoise
from reddiff_pl.seeding import stream


class Degradation:
    """Makes measurements, and checks those that samples bring. The same in the loader and in `degrade`.

    Args:
        physics: the operator; copied, one copy a thread, so that decoding threads do not share parameters.
        noise: the measurement noise.
        shape: (C, H, W) of the images.
        seed: the run's seed.

    Attributes:
        scale: what one unit of [0, 1] is in the measurement's range.
    """

    def __init__(
        self, physics: Physics, noise: MeasurementNoise, shape: tuple[int, int, int], seed: int
    ) -> None:
        self.noise, self.shape, self.seed = noise, shape, seed
        self.scale = measurement_scale(physics)
        self.physics = physics.clone()
        self._local = threading.local()

    def bound(self, params: Mapping[str, Tensor]) -> Physics:
        """This thread's own operator with one image's parameters."""
        if not hasattr(self._local, "physics"):
            self._local.physics = self.physics.clone()
        bind(self._local.physics, {name: value[None] for name, value in params.items()})
        return self._local.physics

    def parameters(self, key: str, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The operator's parameters for one image, {name: (...)}: those the sample brings, else drawn ones.

        Raises:
            SampleError: a given parameter does not fit, or one is missing.
        """
        check_parameters(self.physics, self.shape, given)
        if given:
            return dict(given)
        return draw_parameters(self.physics, self.shape, stream(self.seed, key, "mask"))

    @torch.no_grad()
    def __call__(self, x: Tensor, key: str, given: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Degrade one image: (C, H, W) in [-1, 1] -> (measurement (...), parameters)."""
        params = self.parameters(key, given)
        y = self.bound(params).A(x[None])[0].clone()
        return self._zero_masked(self.noise(y, self.scale, stream(self.seed, key, "y")), params), params

    @torch.no_grad()
    def accept(self, y: Tensor, key: str, given: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Check a measurement that a sample brought: (...) -> (measurement, parameters).

        Raises:
            SampleError: its size does not fit the operator, or it is not finite.
        """
        params = self.parameters(key, given)
        expected = tuple(self.bound(params).A(torch.zeros(1, *self.shape)).shape[1:])
        if tuple(y.shape) != expected:
            raise SampleError(
                f"the measurement has shape {tuple(y.shape)}, expected {expected} for images of {self.shape}"
            )
        if not torch.isfinite(y).all():
            raise SampleError("the measurement holds NaN or infinite values")
        return self._zero_masked(y, params), params

    def _zero_masked(self, y: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Inpainting: nothing is measured where the mask is 0, not even noise."""
        mask = params.get("mask")
        return y * mask if mask is not None and mask.shape[1:] == y.shape[1:] else y
