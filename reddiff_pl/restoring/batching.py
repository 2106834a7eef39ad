"""A shard's samples to batches: cut by their content alone, and decoded ahead by threads."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass

from reddiff_pl.errors import Stopped
from reddiff_pl.restoring.batch import Batch, Entry, collate
from reddiff_pl.restoring.preparation import Preparation
from reddiff_pl.shards.headers import image_values
from reddiff_pl.shards.plan import Shard
from reddiff_pl.shards.reader import Failure, RawSample, Reading, read_shard
from reddiff_pl.shards.samples import Sample
from reddiff_pl.shards.writer import ShardWriter

log = logging.getLogger(__name__)

SAY_AFTER = 30.0  # seconds
BATCH_BYTES = 1 << 28  # of its images in float32; one of 24 megapixels is alone


@dataclass
class Batching:
    """How shards are cut into batches.

    Attributes:
        prepare: what is made of each sample.
        size: places of a batch, at most; 0: to be set before the first batch.
        max_sample_bytes: a sample whose files are larger fails.
        pin: whether batches go to a CUDA device.
        stack: whether the samples of a batch are stacked, or left as they are.
        should_stop: looked at before each batch.
    """

    prepare: Preparation
    size: int
    max_sample_bytes: int
    pin: bool = False
    stack: bool = True
    should_stop: Callable[[], bool] = lambda: False

    def of(
        self, shard: Shard, writer: ShardWriter | None, pool: ThreadPoolExecutor, limit: int | None
    ) -> Iterator[Batch]:
        """Batches of one shard, in order, and an empty one marked `last`; the next is decoded and stacked meanwhile.

        Raises:
            Stopped: the stop flag was seen between two batches.
        """
        reading = Reading(self.max_sample_bytes)
        source = iter(read_shard(shard, reading))
        has = writer.has if writer is not None else lambda entry: False
        kept = writer.kept if writer is not None else lambda entry: False
        raws = self._cut(itertools.islice(source, limit))
        ahead: deque[tuple[list[RawSample | Failure], Future[Batch]]] = deque()
        waiting: list[RawSample | Failure] = []
        while True:
            # large files wait for those before them to be decoded
            while len(ahead) < 2 and sum(map(_held, waiting)) < BATCH_BYTES and (group := next(raws, [])):
                waiting = group
                # a batch of which only a part was written is computed again whole
                wanted = [] if all(map(has, group)) else group
                entries = [pool.submit(self.prepare, raw, kept(raw)) for raw in wanted]
                # begun after its entries, it waits for those alone that other threads are at
                ahead.append((group, pool.submit(self._collate, shard, writer, entries)))
            if not ahead:
                break
            if self.should_stop():
                raise Stopped
            group, future = ahead.popleft()
            batch = _patiently(future, f"shard {shard.name}: decoding from key {group[0].key} on")
            position = max((raw.position for raw in group if isinstance(raw, RawSample)), default=0)
            batch.fraction = min(position / shard.size, 1.0) if shard.size else 0.0  # 0: not known
            batch.places = len(group)
            yield batch
        complete = limit is None or next(source, None) is None
        passed = dict(reading.not_looked_at)
        yield Batch(shard, writer, [], last=True, complete=complete, fraction=1.0, not_looked_at=passed)

    def _cut(self, raws: Iterator[RawSample | Failure]) -> Iterator[list[RawSample | Failure]]:
        """The places of each batch: `size` of them, at most `BATCH_BYTES` of images or files but for the first.

        Where a batch ends does not depend on what was done before, nor on anything that must be decoded.
        """
        group: list[RawSample | Failure] = []
        total = 0
        for raw in raws:
            size = max(4 * image_values(raw, self.prepare.degradation), _held(raw))
            if group and (len(group) == self.size or total + size > BATCH_BYTES):
                yield group
                group, total = [], 0
            group.append(raw)
            total += size
        if group:
            yield group

    def _collate(self, shard: Shard, writer: ShardWriter | None, entries: list[Future[Entry]]) -> Batch:
        """Runs in a decoding thread."""
        prepared = [entry.result() for entry in entries]
        if not self.stack:
            return Batch(shard, writer, prepared, [entry for entry in prepared if isinstance(entry, Sample)])
        batch = collate(shard, writer, prepared, self.size)
        return batch.pinned() if self.pin else batch


def _held(raw: RawSample | Failure) -> int:
    """Bytes of a sample's files that are in memory."""
    members = raw.members.values() if isinstance(raw, RawSample) else ()
    return sum(len(content) for content in members if isinstance(content, bytes))


def _patiently(future: Future[Batch], what: str) -> Batch:
    """Wait for a batch; a line says so where it takes long."""
    began = time.monotonic()
    while True:
        try:
            return future.result(timeout=SAY_AFTER)
        except NotYet:
            if future.done():
                raise
            log.info("%s takes %.0f s so far", what, time.monotonic() - began)
