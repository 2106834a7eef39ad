"""Shards to batches: the plan's shards one after the other, each in batches at fixed places."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from deepinv.physics import Physics
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.physics.degrade import Degradation
from reddiff_pl.physics.noise import MeasurementNoise, NoNoise
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import finished
from reddiff_pl.shards.lock import holder
from reddiff_pl.shards.plan import Shard, assigned, plan
from reddiff_pl.shards.reader import Failure, RawSample, read_shard
from reddiff_pl.shards.samples import Sample, prepare
from reddiff_pl.shards.writer import ShardWriter

log = logging.getLogger(__name__)


@dataclass
class Batch:
    """Samples [jB, (j+1)B) of one shard, padded to B by repeating one.

    Attributes:
        shard: where it comes from.
        writer: the shard's output; None when nothing is written.
        entries: its samples and failures, in input order.
        samples: the samples among them; row i of the tensors is `samples[i]`, further rows are padding.
        y: measurements, (B, ...).
        params: operator parameters, {name: (B, ...)}.
        label: class labels, long (B,), where all samples have one.
        last: the shard ends here.
        complete: False when --limit cuts the shard short.
        fraction: share of the task's input that has been read.
    """

    shard: Shard
    writer: ShardWriter | None
    entries: list[Sample | Failure]
    samples: list[Sample] = field(default_factory=list)
    y: Tensor | None = None
    params: dict[str, Tensor] = field(default_factory=dict)
    label: Tensor | None = None
    last: bool = False
    complete: bool = True
    fraction: float = 0.0

    @property
    def keys(self) -> list[str]:
        """A key a row; padding rows carry that of the sample they repeat."""
        rows = len(self.y) if self.y is not None else 0
        return [self.samples[i if i < len(self.samples) else 0].key for i in range(rows)]

    def to(self, device: torch.device, **kwargs: Any) -> Batch:
        """The batch with its tensors on a device; called by Lightning."""
        return dataclasses.replace(
            self,
            y=None if self.y is None else self.y.to(device),
            params={name: value.to(device) for name, value in self.params.items()},
            label=None if self.label is None else self.label.to(device),
        )


class ShardDataModule(LightningDataModule):
    """Streams shards, or a folder of images, to the restoration.

    Args:
        shards: input tars: paths, URLs, braces, wildcards; or a list of them.
        images: a folder of clean images instead, degraded on the fly.
        batch_size: images restored together. A batch always has this size; the last one is padded.
        size: side of the square that clean images are reduced to, in pixels. Default: the prior's.
        workers: decoding threads.
        out: output directory; finished shards there are skipped. Filled in from --out.
        limit: only the first so many samples of the run, for a preview. Filled in from --limit.
        seed: the run's seed. Filled in from --seed.
        physics: the operator. Filled in from the model.
        noise: the measurement noise. Filled in from the model.
        shape: (C, H, W) of the prior. Filled in from the model.

    Raises:
        ConfigError: the shards are not there, or the options do not fit each other.
    """

    def __init__(
        self,
        shards: str | list[str] | None = None,
        images: str | None = None,
        batch_size: int = 8,
        size: int | None = None,
        workers: int = 2,
        out: str | None = None,
        limit: int | None = None,
        seed: int = 0,
        physics: Physics | None = None,
        noise: MeasurementNoise | None = None,
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        for name, value in {
            "batch_size": batch_size,
            "workers": workers,
            "size": size,
            "limit": limit,
        }.items():
            if value is not None and value < 1:
                raise ConfigError(f"--data.{name}: must be at least 1, got {value}")
        if physics is None or shape is None:
            raise ConfigError("--model.physics: no operator; name one, or a tasks/*.yaml that does")
        if size is not None:
            shape = (shape[0], size, size)
        self.batch_size, self.workers, self.limit = batch_size, workers, limit
        self.run = Run(out) if out is not None else None
        self.degradation = Degradation(physics, noise or NoNoise(), shape, seed)
        self.shards = assigned(plan(shards, images), 0, 1)
        self.held: list[str] = []  # shards that other tasks were writing
        self._check_operator()

    def _check_operator(self) -> None:
        """Degrade an empty image once, so that an operator that does not fit stops the run before any work."""
        try:
            y, params = self.degradation(torch.zeros(self.degradation.shape), "check", {})
        except SampleError:
            return  # every sample must bring its own parameters
        except ConfigError:
            raise
        except Exception as error:  # any operator may be named, and raises what it likes
            raise ConfigError(
                f"--model.physics: the operator does not take images of {self.degradation.shape}: {error}"
            ) from error
        bound = self.degradation.bound(params)
        try:
            shape = tuple(bound.A_dagger(y[None]).shape[1:])
        except Exception as error:
            raise ConfigError(f"--model.physics: A_dagger fails: {error}") from error
        if shape != self.degradation.shape:
            raise ConfigError(
                f"--model.physics: A_dagger gives images of {shape}, expected {self.degradation.shape}"
            )

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(_Batches(self), batch_size=None)

    def batches(self) -> Iterator[Batch]:
        """All batches of this task's unfinished shards, each shard closed by an empty one marked `last`."""
        todo = [s for s in self.shards if self.run is None or finished(self.run, s.name) is None]
        if skipped := len(self.shards) - len(todo):
            log.info("%d of %d shards are finished already", skipped, len(self.shards))
        sizes = [max(shard.size, 1) for shard in todo]
        left = self.limit
        with ThreadPoolExecutor(self.workers, "decode") as pool:
            for number, shard in enumerate(todo):
                if left == 0:
                    return
                writer = ShardWriter(self.run, shard.name) if self.run is not None else None
                if writer is not None and not writer.open():
                    self.held.append(shard.name)
                    log.info("shard %s is held by %s", shard.name, holder(writer.run.lock(shard.name)))
                    continue
                for batch in self._shard_batches(shard, writer, pool, left):
                    if left is not None:
                        left -= len(batch.entries)
                    read = batch.fraction * sizes[number]
                    batch.fraction = (sum(sizes[:number]) + read) / sum(sizes)
                    yield batch

    def _shard_batches(
        self, shard: Shard, writer: ShardWriter | None, pool: ThreadPoolExecutor, limit: int | None
    ) -> Iterator[Batch]:
        """Batches of one shard; decoding runs one batch ahead, in order."""
        source = iter(read_shard(shard))
        raws = itertools.islice(source, limit)
        ahead: deque[tuple[list[RawSample | Failure], list[Future[Sample | Failure]]]] = deque()
        while True:
            while len(ahead) < 2 and (group := list(itertools.islice(raws, self.batch_size))):
                # a batch of which only a part was written is computed again whole
                written = writer is not None and all(map(writer.has, group))
                ahead.append((group, [] if written else [pool.submit(self._prepare, raw) for raw in group]))
            if not ahead:
                break
            group, futures = ahead.popleft()
            batch = collate(shard, writer, [future.result() for future in futures], self.batch_size)
            position = max((raw.position for raw in group if isinstance(raw, RawSample)), default=0)
            batch.fraction = min(position / max(shard.size, 1), 1.0)
            yield batch
        complete = limit is None or next(source, None) is None
        yield Batch(shard, writer, [], last=True, complete=complete, fraction=1.0)

    def _prepare(self, raw: RawSample | Failure) -> Sample | Failure:
        """Runs in a decoding thread."""
        if isinstance(raw, Failure):
            return raw
        try:
            return prepare(raw, self.degradation)
        except SampleError as error:
            return Failure(raw.index, raw.key, " ".join(str(error).split()))


class _Batches(IterableDataset):
    """The batches for a DataLoader without workers: decoding has its own threads, and shards their own order."""

    def __init__(self, datamodule: ShardDataModule) -> None:
        self.datamodule = datamodule

    def __iter__(self) -> Iterator[Batch]:
        return self.datamodule.batches()


def collate(
    shard: Shard, writer: ShardWriter | None, entries: list[Sample | Failure], batch_size: int
) -> Batch:
    """Stack the samples among `entries` and pad them to `batch_size`.

    A sample whose measurement or parameters have another shape than the first one's becomes a failure.
    """
    first: Sample | None = None
    for i, entry in enumerate(entries):
        if isinstance(entry, Failure):
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
    labels = [sample.meta.get("label") for sample in rows]
    if all(isinstance(label, int) for label in labels):
        batch.label = torch.tensor(labels)
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
