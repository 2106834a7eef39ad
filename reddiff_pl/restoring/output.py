"""Restored batches to shards: one writer thread behind a bounded queue, and what the user sees meanwhile."""

from __future__ import annotations

import functools
import itertools
import logging
import platform
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from tqdm import tqdm

import reddiff_pl
from reddiff_pl import stop
from reddiff_pl.errors import SampleError, TooManyFailed
from reddiff_pl.physics.binding import rounds
from reddiff_pl.restoring import written
from reddiff_pl.restoring.batch import Batch
from reddiff_pl.restoring.restored import Restored
from reddiff_pl.shards import encode
from reddiff_pl.shards.folder import not_looked_at
from reddiff_pl.shards.metadata import misfit_ratio
from reddiff_pl.shards.reader import Apart, Failure, RawSample
from reddiff_pl.shards.samples import Sample

log = logging.getLogger(__name__)

ENOUGH_TO_JUDGE = 20
DRAIN_SECONDS = 20
ENCODERS = 2  # one encodes 70 to 120 images of 256x256 a second; Pillow works without Python's lock


def versions() -> dict[str, str]:
    """What the bytes of a result may depend on beside data, configuration and seed."""
    known = {
        "reddiff_pl": reddiff_pl.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return {**known, "commit": commit()} if commit() else known


@functools.cache
def commit() -> str:
    """The commit of the clone that the package runs from, with `-dirty` where files are changed; else empty."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def device_name(device: torch.device) -> str:
    """A device as people know it: NVIDIA H100 80GB HBM3; cpu, 8 threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)


def peak_memory(device: torch.device) -> dict[str, float]:
    """`peak_memory_gib`: the most that this process's tensors took of a CUDA device so far; nothing elsewhere."""
    if device.type != "cuda":
        return {}
    return {"peak_memory_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 3)}


Members: TypeAlias = tuple[list[tuple[str, bytes]], Mapping[str, Any], bytes]
"""What is written of a sample: (file name after the first dot, content) of its files, its .reddiff.json, its .json."""


def write_batch(
    batch: Batch, members: Callable[[Sample, int], Members], info: Mapping[str, Any]
) -> tuple[bool, int]:
    """Write what is missing of a batch, in input order, and commit the shard after its last one.

    Args:
        batch: its failures are listed with a line in the log, its kept samples copied.
        members: gives what is written of a sample, from it and its row in the batch; a SampleError fails it.
        info: what the sidecar says beside its counts.

    Returns:
        whether the shard was committed, and how many samples failed only now.
    """
    writer = batch.writer
    assert writer is not None
    rows, late = itertools.count(), 0
    for entry in batch.entries:
        row = next(rows) if isinstance(entry, Sample) else -1
        if isinstance(entry, Apart):
            log.warning("shard %s, key %s: %s", writer.name, entry.key, entry.reason)
            writer.withdraw(entry)
        if writer.has(entry):
            continue
        if isinstance(entry, RawSample):
            writer.copy(entry.key)
            continue
        if isinstance(entry, Sample):
            try:
                writer.write(entry.key, *members(entry, row))
                continue
            except SampleError as error:
                entry = Failure(entry.index, entry.key, " ".join(str(error).split()))
                late += 1
        log.warning("shard %s, key %s: %s", writer.name, entry.key or "-", entry.reason)
        writer.fail(entry)
    if not batch.last:
        return False, late
    passed = {"not_looked_at": batch.not_looked_at} if batch.not_looked_at else {}
    if line := not_looked_at(batch.not_looked_at):
        log.info("shard %s: %s", writer.name, line)
    inputs = batch.shard.digest()
    writer.commit(
        batch.complete, {**info, **passed, "versions": versions(), **({"inputs": inputs} if inputs else {})}
    )
    log.info("shard %s: finished, %d samples", writer.name, len(writer.done))
    return True, late


class ShardOutput(Callback):
    """Writes restored batches in input order, and commits each shard after its last batch.

    One thread waits for a batch to come from the device, and writes it; images are encoded in threads of their own.
    The device does not wait for them: it has the next batch already. The queue holds two batches.

    Args:
        info: what each sidecar says beside its counts.
        max_failed: share of failed samples above which the run stops, looked at from `ENOUGH_TO_JUDGE` samples on.
        committed: called with the name of each shard that is finished.
    """

    def __init__(
        self,
        info: Mapping[str, Any],
        max_failed: float = 1.0,
        committed: Callable[[str], None] | None = None,
    ) -> None:
        self.info, self.max_failed, self.committed = info, max_failed, committed
        self._seen = self._failed = self._late = 0  # the last is the writing thread's
        self._queue: queue.Queue[tuple[Batch, Restored | None] | None] = queue.Queue(maxsize=2)
        self._thread: threading.Thread | None = None
        self._encoders: ThreadPoolExecutor | None = None
        self._error: BaseException | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seed = pl_module.seed
        self._rounds = rounds(pl_module.physics)
        self._device = trainer.strategy.root_device
        self.info = {**self.info, "device": device_name(self._device)}
        self._encoders = ThreadPoolExecutor(ENCODERS, "encode")
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._raise()
        self._seen += len(batch.entries)
        self._failed += sum(isinstance(entry, Failure) for entry in batch.entries)
        self._queue.put((batch.account(), outputs))
        self._judge()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.drain()
        self._raise()
        self._judge()
        for gib in peak_memory(self._device).values():
            log.info("device memory: %.2f GiB in use at most", gib)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.drain()

    def drain(self) -> None:
        """Write what is in the queue, and end the thread."""
        if self._thread is not None and self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(DRAIN_SECONDS if stop.requested() else None)
        if self._encoders is not None:
            self._encoders.shutdown(wait=False, cancel_futures=True)

    def _judge(self) -> None:
        failed = self._failed + self._late
        if self._seen >= ENOUGH_TO_JUDGE and failed > self.max_failed * self._seen:
            raise TooManyFailed(
                f"{failed} of {self._seen} samples failed, more than --max-failed {self.max_failed}"
            )

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue  # emptied, so that nobody waits for a place in it
            try:
                self._write(*item)
            except BaseException as error:
                self._error = error

    def _write(self, batch: Batch, restored: Restored | None) -> None:
        assert self._encoders is not None and batch.writer is not None
        files: dict[int, list[Future[list[tuple[str, bytes]]]]] = {}
        for row, sample in enumerate(batch.samples):
            if restored is not None and not batch.writer.has(sample):
                form = restored.forms[row]
                files[row] = [
                    self._encoders.submit(written.files, stem, image, form, sample.source)
                    for stem, image in restored.images(row).items()
                ] + [
                    self._encoders.submit(_extra, name, content)
                    for name, content in restored.extras(row).items()
                ]

        def members(sample: Sample, row: int) -> Members:
            assert restored is not None
            restored.check(row)
            record = {**restored.metrics(row), "seed": self._seed, **_told(sample)}
            if isinstance(record.get("misfit"), float):
                ratio = misfit_ratio(record["misfit"], sample.sigma_y)
                if ratio > 1 or not self._rounds:
                    record["misfit_ratio"] = round(ratio, 2)
            encoded = [member for files_of in files.pop(row) for member in files_of.result()]
            return encoded, record, sample.meta_json

        committed, late = write_batch(batch, members, {**self.info, **peak_memory(self._device)})
        self._late += late
        if committed and batch.complete and self.committed is not None:
            self.committed(batch.shard.name)


def _extra(name: str, content: Tensor) -> list[tuple[str, bytes]]:
    return [(name, encode.npy(content) if name.endswith(".npy") else encode.png(content))]


def _told(sample: Sample) -> dict[str, Any]:
    """What a sample brought along, as its .reddiff.json says it."""
    told: dict[str, Any] = {"sigma_y": round(sample.sigma_y, 6), "sigma_y_of": sample.sigma_y_of}
    return told if sample.file is None else {**told, "file": sample.file}


class Progress(Callback):
    """A bar with images restored, images/s and the time left, estimated from the share of the input read."""

    _bar: tqdm | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        interactive = sys.stderr.isatty()
        self._bar = tqdm(
            unit="img",
            dynamic_ncols=interactive,
            mininterval=0.5 if interactive else 30,
            smoothing=0.1,
            delay=0.1,
        )

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert self._bar is not None
        count = self._bar.n + len(batch.samples)
        self._bar.total = round(count / batch.fraction) if batch.fraction else None
        self._bar.set_description(batch.shard.name, refresh=False)
        self._bar.update(len(batch.samples))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            self._bar.total = self._bar.n
            self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._bar is not None:
            self._bar.close()
