"""How large an image is, from its measurement.

An operator of this package says it without being asked to measure anything: `image_shape` of a measurement's shape,
and `measurement_shape` of an image's. For others it is found by trying their A_adjoint.
"""

from __future__ import annotations

from deepinv.physics import Physics

from reddiff_pl.physics.compose import Compose
from reddiff_pl.physics.unit_range import UnitRange

Shape = tuple[int, ...]
ANY = -1  # a length in the shapes that a parameter may have


class SameSize:
    """An operator whose measurements have their image's shape."""

    def image_shape(self, shape: Shape) -> Shape:
        """(C, H, W) of the image of a measurement of this shape, (...) without a batch."""
        return shape

    def measurement_shape(self, shape: Shape) -> Shape:
        """Of an image (C, H, W)."""
        return shape


class Reduction:
    """An operator that makes one pixel of `factor` a side; the last ones of a row or column may see fewer.

    ceil(H / factor) rows, so several sizes of image have one size of measurement. Unless told `image_size`, the
    largest, a multiple of the factor, is taken.

    Attributes:
        factor: pixels of the image, a side, for each of the measurement.
        image_size: height and width of the images at hand; None: multiples of the factor.
    """

    factor: int
    image_size: tuple[int, int] | None = None

    def image_shape(self, shape: Shape) -> Shape:
        """(C, H, W) of the image of a measurement of this shape, the largest that it can be."""
        return (*shape[:-2], shape[-2] * self.factor, shape[-1] * self.factor)

    def measurement_shape(self, shape: Shape) -> Shape:
        """Of an image (C, H, W)."""
        return (*shape[:-2], -(-shape[-2] // self.factor), -(-shape[-1] // self.factor))

    def size_of(self, shape: Shape) -> tuple[int, int]:
        """Height and width of the image of a measurement (..., h, w): `image_size` where that fits."""
        if self.image_size is not None and self.measurement_shape(self.image_size) == tuple(shape[-2:]):
            return self.image_size
        return shape[-2] * self.factor, shape[-1] * self.factor


def image_shape(physics: Physics, shape: Shape) -> Shape | None:
    """(C, H, W) of the image whose measurement has this shape; None where the operator does not say."""
    if isinstance(physics, UnitRange):
        return image_shape(physics.physics, shape)
    if not isinstance(physics, Compose):
        return physics.image_shape(shape) if hasattr(physics, "image_shape") else None
    for part in reversed(physics.parts):
        if (found := image_shape(part, shape)) is None:
            return None
        shape = found
    return shape


def measurement_shape(physics: Physics, shape: Shape) -> Shape | None:
    """Of the measurement of an image (C, H, W); None where the operator does not say."""
    if isinstance(physics, UnitRange):
        return measurement_shape(physics.physics, shape)
    if not isinstance(physics, Compose):
        return physics.measurement_shape(shape) if hasattr(physics, "measurement_shape") else None
    for part in physics.parts:
        if (found := measurement_shape(part, shape)) is None:
            return None
        shape = found
    return shape


def measures_everything(physics: Physics) -> bool:
    """Whether the image has a say in every element of its measurement, as far as the operators say so themselves."""
    if isinstance(physics, UnitRange):
        return measures_everything(physics.physics)
    if isinstance(physics, Compose):
        return all(map(measures_everything, physics.parts))
    return getattr(physics, "complete", False)
