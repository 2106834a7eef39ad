"""Shards to batches: the plan's shards one after the other, each cut into batches by its content alone."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Literal

import torch
from deepinv.physics import Physics
from deepinv.physics.generator import PhysicsGenerator
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from reddiff_pl.errors import ConfigError, SampleError, Stopped
from reddiff_pl.physics.degrade import Degradation
from reddiff_pl.physics.noise import MeasurementNoise, NoNoise
from reddiff_pl.restoring.batch import Batch, Entry, collate
from reddiff_pl.restoring.inputs import Inputs, check_estimate
from reddiff_pl.shards.decode import MAX_PIXELS
from reddiff_pl.shards.headers import decoding_bytes, image_values
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import finished, read_sidecar, total
from reddiff_pl.shards.lock import holder
from reddiff_pl.shards.placement import place
from reddiff_pl.shards.plan import Shard, assigned
from reddiff_pl.shards.reader import Failure, RawSample, Reading, read_shard
from reddiff_pl.shards.room import Room
from reddiff_pl.shards.samples import Sample, label_of, prepare, texts_of
from reddiff_pl.shards.writer import ShardWriter

log = logging.getLogger(__name__)

SAY_AFTER = 30.0  # seconds
BATCH_BYTES = 1 << 28  # of its images in float32; one of 24 megapixels is alone


class ShardDataModule(LightningDataModule):
    """Streams shards, or a folder, to the restoration.

    Args:
        shards: input tars: paths, URLs, braces, wildcards; or a list of them.
        images: a folder of clean images instead, degraded on the fly.
        measured: a folder of measurements instead, such as damaged photos: NAME.jpg, and beside it what belongs to
            it, NAME.mask.png, NAME.kernel.npy, NAME.x.png (reference), NAME.json. Folders below it are kept in the
            names.
        params: {parameter of the operator: where it is for samples that do not bring it}, a folder with a file of the
            same name for each image, or one file for all.
        invert_mask: masks are white where pixels are missing.
        rounding: a measurement read from a picture has at least the noise that its file's rounding, or JPEG's tables,
            left in it, where neither its KEY.json nor sigma_y say another level.
        batch_size: images restored together, at most; of large ones fewer, by their pixels. Images of other sizes and
            failed samples may be among them. "auto" measures the largest one that pays on the GPU (without one: 8); all
            tasks of a run take the first one's.
        size: what clean images are cropped and reduced to, in pixels: the side of a square, or "H,W". Default: the
            prior's. The image of a measurement has the size that follows from it; this one where it leaves that open,
            as enlargement does by less than its factor.
        fit: what becomes of clean images: crop to `size`, the middle of them, or whole, each at its own size.
        workers: decoding threads, one core each.
        max_sample_mib: a sample whose files are larger, in MiB, fails.
        decode_mib: about how much memory decoding takes at once, in MiB; what needs more is decoded alone.
        sigma_y: noise level, on the [0, 1] scale, that is assumed where KEY.json of a measurement has no `sigma_y`;
            "estimate" finds it from each measurement. Default: that of the model's noise.
        max_pixels: pictures of more pixels are refused before they are decoded.
        out: output directory; finished shards there are skipped. Filled in from --out.
        limit: only the first so many samples of the task, for a preview. Filled in from --limit.
        rank: which task this is. Filled in from --rank or the environment.
        world: how many tasks there are. Filled in from --world or the environment.
        retry_failed: try the failed samples of finished shards again. Filled in from --retry-failed.
        seed: the run's seed. Filled in from --seed.
        physics: the operator. Filled in from the model.
        noise: the measurement noise. Filled in from the model.
        generator: draws the operator's parameters. Filled in from the model.
        shape: (C, H, W) of the prior. Filled in from the model.
        classes: number of classes of the prior; 0: it takes no labels. Filled in from the model.
        default_label: class of samples without a `label` in their KEY.json. Filled in from the model.
        words: whether the prior takes the `prompt` and `negative_prompt` of KEY.json. Filled in from the model.

    Raises:
        ConfigError: the shards are not there, or the options do not fit each other.
    """

    def __init__(
        self,
        shards: str | list[str] | None = None,
        images: str | None = None,
        measured: str | None = None,
        params: dict[str, str] | None = None,
        invert_mask: bool = False,
        rounding: bool = True,
        batch_size: int | Literal["auto"] = 8,
        size: int | str | list[int] | None = None,
        fit: Literal["crop", "whole"] = "crop",
        workers: int = 2,
        max_sample_mib: int = 512,
        decode_mib: int = 1024,
        sigma_y: float | Literal["estimate"] | None = None,
        max_pixels: int = MAX_PIXELS,
        out: str | None = None,
        limit: int | None = None,
        rank: int | None = None,
        world: int | None = None,
        retry_failed: bool = False,
        seed: int = 0,
        physics: Physics | None = None,
        noise: MeasurementNoise | None = None,
        generator: PhysicsGenerator | None = None,
        shape: tuple[int, int, int] | None = None,
        classes: int = 0,
        default_label: int | None = None,
        words: bool = False,
    ) -> None:
        super().__init__()
        for name, value in {
            "batch_size": batch_size,
            "workers": workers,
            "max_sample_mib": max_sample_mib,
            "decode_mib": decode_mib,
            "limit": limit,
            "max_pixels": max_pixels,
        }.items():
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"--data.{name}: must be at least 1, got {value}")
        if isinstance(sigma_y, float) and not sigma_y >= 0:
            raise ConfigError(f"--data.sigma_y: must not be negative, got {sigma_y}")
        if isinstance(sigma_y, float) and sigma_y > 1:
            log.warning(
                "--data.sigma_y: %g is on the [0, 1] scale, more than all there is from black to white; of 8-bit "
                "values it would be %g",
                *(sigma_y, sigma_y / 255),
            )
        if physics is None or shape is None:
            raise ConfigError("--model.physics: no operator; name one, or a tasks/*.yaml that does")
        sides = None if size is None else parse_size(size)
        if fit not in ("crop", "whole"):
            raise ConfigError(f"--data.fit: must be crop or whole, got {fit}")
        if sides is not None and fit == "whole":
            raise ConfigError("--data.size: --data.fit whole keeps images as they are; leave one of them out")
        if sides is not None:
            shape = (shape[0], *sides)
        self.batch_size = 0 if batch_size == "auto" else batch_size  # 0: to be set before the first batch
        self.workers, self.limit, self.max_pixels = workers, limit, max_pixels
        self.max_sample_mib = max_sample_mib
        self.room = Room(decode_mib << 20)
        self.run = Run(out) if out is not None else None
        self.degradation = Degradation(
            physics, noise or NoNoise(), shape, seed, sigma_y, fit, sides, generator
        )
        self.retry_failed = retry_failed
        self.classes, self.default_label, self.words = classes, default_label, words
        self.rank, self.world = place(rank, world)
        self.inputs = Inputs(
            *(shards, images, measured, params, out, self.degradation, max_pixels, invert_mask)
        )
        self.invert_mask, self.rounding = invert_mask, rounding
        self.all_shards = self.inputs.all
        self.shards = assigned(self.all_shards, self.rank, self.world)
        self.held: list[str] = []  # shards that other tasks were writing
        self.taken: list[str] = []  # shards that this task wrote
        self.should_stop: Callable[[], bool] = lambda: False
        self.pin = False  # whether batches go to a CUDA device
        self.stack = True  # whether the samples of a batch are stacked, or left as they are
        self._check_operator()
        check_estimate(self.degradation)

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
        self.pin = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(_Batches(self), batch_size=None)

    def batches(self) -> Iterator[Batch]:
        """All batches of this task's unfinished shards, each shard closed by an empty one marked `last`.

        When they are through, any unfinished shard whose lock it gets: those of tasks that ended early, or
        have not begun.

        Raises:
            Stopped: the stop flag was seen between two batches.
        """
        own = [shard for shard in self.shards if self._is_open(shard)]
        self._tell_changed()
        sizes = [max(shard.size, 1) for shard in own]
        log.info(
            "task %d of %d: %d of its %d shards are finished already",
            *(self.rank, self.world, len(self.shards) - len(own), len(self.shards)),
        )
        left = self.limit
        if left is not None and self.run is not None:
            done = total(self.run, {shard.name for shard in self.shards} - {shard.name for shard in own})
            left = max(left - done.restored - done.failed, 0)
        torch.get_num_threads()  # settles this thread's own number before the others' below
        with ThreadPoolExecutor(self.workers, "decode", torch.set_num_threads, (1,)) as pool:
            for number, shard in enumerate(itertools.chain(own, self._others())):
                writer = None
                if left is not None and (left == 0 or self._has(shard, left)):
                    return
                if self.run is not None:
                    writer = ShardWriter(self.run, shard.name, self.rank, self.retry_failed)
                    if not self._take(writer):
                        continue
                for batch in self._shard_batches(shard, writer, pool, left):
                    if left is not None:
                        left -= batch.places
                    read = batch.fraction * sizes[number] if number < len(own) else 0
                    batch.fraction = (sum(sizes[:number]) + read) / max(sum(sizes), 1)
                    yield batch

    def _is_open(self, shard: Shard) -> bool:
        """Whether something is left to do in a shard."""
        sidecar = finished(self.run, shard.name) if self.run is not None else None
        if sidecar is not None and sidecar.get("inputs") != shard.digest():
            raise ConfigError(
                f"--data.{self.inputs.kind}: the files in {shard.url} are not those that {shard.name} was restored "
                "from; choose another --out, or add images in a folder of their own"
            )
        return sidecar is None or (self.retry_failed and bool(sidecar["failed"]))

    def _tell_changed(self) -> None:
        """Warn of what finished shards of a folder were restored from and that was changed since: it is not seen."""
        changed: list[str] = []
        for shard in self.shards:
            if self.run is None or shard.images is None or not self.run.sidecar(shard.name).exists():
                continue
            since = self.run.sidecar(shard.name).stat().st_mtime
            newer = [image for image in shard.images if image.changed > since]
            if newer and (sidecar := finished(self.run, shard.name)) is not None:
                failed = {failure["key"] for failure in sidecar["failed"]}
                changed += [image.file for image in newer if image.key not in failed]
        if changed:
            log.warning(
                "%d of the images finished are older than their files or what lies beside those (%s%s), and stay as "
                "they are; another --out, or --overwrite true, restores them anew",
                *(len(changed), ", ".join(changed[:3]), ", ..." if changed[3:] else ""),
            )

    def _has(self, shard: Shard, count: int) -> bool:
        """Whether --limit cut a shard short before, and no earlier than at `count` samples: it is left as it is."""
        sidecar = read_sidecar(self.run, shard.name) if self.run is not None else None
        if sidecar is None or sidecar.get("inputs") != shard.digest():
            return False
        if self.retry_failed and sidecar["failed"]:
            return False
        return sidecar["restored"] + len(sidecar["failed"]) >= count

    def _others(self) -> Iterator[Shard]:
        """Unfinished shards of other tasks, from the next rank's on, so that tasks do not queue for one."""
        if self.run is None or self.world == 1 or self.limit is not None:
            return
        for i in range(1, self.world):
            for shard in assigned(self.all_shards, (self.rank + i) % self.world, self.world):
                if self._is_open(shard):
                    yield shard

    def _take(self, writer: ShardWriter) -> bool:
        """Open a shard's output; says so when another task holds it."""
        if writer.open():
            self.taken.append(writer.name)
            where = "" if writer.name in {shard.name for shard in self.shards} else ", left by another task"
            log.info(
                "shard %s: begun with %d samples already written%s", writer.name, len(writer.done), where
            )
            return True
        if finished(writer.run, writer.name) is None:
            self.held.append(writer.name)
            log.info("shard %s: held by %s", writer.name, holder(writer.run.lock(writer.name)))
        return False

    def _shard_batches(
        self, shard: Shard, writer: ShardWriter | None, pool: ThreadPoolExecutor, limit: int | None
    ) -> Iterator[Batch]:
        """Batches of one shard; decoding and stacking run one batch ahead, in order."""
        reading = Reading(self.max_sample_mib << 20)
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
                entries = [pool.submit(self._prepare, raw, kept(raw)) for raw in wanted]
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
        """The places of each batch: `batch_size` of them, at most `BATCH_BYTES` of images or files but for the first.

        Where a batch ends does not depend on what was done before, nor on anything that must be decoded.
        """
        group: list[RawSample | Failure] = []
        total = 0
        for raw in raws:
            size = max(4 * image_values(raw, self.degradation), _held(raw))
            if group and (len(group) == self.batch_size or total + size > BATCH_BYTES):
                yield group
                group, total = [], 0
            group.append(raw)
            total += size
        if group:
            yield group

    def _prepare(self, raw: RawSample | Failure, kept: bool) -> Entry:
        """Runs in a decoding thread."""
        if isinstance(raw, Failure) or kept:
            return raw
        try:
            self.inputs.given.add_to(raw)
            with self.room.taken(decoding_bytes(raw)):
                sample = prepare(raw, self.degradation, self.max_pixels, self.invert_mask, self.rounding)
            notes = sample.source.notes if sample.source is not None else ()
            for note in (*notes, *(note for note in sample.notes if note not in self.inputs.said)):
                log.warning("key %s: %s", raw.key, note)
            if self.classes:
                sample.label = label_of(sample.meta, self.classes, self.default_label)
            if self.words:
                texts_of(sample.meta)  # fails here, for this sample alone
            return sample
        except (SampleError, ConfigError) as error:  # an option may fit images of other sizes
            return Failure(raw.index, raw.key, " ".join(str(error).split()))
        except Exception as error:  # whatever decoders and operators make of it is this sample's failure
            log.debug("key %s", raw.key, exc_info=True)
            what = " ".join(str(error).split())[:300]
            return Failure(raw.index, raw.key, f"cannot be used ({type(error).__name__}: {what})")
        finally:
            raw.members = {}  # files may be large, and the batch is kept

    def _collate(self, shard: Shard, writer: ShardWriter | None, entries: list[Future[Entry]]) -> Batch:
        """Runs in a decoding thread."""
        prepared = [entry.result() for entry in entries]
        if not self.stack:
            return Batch(shard, writer, prepared, [entry for entry in prepared if isinstance(entry, Sample)])
        batch = collate(shard, writer, prepared, self.batch_size)
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


def parse_size(size: int | str | Sequence[int]) -> tuple[int, int]:
    """Height and width of `--data.size`: 64, "480,320" or [480, 320].

    Raises:
        ConfigError: it is none of these.
    """
    parts = str(size).split(",") if isinstance(size, int | str) else list(size)
    try:
        sides = [int(part) for part in parts]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise ConfigError(
            f"--data.size: must be a side in pixels, or height and width as 480,320, got {size}"
        )
    return sides[0], sides[-1]


class _Batches(IterableDataset):
    """The batches for a DataLoader without workers: decoding has its own threads, and shards their own order."""

    def __init__(self, datamodule: ShardDataModule) -> None:
        self.datamodule = datamodule

    def __iter__(self) -> Iterator[Batch]:
        return self.datamodule.batches()
