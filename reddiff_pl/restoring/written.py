"""Restored images as they are written: in the depth and the kind of file that came in, or that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.shards import encode
from reddiff_pl.shards.picture import Source, resized_plane
from reddiff_pl.shards.samples import Sample

Kind: TypeAlias = Literal["png", "png16", "tiff", "npy"]
KINDS = ("png", "png16", "tiff", "npy")


@dataclass(frozen=True)
class Form:
    """How one restored image is written.

    Attributes:
        kind: of file.
        levels: steps between black and white, 255 or 65535; 0: floats, neither rounded nor clipped.
        grey: as one channel, because the file that came in has one where the prior has three; their mean.
    """

    kind: Kind
    levels: int
    grey: bool = False

    @staticmethod
    def of(sample: Sample, channels: int, output: Kind | None = None) -> Form:
        """The form of a sample's image.

        Args:
            sample: it.
            channels: of the prior's images.
            output: `model.output`; None: what came in, a png of 8 or 16 bits, npy for floats and for channels that a
                png cannot hold.
        """
        bits = sample.depth
        if output is None:
            output = "npy" if bits == 0 or channels not in (1, 3) else "png" if bits <= 8 else "png16"
        levels = {"png": 255, "png16": 65535, "npy": 0}.get(output)
        if levels is None:  # tiff
            levels = 0 if bits == 0 else 255 if bits <= 8 else 65535
        return Form(output, levels, sample.grey and channels == 3)


def check(output: str | None, channels: int) -> None:
    """Stop where a prior's images cannot be written so.

    Raises:
        ConfigError: `model.output` is no kind, or cannot hold so many channels.
    """
    if output is not None and output not in KINDS:
        raise ConfigError(f"--model.output: must be one of {', '.join(KINDS)}, got {output}")
    if output in ("png", "png16") and channels not in (1, 3):
        raise ConfigError(
            f"--model.output: {output} holds 1 or 3 channels, the prior has {channels}; choose npy or tiff"
        )


def as_written(x: Tensor, forms: Sequence[Form]) -> Tensor:
    """Images with what their files will keep of them.

    Args:
        x: (B, C, H, W) in [-1, 1].
        forms: of each.

    Returns:
        uint8 where all are of 8 bits, else float32 on the [0, 1] scale, rounded and clipped to the levels of each.
    """
    if any(form.grey for form in forms):
        grey = torch.tensor([form.grey for form in forms], device=x.device)[:, None, None, None]
        x = torch.where(grey, x.mean(1, keepdim=True), x)
    if all(form.levels == 255 for form in forms):
        return encode.to_uint8(x)
    values = (x.float() + 1) / 2
    steps = torch.tensor([form.levels for form in forms], device=x.device)[:, None, None, None]
    rounded = (values.clamp(0, 1) * steps).round() / steps.clamp(min=1)
    return torch.where(steps > 0, rounded, values)


def unit(images: Tensor) -> Tensor:
    """Images of `as_written`, whichever of the two they are, as float32 on the [0, 1] scale."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def files(stem: str, image: Tensor, form: Form, source: Source | None) -> list[tuple[str, bytes]]:
    """An image's members, (file name after the first dot, content): itself, and its alpha where its kind has none.

    Args:
        stem: what stands before the kind: empty for the image, `start`, `sample0`, ...
        image: one of `as_written`, (C, H, W).
        form: its form.
        source: the file that came in; gives alpha and date.
    """
    name = f"{stem}." if stem else ""
    image = image[:1] if form.grey else image
    alpha = source.alpha if source is not None and not stem else None
    date = source.date if source is not None and not stem else None
    if alpha is not None:
        alpha = resized_plane(alpha, image.shape[-2:])
    if form.kind == "npy":
        members = [(f"{name}npy", encode.npy(unit(image)))]
        return members if alpha is None else [*members, ("alpha.png", encode.png(alpha))]
    pixels = _integers(image, form.levels)
    if alpha is not None:
        alpha = _like(alpha, pixels)
    if form.kind == "tiff":
        return [(f"{name}tiff", encode.tiff(pixels, alpha, date))]
    return [(f"{name}png", encode.png(pixels, alpha, date))]


def _integers(image: Tensor, levels: int) -> Tensor:
    if not levels:
        return unit(image)
    if levels == 255:
        return image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
    return (unit(image) * levels).round().to(torch.int32).to(torch.uint16)


def _like(alpha: Tensor, pixels: Tensor) -> Tensor:
    """Alpha in the type of its picture's values."""
    if alpha.dtype == pixels.dtype:
        return alpha
    share = alpha.float() / (255 if alpha.dtype == torch.uint8 else 65535)
    if pixels.dtype == torch.float32:
        return share
    return (share * (255 if pixels.dtype == torch.uint8 else 65535)).round().to(torch.int32).to(pixels.dtype)
