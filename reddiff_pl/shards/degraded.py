"""A sample as the members that `degrade` writes: measurement, parameters and reference."""

from __future__ import annotations

import torch
from torch import Tensor

from reddiff_pl.shards import encode
from reddiff_pl.shards.samples import Sample


def members_of(sample: Sample, noise_free: bool, scale: float) -> list[tuple[str, bytes]]:
    """A sample as `degrade` writes it: measurement, parameters and reference, without its .json."""
    members = [_measurement_member(sample.y, noise_free, scale)]
    for name, value in sample.params.items():
        is_mask = value.ndim == 3 and len(value) in (1, 3) and bool(((value == 0) | (value == 1)).all())
        if is_mask and len(value) == 1:
            members.append((f"{name}.png", encode.png((value * 255).byte())))
        else:
            members.append((f"{name}.npy", encode.npy(value)))
    if sample.x is not None:
        members.append(_reference_member(sample))
    return members


def _measurement_member(y: Tensor, noise_free: bool, scale: float) -> tuple[str, bytes]:
    """A png only where it holds the measurement exactly: 8 bit would clip noise and turn a masked 0 into grey."""
    if noise_free and y.ndim == 3 and len(y) in (1, 3):
        offset = scale - 1
        levels = ((y + offset) / scale * 255).round()
        exact = bool((scale * (levels / 255) - offset == y).all())
        if exact and bool(((levels >= 0) & (levels <= 255)).all()):
            return "y.png", encode.png(levels.byte())
    return "y.npy", encode.npy(y)


def _reference_member(sample: Sample) -> tuple[str, bytes]:
    """A png of 8 or 16 bits, as deep as what came in; npy, on the [0, 1] scale, for floats and other channels."""
    assert sample.x is not None
    x = sample.x[:1] if sample.grey else sample.x
    if len(x) not in (1, 3) or sample.depth == 0:
        return "x.npy", encode.npy((x + 1) / 2)
    if sample.depth <= 8:
        return "x.png", encode.png(encode.to_uint8(x))
    return "x.png", encode.png(((x + 1) * 32767.5).round().clamp(0, 65535).to(torch.int32).to(torch.uint16))
