"""The operator's parameters that a sample brings as files: masks, kernels, coil maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from reddiff_pl.errors import SampleError
from reddiff_pl.physics.binding import (
    binary_parameters,
    channelled_parameters,
    flat_parameters,
    parameter_names,
)
from reddiff_pl.physics.degrade import Degradation
from reddiff_pl.shards import decode
from reddiff_pl.shards.picture import unit

KERNELS = ("kernel", "filter", "psf")
ONE = 1 / 255  # in a picture of 8 bits that holds 0 and 1


def given_parameters(
    members: Mapping[str, bytes | Path],
    degradation: Degradation,
    max_pixels: int,
    invert_mask: bool,
    notes: list[str],
) -> dict[str, Tensor]:
    """NAME.npy as it is, NAME.png (or jpg, ...) in [0, 1].

    A kernel in a picture is known but for its sum, which is made 1. Masks are zeros and ones, whatever wrote them: of
    greys, from half on, 1; also of 0 and 1 in 8 bits, and of 0 and 255 in an array.

    Args:
        members: the sample's files.
        degradation: the operator.
        max_pixels: larger pictures are refused.
        invert_mask: masks are white where pixels are missing.
        notes: gets what is to be told of them, a line each.

    Raises:
        SampleError: one is damaged, transparent, or there twice; a kernel does not sum to about 1.
    """
    given: dict[str, Tensor] = {}
    for name in parameter_names(degradation.physics):
        array, picture = f"{name}.npy", image_member(members, f"{name}.")
        if array in members and picture:
            both = " and ".join(decode.called(member, members[member]) for member in (array, picture))
            raise SampleError(f"{both} are both its {name}; leave one of them out")
        if array not in members and not picture:
            continue
        member = picture or array
        called, content = decode.called(member, members[member]), decode.member_bytes(members[member])
        if picture:
            value = _of_picture(content, called, name, degradation, max_pixels, notes)
        else:
            value = _of_array(content, called, name, degradation)
        kind = name.split("_")[0]
        if invert_mask and kind == "mask":
            value = 1 - value
        _judge(value, name, kind, notes)
        given[name] = value
    return given


def image_member(members: Mapping[str, bytes | Path], prefix: str) -> str:
    """The member with this prefix and the suffix of an image; empty without one."""
    return next((prefix + suffix for suffix in decode.IMAGE_MEMBERS if prefix + suffix in members), "")


def _of_array(content: bytes, called: str, name: str, degradation: Degradation) -> Tensor:
    value = decode.array(content, called)
    if name in binary_parameters(degradation.physics):
        if value.is_complex():
            raise SampleError(f"{called} holds complex numbers, expected zeros and ones")
        if bool(((value == 0) | (value == 255)).all()):
            value = value / 255
    if value.ndim == 2 and name in channelled_parameters(degradation.physics, degradation.shape):
        value = value[None]
    return value


def _of_picture(
    content: bytes, called: str, name: str, degradation: Degradation, max_pixels: int, notes: list[str]
) -> Tensor:
    picture = decode.image(content, called, 1, max_pixels)
    value = decode.unit_tensor(picture)
    if (alpha := picture.source.alpha) is not None:
        clear = float((unit(alpha.numpy()) < 0.5).mean())
        if clear > 0:
            raise SampleError(
                f"{called}: {clear:.0%} of it are transparent, which is neither black nor white; store it without "
                "transparency"
            )
    if name in binary_parameters(degradation.physics):
        levels = value.unique()
        if len(levels) == 2 and picture.source.bits == 8 and torch.allclose(levels, torch.tensor([0, ONE])):
            notes.append(f"{called} holds 0 and 1 of 255: 1 is taken as white")
            value = value / ONE
        grey = float(((value > 0.1) & (value < 0.9)).float().mean())
        if grey > 0.01:  # a softened edge is nothing to speak of
            notes.append(f"{called}: {grey:.0%} of it are greys; from half on they count as white")
        value = value.round()  # 0 or 1, whatever wrote it
    elif name.split("_")[0] in KERNELS[:2]:
        value = value / value.sum().clamp(min=1e-6)  # all black, it stays zero
    return value[0] if name in flat_parameters(degradation.physics, degradation.shape) else value


def _judge(value: Tensor, name: str, kind: str, notes: list[str]) -> None:
    """Tell, or refuse, what cannot be meant."""
    if kind in KERNELS and not value.any():
        raise SampleError(f"{name} is zero everywhere")
    if kind in KERNELS and not value.is_complex() and value.ndim > 1 and bool((value >= 0).all()):
        total = float(value.sum((-2, -1)).mean())
        if not 0.5 < total < 2:
            raise SampleError(f"{name} sums to {total:.3g}, expected about 1; divide it by its sum")
    if kind == "mask" and not value.any():
        notes.append(f"{name} keeps nothing of the measurement; is it inverted (--data.invert_mask)?")
    elif kind == "mask" and bool((value == 1).all()):
        notes.append(f"{name} keeps all of the measurement: nothing is filled in")
