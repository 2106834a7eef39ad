"""From a raw sample to what a restoration needs: measurement, operator parameters, reference, metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from reddiff_pl.errors import SampleError
from reddiff_pl.physics.binding import parameters_of_file, rounds
from reddiff_pl.physics.degrade import Degradation
from reddiff_pl.shards import decode, metadata, npy
from reddiff_pl.shards.parameters import given_parameters, image_member
from reddiff_pl.shards.picture import Picture, Source
from reddiff_pl.shards.reader import RawSample
from reddiff_pl.shards.rounding import rounding_level


@dataclass
class Sample:
    """One image to restore.

    Attributes:
        index: its place in the shard.
        key: its name.
        y: measurement, in the operator's own range.
        params: the operator's parameters for this image, {name: (...)}.
        x: reference, (C, H, W) in [-1, 1], if there is one.
        meta: its metadata.
        meta_json: the same as they came, passed through.
        label: its class, where the prior takes labels.
        noise_std: standard deviation of the measurement's noise, in y's units, as a sampler is to take it.
        sigma_y: that of the file's own values, on the [0, 1] scale.
        sigma_y_of: who said so: json, option, estimate, noise (the task's) or file (its rounding).
        file: of a folder, its file's path there.
        source: the file that the measurement, or the clean image, was read from.
        depth: bits of a value of the image that came in, as `Source.bits`: those of the reference where the measurement
            is an array.
        grey: it came as one channel, and was made several equal ones.
        exact: 8 bits hold the reference.
        shape: (C, H, W) of the image.
        notes: what is to be told of its parameters, a line each.
    """

    index: int
    key: str
    y: Tensor
    params: dict[str, Tensor]
    x: Tensor | None
    meta: dict[str, Any]
    shape: tuple[int, int, int]
    label: int | None = None
    noise_std: float = 0.0
    sigma_y: float = 0.0
    sigma_y_of: str = "noise"
    file: str | None = None
    source: Source | None = None
    meta_json: bytes = b"{}"
    notes: tuple[str, ...] = ()
    depth: int = 8
    grey: bool = False
    exact: bool = True


def prepare(
    raw: RawSample,
    degradation: Degradation,
    max_pixels: int = decode.MAX_PIXELS,
    invert_mask: bool = False,
    rounding: bool = True,
) -> Sample:
    """Decode a sample, and degrade it where it is a clean image.

    A sample with a member y is a measurement; one with a bare image (`KEY.jpg`, `KEY.npy`) is clean, and also its
    own reference.

    Args:
        raw: its files.
        degradation: the operator and the noise.
        max_pixels: larger pictures are refused.
        invert_mask: masks are white where pixels are missing.
        rounding: the noise of a measurement is at least what its file has rounded away, where no level is given.

    Raises:
        SampleError: what is wrong with it.
    """
    channels = degradation.shape[0]
    members = raw.members
    content = decode.member_bytes(members["json"]) if "json" in members else b"{}"
    called = decode.called("json", members.get("json", b""))
    meta = metadata.parse(content, called, constants=True)  # a level of NaN is none that was not given
    meta_json = metadata.as_utf8(content)
    notes: list[str] = []
    given = given_parameters(members, degradation, max_pixels, invert_mask, notes)
    fit = degradation.shape[1:] if degradation.fit == "crop" else None
    reference = reference_picture(members, channels, fit, max_pixels)
    x = None if reference is None else 2 * decode.unit_tensor(reference) - 1

    if is_measured(members):
        if "y.npy" in members:
            content = decode.member_bytes(members["y.npy"])
            whole = npy.kind(content) in "iu"
            called = decode.called("y.npy", members["y.npy"])
            y, grey = _measured_array(content, called, degradation, notes)
            source = Source(called, bits=0, channels=1 if grey else channels)
            depth = 0 if reference is None else reference.source.bits
        else:
            name = image_member(members, "y.")
            content, whole = decode.member_bytes(members[name]), False
            called = decode.called(name, members[name])
            picture = decode.image(content, called, degradation.picture_channels, max_pixels)
            source, depth = picture.source, picture.source.bits
            # what an operator makes of colours in one channel is not to stay grey
            grey = source.channels == 1 and degradation.picture_channels == 3
            given = {**parameters_of_file(degradation.physics, content), **given}
            # [0, 1] in the operator's own range
            y = degradation.scale * decode.unit_tensor(picture) - (degradation.scale - 1)
        size = None if reference is None else (reference.height, reference.width)
        y = degradation.in_its_numbers(y, given, size)
        y, params, shape = degradation.accept(y, raw.key, given, size, whole)
        if reference is not None and size != shape[1:]:
            raise SampleError(
                f"{reference.source.name} has {reference.width}x{reference.height} pixels, expected "
                f"{shape[2]}x{shape[1]}"
            )
        told = _told(degradation, y, params, meta, shape)
        if told["sigma_y_of"] == "json" and told["sigma_y"] > 1:
            notes.append(
                f"sigma_y {told['sigma_y']:g} in KEY.json is on the [0, 1] scale: more than black to white"
            )
        if rounding and told["sigma_y_of"] in ("noise", "estimate"):
            least = rounding_level(source.bits, content, degradation.physics)
            if least > told["sigma_y"]:
                told = {"noise_std": degradation.scale * least, "sigma_y": least, "sigma_y_of": "file"}
        if grey and not rounds(degradation.physics):
            # three copies of one noise: along grey it is that much more than three noises of their own would be
            told["noise_std"] *= channels**0.5
        exact = reference is None or 0 < reference.source.bits <= 8
        return Sample(
            *(raw.index, raw.key, y, params, x, meta, shape),
            **told,
            file=raw.file,
            notes=tuple(notes),
            source=source,
            meta_json=meta_json,
            depth=depth,
            grey=grey,
            exact=exact,
        )

    if x is None or reference is None:
        names = ", ".join(sorted(members)) or "nothing"
        raise SampleError(
            f"no measurement: expected KEY.y.npy, KEY.y.png or a clean image such as KEY.jpg, found {names}"
        )
    y, params = degradation(x, raw.key, given)
    source = reference.source
    shape = (channels, reference.height, reference.width)
    return Sample(
        *(raw.index, raw.key, y, params, x, meta, shape),
        **_told(degradation, y, params, {}, shape),
        file=raw.file,
        notes=tuple(notes),
        source=source,
        meta_json=meta_json,
        depth=source.bits,
        grey=source.channels == 1 and channels == 3,
        exact=0 < source.bits <= 8,
    )


def _measured_array(
    content: bytes, called: str, degradation: Degradation, notes: list[str]
) -> tuple[Tensor, bool]:
    """A measurement in the operator's own range, and whether it is grey where the operator makes three channels."""
    y = decode.array(content, called)
    if y.is_complex() or degradation.measured_channels is None or y.ndim not in (2, 3) or not y.numel():
        return y, False
    y = y[None] if y.ndim == 2 else y
    if degradation.scale == 2 and y.min() >= 0 and 0.5 < y.max() <= 1:
        notes.append(f"{called} lies in [0, 1], the operator's range is [-1, 1]; is it to be 2 y - 1?")
    grey = len(y) == 1 and degradation.measured_channels == 3
    return (y.repeat(3, 1, 1) if grey else y), grey


def _told(
    degradation: Degradation,
    y: Tensor,
    params: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    shape: tuple[int, int, int],
) -> dict[str, Any]:
    """The noise level of a measurement by its own .json, the option or the task, as `Sample` keeps it."""
    own = meta.get("sigma_y")
    level = degradation.sigma_y if own is None else own
    said = "noise" if level is None else "json" if own is not None else "option"
    noise_std = degradation.noise_std(y, params, level, shape)
    return {
        "noise_std": noise_std,
        "sigma_y": noise_std / degradation.scale,
        "sigma_y_of": "estimate" if level == "estimate" else said,
    }


def reference_picture(
    members: Mapping[str, bytes | Path],
    channels: int,
    size: tuple[int, int] | None = None,
    max_pixels: int = decode.MAX_PIXELS,
) -> Picture | None:
    """A sample's reference as the run takes it; None without one.

    The bare image (`KEY.jpg`, `KEY.npy`) of a clean sample, cropped and reduced; `KEY.x.png` or `KEY.x.npy` of one that
    brings a measurement.

    Args:
        members: its files.
        channels: of the run's images.
        size: height and width that a clean image is cropped and reduced to; None: it is kept whole.
        max_pixels: larger pictures are refused.

    Raises:
        SampleError: it is damaged, or too small.
    """
    measured = is_measured(members)
    prefix = "x." if measured else ""
    name = image_member(members, prefix) or f"{prefix}npy"
    if name not in members:
        return None
    called, content = decode.called(name, members[name]), decode.member_bytes(members[name])
    read = decode.array_image if name.endswith("npy") else decode.image
    picture = read(content, called, channels, max_pixels)
    return picture if measured or size is None else decode.fitted(picture, *size, called)


def is_measured(members: Mapping[str, bytes | Path]) -> bool:
    """Whether a sample brings a measurement, `KEY.y.npy` or `KEY.y.png`, and is not a clean image."""
    return "y.npy" in members or bool(image_member(members, "y."))
