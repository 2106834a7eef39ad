"""Per-image operator parameters, for any deepinv operator."""

from __future__ import annotations

import inspect
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
    """Names of the operator's tensors that a sample may bring along, such as mask, kernel or filter.

    Its buffers that are also arguments of its constructor, or that it says have a shape; others are derived.
    """
    operator = operator_of(physics)
    named = set(inspect.signature(type(operator).__init__).parameters)
    if hasattr(operator, "parameter_shapes"):
        named = set(operator.parameter_shapes((1, 1, 1)))
    return [name for name in operator._buffers if name in named]


def configured_parameters(physics: Physics) -> dict[str, Tensor]:
    """The parameters that the configuration gives to every image: {name: (...)} with no batch dimension."""
    buffers = {name: operator_of(physics)._buffers[name] for name in parameter_names(physics)}
    return {
        name: value[0].clone() for name, value in buffers.items() if value is not None and len(value) == 1
    }


def draw_parameters(
    physics: Physics, shape: tuple[int, int, int], generator: torch.Generator
) -> dict[str, Tensor]:
    """The random parameters of one image, where the operator draws any: {name: (...)} with no batch dimension."""
    draw = getattr(operator_of(physics), "draw", None)
    return draw(shape, generator) if draw is not None else {}


def bind(physics: Physics, params: Mapping[str, Tensor]) -> None:
    """Give the operator the parameters of a batch: {name: (B, ...)}.

    Values are copied into the operator's buffers where their shape has not changed, so that captured graphs
    see them. Operators with quantities derived from their parameters recompute them by deepinv's own
    `update_parameters`. None of it is part of the operator's state_dict.

    Raises:
        SampleError: the operator has no parameter of that name.
    """
    operator = operator_of(physics)
    for name in params:
        if name not in operator._buffers:
            raise SampleError(f"{type(operator).__name__} has no parameter {name}")
    if not params:
        return
    before = dict(operator._buffers)
    if type(operator).update_parameters is Physics.update_parameters:
        after: dict[str, Tensor | None] = {**before, **params}
    else:
        # it replaces buffers, and may keep what it is given: it gets copies
        operator.update_parameters(**{name: value.clone() for name, value in params.items()})
        after = dict(operator._buffers)
    for name, value in after.items():
        old = before[name]
        if old is not None and value is not None and (old.shape, old.dtype) == (value.shape, value.dtype):
            if value is not old:
                old.copy_(value)
            operator._buffers[name] = old
        elif value is not None:
            operator._buffers[name] = value.clone()
    operator._non_persistent_buffers_set.update(operator._buffers)


def check_parameters(physics: Physics, shape: tuple[int, int, int], params: Mapping[str, Tensor]) -> None:
    """Refuse parameters of one image that do not fit.

    Raises:
        SampleError: which parameter, its shape, the expected one; or what its values must be.
    """
    operator = operator_of(physics)
    shapes_of = getattr(operator, "parameter_shapes", None)
    allowed: dict[str, list[tuple[int, ...]]] = shapes_of(shape) if shapes_of is not None else {}
    for name, value in params.items():
        buffer = operator._buffers.get(name)
        expected = allowed.get(name) or [tuple(value.shape if buffer is None else buffer.shape[1:])]
        if not any(_fits(tuple(value.shape), fit, exact=name in allowed) for fit in expected):
            raise SampleError(
                f"{name} has shape {tuple(value.shape)}, expected {' or '.join(map(str, expected))} for an image "
                f"of {shape}"
            )
        if not torch.isfinite(value).all():
            raise SampleError(f"{name} holds NaN or infinite values")
        if name in getattr(operator, "binary_parameters", ()) and not ((value == 0) | (value == 1)).all():
            raise SampleError(f"{name} holds values other than 0 and 1")


def _fits(shape: tuple[int, ...], expected: tuple[int, ...], exact: bool) -> bool:
    """Whether a shape is the expected one; for foreign operators also with one channel for all."""
    if shape == expected or exact:
        return shape == expected
    return len(shape) == len(expected) == 3 and shape[0] == 1 and shape[1:] == expected[1:]


def measured(physics: Physics, like: Tensor) -> tuple[Tensor, Tensor]:
    """Which elements of a measurement the image can change, and what the others are.

    Found by trying: an element that is the same for several images has a zero row in A, such as a masked pixel.

    Args:
        physics: the operator, its per-image parameters bound.
        like: images, (B, C, H, W); only their shape, type and device count.

    Returns:
        bool (B, ...), and A(0), (B, ...).
    """
    ramp = torch.linspace(0.1, 0.9, like[0].numel(), device=like.device, dtype=like.dtype)
    ramp = ramp.reshape(like[:1].shape).expand_as(like)
    nothing = physics.A(torch.zeros_like(ramp))
    moved = torch.zeros_like(nothing, dtype=torch.bool)
    for probe in (ramp, -ramp, ramp.flip(-1), torch.full_like(ramp, 0.99)):
        moved |= physics.A(probe) != nothing
    return moved, nothing
