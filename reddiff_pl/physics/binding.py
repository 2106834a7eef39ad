"""Per-image operator parameters, for any deepinv operator."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.errors import SampleError
from reddiff_pl.physics.compose import Compose
from reddiff_pl.physics.sizes import ANY, Reduction, measurement_shape, measures_everything
from reddiff_pl.physics.unit_range import UnitRange

Shape = tuple[int, int, int]


def operator_of(physics: Physics) -> Physics:
    """The operator inside `UnitRange`, which holds the parameters unless it is a composition."""
    return operator_of(physics.physics) if isinstance(physics, UnitRange) else physics


def _leaves(physics: Physics) -> Iterator[tuple[str, Physics]]:
    """The operators that hold parameters, and what their parameters' names end in: "_0", "_1" in a composition."""
    operator = operator_of(physics)
    if not isinstance(operator, Compose):
        yield "", operator
        return
    for i, part in enumerate(operator.parts):
        for suffix, leaf in _leaves(part):
            yield f"_{i}{suffix}", leaf


def rounds(physics: Physics) -> bool:
    """Whether the operator itself rounds: its sigma_y stands for that, and a good image's misfit lies far below."""
    return any(getattr(leaf, "rounds", False) for _, leaf in _leaves(physics))


def _inputs(physics: Physics, shape: Shape) -> list[Shape]:
    """What each of `_leaves` sees of images of a shape; found by trying, and remembered."""
    operator = operator_of(physics)
    if not isinstance(operator, Compose):
        return [shape]
    known: dict[Shape, list[Shape]] = operator.__dict__.setdefault("_inputs", {})
    if shape not in known:
        found, x = [], torch.zeros(1, *shape)
        for part in operator.parts:
            size: Shape = tuple(x.shape[1:])  # type: ignore[assignment]
            found += _inputs(part, size)
            if part is operator.parts[-1]:
                continue
            if (told := measurement_shape(part, size)) is not None:
                x = torch.zeros(1, *told)
            else:
                trial = copy.deepcopy(part)  # other threads may be using the part
                bind(trial, {name: torch.ones(1, *fit[0]) for name, fit in _shapes(trial, size).items()})
                x = trial.A(x)
        known[shape] = found
    return known[shape]


def _shapes(physics: Physics, shape: Shape) -> dict[str, list[tuple[int, ...]]]:
    """The shapes that each parameter of an image may have, as far as the operators say."""
    return {
        f"{name}{suffix}": fits
        for (suffix, leaf), size in zip(_leaves(physics), _inputs(physics, shape), strict=True)
        for name, fits in (leaf.parameter_shapes(size) if hasattr(leaf, "parameter_shapes") else {}).items()
    }


def measurement_scale(physics: Physics) -> float:
    """What one unit of [0, 1] is in the measurement's range: 2 on [-1, 1] data, 1 under `UnitRange`."""
    if isinstance(physics, Compose):
        return min(measurement_scale(part) for part in physics.parts)
    return 1.0 if isinstance(physics, UnitRange) else 2.0


def _names(operator: Physics) -> list[str]:
    """Its buffers that are also arguments of its constructor, or that it says have a shape; others are derived."""
    named = set(inspect.signature(type(operator).__init__).parameters)
    if hasattr(operator, "parameter_shapes"):
        named = set(operator.parameter_shapes((1, 1, 1)))
    return [name for name in operator._buffers if name in named]


def parameter_names(physics: Physics) -> list[str]:
    """Names of the operator's tensors that a sample may bring along, such as mask, kernel or filter."""
    return [f"{name}{suffix}" for suffix, leaf in _leaves(physics) for name in _names(leaf)]


def unset_parameters(physics: Physics) -> list[str]:
    """Names of those that have no value yet."""
    return [
        f"{name}{suffix}"
        for suffix, leaf in _leaves(physics)
        for name in _names(leaf)
        if leaf._buffers[name] is None
    ]


def binary_parameters(physics: Physics) -> set[str]:
    """Names of those that hold zeros and ones only."""
    return {
        f"{name}{suffix}"
        for suffix, leaf in _leaves(physics)
        for name in getattr(leaf, "binary_parameters", ())
    }


def configured_parameters(physics: Physics) -> dict[str, Tensor]:
    """The parameters that the configuration gives to every image: {name: (...)} with no batch dimension."""
    buffers = {
        f"{name}{suffix}": leaf._buffers[name] for suffix, leaf in _leaves(physics) for name in _names(leaf)
    }
    return {
        name: value[0].clone() for name, value in buffers.items() if value is not None and len(value) == 1
    }


def flat_parameters(physics: Physics, shape: Shape) -> set[str]:
    """Names of those that are (height, width) with no channel, for images of a shape."""
    return {name for name, fits in _shapes(physics, shape).items() if all(len(fit) == 2 for fit in fits)}


def channelled_parameters(physics: Physics, shape: Shape) -> set[str]:
    """Names of those that are (channels, height, width), for images of a shape, where the operator tells."""
    told = {name: [tuple(value.shape)] for name, value in configured_parameters(physics).items()}
    told |= _shapes(physics, shape)
    return {name for name, fits in told.items() if all(len(fit) == 3 for fit in fits)}


def draw_parameters(
    physics: Physics, shape: Shape, generator: torch.Generator, given: Collection[str] = ()
) -> dict[str, Tensor]:
    """The random parameters of one image, where the operator draws any: {name: (...)} with no batch dimension.

    Args:
        physics: the operator.
        shape: (C, H, W) of the image.
        generator: the image's own stream.
        given: names of parameters that the sample brings. Others are drawn as if it did not; an operator that has
            all of its own is not even asked.

    Raises:
        SampleError: an operator draws none, and the sample must bring them.
    """
    drawn: dict[str, Tensor] = {}
    leaves = list(_leaves(physics))
    for (suffix, leaf), size in zip(leaves, _inputs(physics, shape), strict=True):
        if len(leaves) == 1:
            own = generator
        else:  # a part's draw does not depend on what the parts before it drew
            seed = int(torch.randint(2**31, (), generator=generator))
            own = torch.Generator().manual_seed(seed)
        names = {f"{name}{suffix}" for name in _names(leaf)}
        if not hasattr(leaf, "draw") or (names and names <= set(given)):
            continue
        try:
            values = leaf.draw(size, own)
        except SampleError as error:
            if not suffix:
                raise
            raise SampleError(f"part {suffix[1:]} of the composition: {error}, named NAME{suffix}") from error
        drawn |= {f"{name}{suffix}": value for name, value in values.items()}
    return {name: value for name, value in drawn.items() if name not in given}


def parameters_of_file(physics: Physics, content: bytes) -> dict[str, Tensor]:
    """The parameters that the file of a measurement tells of itself, such as JPEG's tables; {name: (...)}."""
    suffix, last = list(_leaves(physics))[-1]  # the one whose output it is
    told = last.parameters_of_file(content) if hasattr(last, "parameters_of_file") else {}
    return {f"{name}{suffix}": value for name, value in told.items()}


def bind(physics: Physics, params: Mapping[str, Tensor], shape: Shape | None = None) -> None:
    """Give the operator the parameters of a batch: {name: (B, ...)}.

    Values are copied into the operator's buffers where their shape has not changed, so that captured graphs
    see them. Operators with quantities derived from their parameters recompute them by deepinv's own
    `update_parameters`. None of it is part of the operator's state_dict.

    Args:
        physics: the operator.
        params: {name: (B, ...)}.
        shape: (C, H, W) of the images, where their measurements may not tell it (see `sizes.Reduction`).

    Raises:
        SampleError: the operator has no parameter of that name.
    """
    owners = {f"{name}{suffix}": (leaf, name) for suffix, leaf in _leaves(physics) for name in leaf._buffers}
    _refuse_unknown(physics, params, owners)
    for _, leaf in _leaves(physics):
        own = {owners[name][1]: value for name, value in params.items() if owners[name][0] is leaf}
        if own:
            _bind(leaf, own)
    reductions = [leaf for _, leaf in _leaves(physics) if isinstance(leaf, Reduction)]
    if reductions:
        sizes = [None] * len(list(_leaves(physics))) if shape is None else _inputs(physics, shape)
        for (_, leaf), size in zip(_leaves(physics), sizes, strict=True):
            if isinstance(leaf, Reduction):
                leaf.image_size = None if size is None else (size[-2], size[-1])


def _bind(operator: Physics, params: Mapping[str, Tensor]) -> None:
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


def refuses(physics: Physics, shape: Shape) -> str | None:
    """Why images (C, H, W) are not for the operator with its parameters bound, where it says so; None: they are."""
    for (_, leaf), size in zip(_leaves(physics), _inputs(physics, shape), strict=True):
        if (own := getattr(leaf, "refuses", None)) is not None and (reason := own(size)) is not None:
            return reason
    return None


def check_parameters(physics: Physics, shape: Shape, params: Mapping[str, Tensor]) -> None:
    """Refuse parameters of one image that do not fit.

    Raises:
        SampleError: which parameter, its shape, the expected one; or what its values must be.
    """
    if not params:
        return
    buffers = {
        f"{name}{suffix}": leaf._buffers[name] for suffix, leaf in _leaves(physics) for name in leaf._buffers
    }
    _refuse_unknown(physics, params, buffers)
    allowed, binary = _shapes(physics, shape), binary_parameters(physics)
    for name, value in params.items():
        buffer = buffers[name]
        expected = allowed.get(name) or [tuple(value.shape if buffer is None else buffer.shape[1:])]
        exact = name in allowed
        if value.is_complex() and expected[0][:1] == (1,) and value.ndim and not exact:
            expected = [(len(value), *expected[0][1:])]  # as many coils as an acquisition has
        if not any(_fits(tuple(value.shape), fit, shape, exact) for fit in expected):
            own = tuple(value.shape)
            last = any(len(fit) == len(own) == 3 and (own[2], *own[:2]) == fit for fit in expected)
            raise SampleError(
                f"{name} has shape {own}, expected {_listed(expected)} for an image of {shape}"
                f"{'; the channels come first' if last else ''}"
            )
        if not torch.isfinite(value).all():
            raise SampleError(f"{name} holds NaN or infinite values")
        if name in binary and not ((value == 0) | (value == 1)).all():
            raise SampleError(f"{name} holds values other than 0 and 1")


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return " or ".join(str(shape).replace(str(ANY), "any") for shape in shapes)


def _refuse_unknown(physics: Physics, params: Iterable[str], known: Collection[str]) -> None:
    for name in params:
        if name not in known:
            raise SampleError(f"{type(operator_of(physics)).__name__} has no parameter {name}")


def _fits(shape: tuple[int, ...], expected: tuple[int, ...], image: Shape, exact: bool) -> bool:
    """Whether a shape is the expected one; for foreign operators also with one channel for all, or the image's size."""
    if shape == expected or exact:
        same = len(shape) == len(expected) and all(
            b in (a, ANY) for a, b in zip(shape, expected, strict=True)
        )
        return same and 0 not in shape
    return (
        len(shape) == len(expected) == 3
        and shape[0] in (1, expected[0], image[0])
        and shape[1:] in (expected[1:], image[1:])
    )


def chirp(like: Tensor) -> Tensor:
    """In [-0.9, 0.9), one for all images, of all frequencies: a ramp has next to none off the axes of k-space."""
    i = torch.arange(like[0].numel(), device=like.device)
    turns = (i * i * 2654435761 + i * 40503) % 2**32 / 2**32
    return (1.8 * turns - 0.9).to(like.dtype).reshape(like[:1].shape).expand_as(like)


def measured(physics: Physics, like: Tensor) -> tuple[Tensor, Tensor]:
    """Which elements of a measurement the image can change, and what the others are.

    Found by trying: an element that is the same for several images has a zero row in A, such as a masked pixel.

    Args:
        physics: the operator, its per-image parameters bound.
        like: images, (B, C, H, W); only their shape, type and device count.

    Returns:
        bool (B, ...), and A(0), (B, ...).
    """
    if measures_everything(physics):
        nothing = physics.A(torch.zeros_like(like))
        return torch.ones_like(nothing, dtype=torch.bool), nothing
    ramp = torch.linspace(0.1, 0.9, like[0].numel(), device=like.device, dtype=like.dtype)
    ramp = ramp.reshape(like[:1].shape).expand_as(like)
    nothing = physics.A(torch.zeros_like(ramp))
    moved = torch.zeros_like(nothing, dtype=torch.bool)
    for probe in (ramp, -ramp, chirp(ramp), torch.full_like(ramp, 0.99)):
        moved |= physics.A(probe) != nothing
    return moved, nothing
