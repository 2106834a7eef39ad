"""Per-image operator parameters, for any deepinv operator."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.errors import SampleError
from reddiff_pl.physics.unit_range import UnitRange


def operator_of(physics: Physics) -> Physics:
    """The operator that holds the parameters: inside `UnitRange`, the wrapped one."""
    return operator_of(physics.physics) if isinstance(physics, UnitRange) else physics


def measurement_scale(physics: Physics) -> float:
    """What one unit of [0, 1] is in the measurement's range: 2 on [-1, 1] data, 1 under `UnitRange`."""
    return 1.0 if isinstance(physics, UnitRange) else 2.0


def parameter_names(physics: Physics) -> list[str]:
    """Names of the operator's tensors that a sample may bring along, such as mask, kernel or filter."""
    return [name for name in operator_of(physics)._buffers if not name.startswith("_")]


def bind(physics: Physics, params: Mapping[str, Tensor]) -> None:
    """Give the operator the parameters of a batch: {name: (B, ...)}.

    Values are copied into the operator's buffers where their shape has not changed, so that captured graphs
    see them. Operators with quantities derived from their parameters recompute them by deepinv's own
    `update_parameters`.

    Raises:
        SampleError: the operator has no parameter of that name.
    """
    operator = operator_of(physics)
    for name, value in params.items():
        if name not in operator._buffers:
            raise SampleError(f"{type(operator).__name__} has no parameter {name}")
        buffer = operator._buffers[name]
        if buffer is not None and (buffer.shape, buffer.dtype) == (value.shape, value.dtype):
            buffer.copy_(value)
        else:
            operator.register_buffer(name, value.clone(), persistent=False)
    if params and type(operator).update_parameters is not Physics.update_parameters:
        operator.update_parameters(**params)


def draw_parameters(
    physics: Physics, shape: tuple[int, int, int], generator: torch.Generator
) -> dict[str, Tensor]:
    """The parameters of one image, where the operator draws any: {name: (...)} with no batch dimension."""
    draw = getattr(operator_of(physics), "draw", None)
    return draw(shape, generator) if draw is not None else {}


def check_parameters(physics: Physics, shape: tuple[int, int, int], params: Mapping[str, Tensor]) -> None:
    """Refuse parameters of one image whose shape does not fit.

    Raises:
        SampleError: which parameter, its shape, the expected one.
    """
    operator = operator_of(physics)
    shapes_of = getattr(operator, "parameter_shapes", None)
    allowed: dict[str, list[tuple[int, ...]]] = shapes_of(shape) if shapes_of is not None else {}
    for name, value in params.items():
        buffer = operator._buffers.get(name)
        fits = allowed.get(name, [tuple(buffer.shape[1:])] if buffer is not None else [tuple(value.shape)])
        if tuple(value.shape) not in fits:
            raise SampleError(
                f"{name} has shape {tuple(value.shape)}, expected {' or '.join(map(str, fits))} for an image of "
                f"{shape}"
            )
        if not torch.isfinite(value).all():
            raise SampleError(f"{name} holds NaN or infinite values")
