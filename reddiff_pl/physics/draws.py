"""What is random of an operator, drawn for one image by the operator itself or by a generator of deepinv's."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping

import torch
from deepinv.physics import Physics
from deepinv.physics.generator import PhysicsGenerator
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.binding import Shape, check_parameters, draw_parameters, parameter_names
from reddiff_pl.seeding import stream


class ParameterDraws:
    """Draws an operator's parameters, seeded by an image's key; in any thread.

    Args:
        physics: the operator.
        shape: (C, H, W) of the images that the generator is tried on.
        seed: the run's seed.
        generator: draws in place of the operator.

    Raises:
        ConfigError: the generator cannot draw, or draws something that the operator does not have.
    """

    def __init__(self, physics: Physics, shape: Shape, seed: int, generator: PhysicsGenerator | None) -> None:
        self.physics, self.seed, self.generator = physics, seed, generator
        self._generating = threading.Lock()  # generators keep the state of their draws
        if generator is not None:
            self._check(generator, shape)

    def __call__(self, key: str, given: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
        """What is random of the operator and not given.

        Args:
            key: the image's.
            given: the parameters that its sample brings.
            shape: (C, H, W) of the image.

        Returns:
            {name: (...)} with no batch dimension.

        Raises:
            SampleError: the operator draws none, so that the sample must bring them; or the generator's do not
                fit the image.
        """
        random = stream(self.seed, key, "mask")
        if self.generator is None:
            return draw_parameters(self.physics, shape, random, given)
        drawn = self._generated(self.generator, shape, int(torch.randint(2**31, (), generator=random)))
        check_parameters(self.physics, shape, drawn)
        return draw_parameters(self.physics, shape, random, {**drawn, **given}) | drawn

    def _generated(self, generator: PhysicsGenerator, shape: Shape, seed: int) -> dict[str, Tensor]:
        """What a generator of deepinv's draws for one image: {name: (...)} with no batch dimension."""
        sized = "img_size" in inspect.signature(generator.step).parameters
        with self._generating:
            generator.rng_manual_seed(seed)  # a mixture's own choice, which `step` does not seed
            drawn = generator.step(batch_size=1, seed=seed, **({"img_size": shape[1:]} if sized else {}))
        return {name: value[0].clone() for name, value in drawn.items()}

    def _check(self, generator: PhysicsGenerator, shape: Shape) -> None:
        known = parameter_names(self.physics)
        name = type(generator).__name__
        try:
            drawn = self._generated(generator, shape, 0)
        except Exception as error:  # any generator may be named, and raises what it likes
            raise ConfigError(
                f"--model.generator: {name} cannot draw: {type(error).__name__}: {error}"
            ) from error
        for parameter in drawn:
            if parameter not in known:
                raise ConfigError(
                    f"--model.generator: {name} draws {parameter}, which the operator does not have; it has "
                    f"{', '.join(known) or 'no parameters'}"
                )
