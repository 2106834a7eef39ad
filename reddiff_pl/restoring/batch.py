"""A batch: the samples of some neighbouring places of one shard, those of one shape stacked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from reddiff_pl.devices.copies import upload
from reddiff_pl.shards.encode import to_uint8
from reddiff_pl.shards.plan import Shard
from reddiff_pl.shards.reader import Failure, RawSample
from reddiff_pl.shards.samples import Sample
from reddiff_pl.shards.writer import ShardWriter

Entry: TypeAlias = Sample | RawSample | Failure
"""A place in a shard: a sample to restore, one that is kept from an earlier run as it is, or a failure."""


@dataclass
class Group:
    """Samples of a batch whose tensors have the same shapes, in input order.

    Attributes:
        places: where its samples are among the batch's.
        keys: their keys.
        shape: (C, H, W) of their images.
        y: measurements, (B, ...).
        params: operator parameters, {name: (B, ...)}.
        noise_std: standard deviation of each measurement's noise, in y's units, (B,).
        label: class labels, long (B,), where the prior takes them.
        references: (B, C, H, W), uint8, or float32 on the [0, 1] scale where one has more than 8 bits; black for
            samples without one; None where none has one.
    """

    places: list[int]
    keys: list[str]
    shape: tuple[int, int, int]
    y: Tensor
    params: dict[str, Tensor]
    noise_std: Tensor
    label: Tensor | None = None
    references: Tensor | None = None

    def rows(self, start: int, end: int) -> Group:
        """A part of it."""
        part = dataclasses.replace(self, places=self.places[start:end], keys=self.keys[start:end])
        return part.map(lambda tensor: tensor[start:end])

    def map(self, change: Callable[[Tensor], Tensor]) -> Group:
        """The same with its tensors changed."""
        return dataclasses.replace(
            self,
            y=change(self.y),
            params={name: change(value) for name, value in self.params.items()},
            noise_std=change(self.noise_std),
            label=None if self.label is None else change(self.label),
            references=None if self.references is None else change(self.references),
        )


@dataclass
class Batch:
    """The samples of neighbouring places of one shard.

    Attributes:
        shard: where it comes from.
        writer: the shard's output; None when nothing is written.
        entries: all its places, in input order.
        samples: the samples among them.
        groups: their tensors, by shape, in the order of each shape's first sample.
        size: how many places a batch may have; what is captured for a shape may be made for so many images.
        last: the shard ends here.
        complete: False when --limit cuts the shard short.
        fraction: share of the task's input that has been read.
        places: how many places of the shard it stands for, those written by an earlier run included.
        not_looked_at: at the end of the shard, how many files of which kind are of no sample.
    """

    shard: Shard
    writer: ShardWriter | None
    entries: list[Entry]
    samples: list[Sample] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    size: int = 1
    last: bool = False
    complete: bool = True
    fraction: float = 0.0
    places: int = 0
    not_looked_at: Mapping[str, int] = field(default_factory=dict)

    def to(self, device: torch.device, **kwargs: Any) -> Batch:
        """The batch with its tensors on a device, on their way there; called by Lightning."""
        return self._map(lambda tensor: upload(tensor, device))

    def pinned(self) -> Batch:
        """The batch in memory that a CUDA device copies from by itself."""
        return self._map(Tensor.pin_memory)

    def account(self) -> Batch:
        """The batch without its tensors: what the writer needs to know."""
        return dataclasses.replace(self, groups=[])

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return dataclasses.replace(self, groups=[group.map(change) for group in self.groups])


def collate(shard: Shard, writer: ShardWriter | None, entries: list[Entry], size: int) -> Batch:
    """Stack the samples among `entries` that have the same shapes.

    The samples of the batch let go of their own tensors, which would be there twice.
    """
    samples = [entry for entry in entries if isinstance(entry, Sample)]
    alike: dict[object, list[int]] = {}
    for place, sample in enumerate(samples):
        shapes = [(name, value.shape, value.dtype) for name, value in sorted(sample.params.items())]
        key = (sample.shape, sample.y.shape, sample.y.dtype, *shapes, sample.label is None)
        alike.setdefault(key, []).append(place)
    groups = [_stacked([samples[place] for place in places], places) for places in alike.values()]
    light = {id(sample): _without_tensors(sample) for sample in samples}
    entries = [light.get(id(entry), entry) for entry in entries]
    return Batch(shard, writer, entries, list(light.values()), groups, size)


def _without_tensors(sample: Sample) -> Sample:
    empty = torch.empty(0)
    return dataclasses.replace(sample, y=empty, params={}, x=None if sample.x is None else empty)


def _stacked(samples: list[Sample], places: list[int]) -> Group:
    first = samples[0]
    references = None
    if any(sample.x is not None for sample in samples):
        black = torch.full(first.shape, -1.0)
        stacked = torch.stack([black if sample.x is None else sample.x for sample in samples])
        references = to_uint8(stacked) if all(sample.exact for sample in samples) else (stacked + 1) / 2
    labels = [sample.label for sample in samples if sample.label is not None]
    return Group(
        places=places,
        keys=[sample.key for sample in samples],
        shape=first.shape,
        y=torch.stack([sample.y for sample in samples]),
        params={name: torch.stack([sample.params[name] for sample in samples]) for name in first.params},
        noise_std=torch.tensor([sample.noise_std for sample in samples]),
        label=torch.tensor(labels) if labels else None,
        references=references,
    )
