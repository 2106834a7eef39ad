"""From a clean image to its measurement: one sample, on the CPU, seeded by its key."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Literal

import torch
from deepinv.physics import Physics
from deepinv.physics.generator import PhysicsGenerator
from torch import Tensor

from reddiff_pl.errors import SampleError
from reddiff_pl.physics.binding import (
    Shape,
    bind,
    check_parameters,
    chirp,
    configured_parameters,
    measured,
    measurement_scale,
    refuses,
    unset_parameters,
)
from reddiff_pl.physics.draws import ParameterDraws
from reddiff_pl.physics.noise import MeasurementNoise, NoNoise, estimate_noise_std
from reddiff_pl.physics.sizes import image_shape, measurement_shape, measures_everything
from reddiff_pl.seeding import stream

# a measurement so much larger than those of images is in other units, or damaged; and one of whole numbers
_FAR, _FAR_WHOLE = 100.0, 2.0


class Degradation:
    """Makes measurements, and checks those that samples bring. The same in the loader and in `degrade`.

    Args:
        physics: the operator; copied, one copy a thread, so that decoding threads do not share parameters.
        noise: the measurement noise.
        shape: (C, H, W) of the images that nothing else tells the size of; that of others follows from themselves, or
            from their measurement.
        seed: the run's seed.
        sigma_y: noise level, on the [0, 1] scale, assumed where a measurement does not say its own, or "estimate";
            None: that of `noise`.
        fit: what becomes of clean images: "crop" to `shape`, or "whole", as they are.
        size: height and width of the images of measurements, where these leave it open.
        generator: draws parameters of one image in place of the operator; each draw is seeded by the image's key.

    Raises:
        ConfigError: the generator draws something that the operator does not have.

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
        fit: Literal["crop", "whole"] = "crop",
        size: tuple[int, int] | None = None,
        generator: PhysicsGenerator | None = None,
    ) -> None:
        self.noise, self.shape, self.seed, self.sigma_y = noise, shape, seed, sigma_y
        self.fit, self.size = fit, size
        self.scale = measurement_scale(physics)
        self.physics = copy.deepcopy(physics)  # deepinv's own clone() walks the whole interpreter
        self._configured = configured_parameters(self.physics)
        self._local = threading.local()
        self._draws = ParameterDraws(self.physics, shape, seed, generator)

    def bound(self, params: Mapping[str, Tensor], shape: Shape | None = None) -> Physics:
        """This thread's own operator with the parameters of one image, (C, H, W)."""
        if not hasattr(self._local, "physics"):
            self._local.physics = copy.deepcopy(self.physics)
        bind(self._local.physics, {name: value[None] for name, value in params.items()}, shape or self.shape)
        return self._local.physics

    @cached_property
    def measured_channels(self) -> int | None:
        """Channels, 1 or 3, of a measurement that is a picture; None where the operator makes something else."""
        told = measurement_shape(self.physics, self.shape)
        if told is None:
            try:
                told = tuple(self.bound(self._configured).A(torch.zeros(1, *self.shape)).shape[1:])
            except Exception:  # any operator may be named; one that wants parameters first is not asked
                return None
        return told[0] if len(told) == 3 and told[0] in (1, 3) else None

    @property
    def picture_channels(self) -> int:
        """Channels of a measurement that comes as a picture, as the operator makes them: 1 where it makes grey."""
        return self.measured_channels or self.shape[0]

    def parameters(
        self, key: str, given: Mapping[str, Tensor], shape: Shape | None = None
    ) -> dict[str, Tensor]:
        """All of the operator's parameters for one image: what the sample brings, else drawn, else configured.

        Raises:
            SampleError: a given parameter does not fit, or one is missing.
        """
        check_parameters(self.physics, shape or self.shape, given)
        return {**self._configured, **self._draws(key, given, shape or self.shape), **given}

    @torch.no_grad()
    def __call__(self, x: Tensor, key: str, given: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Degrade one image: (C, H, W) in [-1, 1] -> (measurement (...), parameters)."""
        shape = _shape(x)
        params = self.parameters(key, given, shape)
        physics = self.bound(params, shape)
        y = self._measure(physics, x[None])[0].clone()
        if isinstance(self.noise, NoNoise):
            return y, params  # nothing to clear, and clearing costs five times the operator
        y = self.noise(y, self.scale, stream(self.seed, key, "y"))
        return self._clear_unmeasured(y, physics, shape), params

    def _measure(self, physics: Physics, x: Tensor) -> Tensor:
        """
        Raises:
            SampleError: the operator does not take images of this size, though it takes others; or it lacks a
                parameter, which the sample must bring.
        """
        try:
            return physics.A(x)
        except Exception as error:  # any operator may be named, and raises what it likes
            if lacking := unset_parameters(physics):
                raise SampleError(
                    f"the operator has no {' or '.join(lacking)}: the sample must bring it, or --model.generator draw "
                    f"it ({' '.join(str(error).split())[:200]})"
                ) from error
            if _shape(x[0]) == self.shape:
                raise
            raise SampleError(f"the operator does not take an image of {_shape(x[0])}: {error}") from error

    @torch.no_grad()
    def noise_std(
        self, y: Tensor, params: Mapping[str, Tensor], sigma_y: object = None, shape: Shape | None = None
    ) -> float:
        """Standard deviation of one measurement's noise, in y's units.

        Args:
            y: measurement, (...).
            params: its operator's parameters.
            sigma_y: its level on the [0, 1] scale where that is known (KEY.json), "estimate" to find it from the
                measurement; None: that of the configured noise.
            shape: (C, H, W) of the image.

        Raises:
            SampleError: sigma_y is no level.
        """
        if sigma_y is None:
            return self.noise.std(y, self.scale)
        if sigma_y == "estimate":
            shape = shape or self.shape
            return estimate_noise_std(y, measured(self.bound(params, shape), torch.zeros(1, *shape))[0][0])
        if isinstance(sigma_y, bool) or not isinstance(sigma_y, (int, float)) or not 0 <= sigma_y < math.inf:
            got = json.dumps(sigma_y) if isinstance(sigma_y, str) else str(sigma_y)
            raise SampleError(f"sigma_y in the metadata must be a number from 0 up, got {got[:40]}")
        return self.scale * sigma_y

    def image_shape(
        self, y: Tensor, given: Mapping[str, Tensor], size: tuple[int, int] | None = None
    ) -> Shape:
        """(C, H, W) of the image that was measured, from its measurement.

        Args:
            y: measurement, (...).
            given: the operator's parameters that the sample brings.
            size: height and width of the sample's reference, if it has one. It counts, as the configured size does
                after it, where images of that size have measurements of this one.

        Raises:
            SampleError: no image has a measurement of this shape.
        """
        shape, channels = tuple(y.shape), self.shape[0]
        known = measurement_shape(self.physics, self.shape)
        sizes = [told for told in (size, self.size) if told is not None]
        problem = ""
        if known is None:
            physics = self.bound({**self._configured, **given})
            candidates = [*((channels, *told) for told in sizes), None, self.shape]
            for candidate in candidates:
                try:
                    found = candidate or tuple(physics.A_adjoint(y[None]).shape[1:])
                    if len(found) == 3 and tuple(physics.A(torch.zeros(1, *found)).shape[1:]) == shape:
                        return self._with_channels(found, shape)
                except Exception as error:  # any operator may be named, and raises what it likes
                    if isinstance(error, SampleError):
                        raise
                    problem = f" ({' '.join(str(error).split())[:200]})"
        elif len(shape) == len(known):
            for told in sizes:
                if measurement_shape(self.physics, (channels, *told)) == shape:
                    return (channels, *told)
            natural = image_shape(self.physics, shape)
            if natural and min(natural) > 0 and measurement_shape(self.physics, natural) == shape:
                return self._with_channels(natural, shape)
        raise SampleError(
            f"the measurement has shape {shape}, which the operator makes of no image of {channels} channels{problem}"
        )

    def _with_channels(self, shape: tuple[int, ...], measurement: tuple[int, ...]) -> Shape:
        if shape[0] != self.shape[0]:
            raise SampleError(
                f"the measurement has shape {measurement}, that of an image with {shape[0]} channels; expected "
                f"{self.shape[0]}{'; the channels come first' if shape[-1] == self.shape[0] else ''}"
            )
        channels, height, width = shape
        return channels, height, width

    @torch.no_grad()
    def in_its_numbers(
        self, y: Tensor, given: Mapping[str, Tensor], size: tuple[int, int] | None = None
    ) -> Tensor:
        """A measurement of complex numbers, (...), as the operator has them.

        Operators such as deepinv's MRI take real and imaginary part one after the other, (2, ...); k-space of a single
        coil may come as (H, W) or (1, H, W), of several as (coils, H, W). Other measurements stay as they are.
        """
        if not y.is_complex():
            return y
        parts = torch.stack([y.real, y.imag])
        for candidate in (parts, parts.squeeze(1)):
            with contextlib.suppress(SampleError):
                self.image_shape(candidate, given, size)
                return candidate
        return y

    @torch.no_grad()
    def accept(
        self,
        y: Tensor,
        key: str,
        given: Mapping[str, Tensor],
        size: tuple[int, int] | None = None,
        whole: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor], Shape]:
        """Check a measurement that a sample brought, and find its image's size.

        Args:
            y: measurement, (...).
            key: the sample's.
            given: the operator's parameters that it brings.
            size: height and width of its reference, if it has one.
            whole: it came in whole numbers, such as the levels of a picture.

        Returns:
            measurement, parameters, (C, H, W) of the image.

        Raises:
            SampleError: it does not fit the operator, it is not finite, or it comes without the parameters that it was
                made with.
        """
        shape = self.image_shape(y, given, size)
        params = self.parameters(key, given, shape)
        if missing := self._draws(key, given, shape):
            name = next(iter(missing))
            raise SampleError(
                f"no {name}: a measurement must bring the {name} it was made with (KEY.{name}.png or npy)"
            )
        if not torch.isfinite(y).all():
            raise SampleError("the measurement holds NaN or infinite values")
        physics = self.bound(params, shape)
        if reason := refuses(physics, shape):
            raise SampleError(reason)
        if y.is_complex():
            _check_kind(y, physics.A(torch.zeros(1, *shape)))
        self._check_range(y, physics, shape, _FAR_WHOLE if whole else _FAR)
        return self._clear_unmeasured(y, physics, shape), params, shape

    def _check_range(self, y: Tensor, physics: Physics, shape: Shape, far: float) -> None:
        """No level of noise, and no operator's gain, puts a measurement so far off the images that it shows."""
        largest = y.abs().max().item() if y.numel() else 0.0
        if largest <= far:  # nearly all: the operator need not be asked
            return
        probes = [*(torch.full((1, *shape), value) for value in (-1.0, 1.0)), chirp(torch.zeros(1, *shape))]
        reach = max(physics.A(probe).abs().max().item() for probe in probes)
        if not largest <= far * reach:
            raise SampleError(
                f"the measurement reaches {largest:.3g}, but the operator gives about {reach:.3g} at most; store it in "
                "the operator's own range, or as a picture"
            )

    def _clear_unmeasured(self, y: Tensor, physics: Physics, shape: Shape) -> Tensor:
        """Where the image has no say, as under a mask, nothing is measured, not even noise."""
        if measures_everything(physics):
            return y
        nothing_there = torch.zeros(1, *shape)
        self._measure(physics, nothing_there)
        moved, nothing = measured(physics, nothing_there)
        _check_kind(y, nothing)
        return torch.where(moved[0], y, nothing[0])


def _shape(x: Tensor) -> Shape:
    channels, height, width = x.shape
    return channels, height, width


def _check_kind(y: Tensor, expected: Tensor) -> None:
    if y.is_complex() != expected.is_complex():
        kinds = {True: "complex", False: "real"}
        raise SampleError(
            f"the measurement holds {kinds[y.is_complex()]} numbers, but the operator with its parameters measures "
            f"{kinds[expected.is_complex()]} ones"
        )
