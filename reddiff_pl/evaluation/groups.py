"""Images of one shape, stacked: what measures are computed on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reddiff_pl.evaluation.pairs import Pair
from reddiff_pl.metrics.scale import unit


@dataclass
class Group:
    """The images of a batch that have one shape.

    Attributes:
        at: their places in the batch.
        images: (n, C, H, W), uint8, or float32 on the [0, 1] scale where one is.
        known: places in the batch of those with a reference.
        restored: the images of these, (m, C, H, W).
        references: theirs, (m, C, H, W).
        begun: places in the batch of those whose A_dagger(y) was kept.
        starts: these as they can be shown, uint8 (k, 1 or 3, H, W).
    """

    at: list[int]
    images: Tensor
    known: list[int]
    restored: Tensor
    references: Tensor
    begun: list[int]
    starts: Tensor


def groups(batch: Sequence[Pair], device: torch.device) -> Iterator[Group]:
    """The groups of a batch, in the order of their first images."""
    shapes: dict[torch.Size, list[int]] = {}
    for place, pair in enumerate(batch):
        shapes.setdefault(pair.values.shape, []).append(place)
    for shape, at in shapes.items():
        images = _stack([batch[i].values for i in at]).to(device)
        known = [(n, i, r) for n, i in enumerate(at) if (r := batch[i].reference_values) is not None]
        begun = [(i, s) for i in at if (s := batch[i].start) is not None and s.shape[1:] == shape[1:]]
        yield Group(
            at,
            images,
            [i for _, i, _ in known],
            images[[n for n, _, _ in known]],
            _stack([r for _, _, r in known]).to(device) if known else images[:0],
            [i for i, _ in begun],
            _stack([s for _, s in begun]).to(device) if begun else images[:0],
        )


def _stack(images: Sequence[Tensor]) -> Tensor:
    if any(image.dtype != torch.uint8 for image in images):
        images = [unit(image, torch.float32) for image in images]
    return torch.stack(list(images))
