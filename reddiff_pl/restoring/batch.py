"""A batch: samples of one shard, stacked and padded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from reddiff_pl.devices.copies import upload
from reddiff_pl.shards.plan import Shard
from reddiff_pl.shards.reader import Failure, RawSample
from reddiff_pl.shards.samples import Sample, to_uint8
from reddiff_pl.shards.writer import ShardWriter

Entry: TypeAlias = Sample | RawSample | Failure
"""A place in a shard: a sample to restore, one that is kept from an earlier run as it is, or a failure."""


@dataclass
class Batch:
    """Samples [jB, (j+1)B) of one shard, padded to B by repeating one.

    Attributes:
        shard: where it comes from.
        writer: the shard's output; None when nothing is written.
        entries: all its places, in input order.
        samples: the samples among them; row i of the tensors is `samples[i]`, further rows are padding.
        y: measurements, (B, ...).
        params: operator parameters, {name: (B, ...)}.
        label: class labels, long (B,), where the prior takes them.
        noise_std: standard deviation of each measurement's noise, in y's units, (B,).
        references: (B, C, H, W), uint8, or float32 on the [0, 1] scale where one has more than 8 bits; black for rows
            without one; None where no sample has one.
        last: the shard ends here.
        complete: False when --limit cuts the shard short.
        fraction: share of the task's input that has been read.
        places: how many places of the shard it stands for, those written by an earlier run included.
    """

    shard: Shard
    writer: ShardWriter | None
    entries: list[Entry]
    samples: list[Sample] = field(default_factory=list)
    y: Tensor | None = None
    params: dict[str, Tensor] = field(default_factory=dict)
    label: Tensor | None = None
    noise_std: Tensor | None = None
    references: Tensor | None = None
    last: bool = False
    complete: bool = True
    fraction: float = 0.0
    places: int = 0

    @property
    def keys(self) -> list[str]:
        """A key a row; padding rows carry that of the sample they repeat."""
        rows = len(self.y) if self.y is not None else 0
        return [self.samples[i if i < len(self.samples) else 0].key for i in range(rows)]

    def to(self, device: torch.device, **kwargs: Any) -> Batch:
        """The batch with its tensors on a device, on their way there; called by Lightning."""
        return self._map(lambda tensor: upload(tensor, device))

    def pinned(self) -> Batch:
        """The batch in memory that a CUDA device copies from by itself."""
        return self._map(Tensor.pin_memory)

    def account(self) -> Batch:
        """The batch without its tensors: what the writer needs to know."""
        return dataclasses.replace(self, y=None, params={}, label=None, noise_std=None, references=None)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        def one(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return dataclasses.replace(
            self,
            y=one(self.y),
            params={name: change(value) for name, value in self.params.items()},
            label=one(self.label),
            noise_std=one(self.noise_std),
            references=one(self.references),
        )


def collate(shard: Shard, writer: ShardWriter | None, entries: list[Entry], batch_size: int) -> Batch:
    """Stack the samples among `entries` and pad them to `batch_size`.

    A sample whose measurement or parameters have another shape than the first one's becomes a failure.
    """
    first: Sample | None = None
    for i, entry in enumerate(entries):
        if not isinstance(entry, Sample):
            continue
        first = first or entry
        if different := _difference(entry, first):
            entries[i] = Failure(entry.index, entry.key, different)
    samples = [entry for entry in entries if isinstance(entry, Sample)]
    batch = Batch(shard, writer, entries, samples)
    if first is None:
        return batch
    rows = samples + [samples[0]] * (batch_size - len(samples))
    batch.y = torch.stack([sample.y for sample in rows])
    batch.params = {name: torch.stack([sample.params[name] for sample in rows]) for name in first.params}
    batch.noise_std = torch.tensor([sample.noise_std for sample in rows])
    labels = [sample.label for sample in rows if sample.label is not None]
    if len(labels) == len(rows):
        batch.label = torch.tensor(labels)
    shown = next((sample.x for sample in samples if sample.x is not None), None)
    if shown is not None:
        black = torch.full_like(shown, -1)
        stacked = torch.stack([black if row.x is None else row.x for row in rows])
        batch.references = to_uint8(stacked) if all(row.exact for row in rows) else (stacked + 1) / 2
    return batch


def _difference(sample: Sample, first: Sample) -> str | None:
    """Why two samples cannot be in one batch, if so."""
    tensors, others = ({"y": s.y, **s.params} for s in (sample, first))
    if set(tensors) != set(others):
        return f"brings {', '.join(tensors)}, but {first.key} of the same batch {', '.join(others)}"
    for name, tensor in tensors.items():
        if tensor.shape != others[name].shape:
            return (
                f"{name} has shape {tuple(tensor.shape)}, but that of {first.key} in the same batch "
                f"{tuple(others[name].shape)}; keep images of one size in a shard"
            )
    return None
