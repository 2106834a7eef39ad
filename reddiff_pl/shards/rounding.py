"""What a file's own precision leaves of noise: rounding to its bits, or what JPEG's tables took away."""

from __future__ import annotations

import io
import math

import deepinv.physics
import numpy as np
from deepinv.physics import Physics
from PIL import Image, JpegImagePlugin

from reddiff_pl.physics import JPEG, Compose, Inpainting
from reddiff_pl.physics.binding import operator_of

# RMS error of a JPEG file on the [0, 1] scale by the mean step of its table for luminance, without and with halved
# colours. Measured at qualities 100, 98, 95, 90, 80, 70, 50, 30, 20, 10 and 5 on 152 photos (128x128 pixels, reduced
# from others by two, so that their own compression is gone), which nothing is judged on.
_STEPS = [1.0, 2.36, 5.77, 11.5, 23.1, 34.5, 57.6, 95.7, 141.5, 196.3, 229.0]
_FULL_COLOUR = [0.0026, 0.0047, 0.0082, 0.0128, 0.0193, 0.0237, 0.0297, 0.0361, 0.0418, 0.0540, 0.0727]
_HALF_COLOUR = [0.0100, 0.0107, 0.0128, 0.0165, 0.0226, 0.0268, 0.0326, 0.0388, 0.0444, 0.0564, 0.0749]


def rounding_level(bits: int, content: bytes, physics: Physics) -> float:
    """Standard deviation of what a measurement's file has rounded away, on the [0, 1] scale.

    Rounding to b bits is noise of 1 / ((2^b - 1) sqrt(12)); what compression left of a JPEG file is told by its tables.

    Args:
        bits: of one value in the file; 0: floating point.
        content: the file.
        physics: the operator.

    Returns:
        0 where nothing is rounded, and for operators to which it does no harm: inpainting, which amplifies nothing
        and keeps its pixels as they are, and compression itself.
    """
    operator = operator_of(physics)
    if isinstance(operator, Compose) and isinstance(operator_of(operator.parts[-1]), JPEG):
        return 0.0
    if bits == 0 or isinstance(operator, Inpainting | deepinv.physics.Inpainting | JPEG):
        return 0.0
    if (level := jpeg_level(content)) is not None:
        return level
    return 1 / ((2**bits - 1) * math.sqrt(12))


def jpeg_level(content: bytes) -> float | None:
    """RMS error of a JPEG file as photos have it at its tables, on the [0, 1] scale; None where it is none."""
    if not content.startswith(b"\xff\xd8"):
        return None
    with Image.open(io.BytesIO(content)) as picture:
        if not isinstance(picture, JpegImagePlugin.JpegImageFile):
            return None
        step = float(np.mean(picture.quantization[min(picture.quantization)]))
        full = picture.mode == "L" or JpegImagePlugin.get_sampling(picture) == 0
    levels = _FULL_COLOUR if full else _HALF_COLOUR
    return float(np.exp(np.interp(math.log(max(step, 1.0)), np.log(_STEPS), np.log(levels))))
