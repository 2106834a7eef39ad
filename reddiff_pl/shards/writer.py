"""Output shards: .partial, then the tar, then the sidecar.

Each sample is appended in one write with its .reddiff.json member last, so a shard cut anywhere is taken up at its
last whole sample. The order of the commit is: the .partial synced, renamed to .tar, the folder synced, the
sidecar written. A tar without a sidecar of its own becomes a .partial again.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from reddiff_pl.errors import OutputError
from reddiff_pl.files import same_file, sha256, sync_folder, temporary_file, write_atomically
from reddiff_pl.shards import metadata, tar
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import Sums, finished, read_sidecar
from reddiff_pl.shards.lock import ShardLock
from reddiff_pl.shards.reader import Failure, RawSample

if TYPE_CHECKING:  # samples import torch, which `status` must not
    from reddiff_pl.shards.samples import Sample

log = logging.getLogger(__name__)


class ShardWriter:
    """The output shard of one input shard, from lock to commit.

    Attributes:
        done: keys that are already in it.
        failed: failures already listed, by their index in the input shard.

    Args:
        run: the run's paths.
        name: the shard's name.
        task: rank of this task.
        retry_failed: write a finished shard anew, its failed samples tried again: the others are copied from
            the old tar, which stays until the new one is whole.
    """

    def __init__(self, run: Run, name: str, task: int = 0, retry_failed: bool = False) -> None:
        self.run, self.name, self.task, self.retry_failed = run, name, task, retry_failed
        self.done: set[str] = set()
        self.failed: dict[int, Failure] = {}
        self._old: dict[str, tuple[int, int]] = {}
        self._withdrawn: set[str] = set()
        self._lock = ShardLock(run.lock(name))
        self._fd = -1
        self._resumed = 0
        self._started = time.monotonic()

    def open(self) -> bool:
        """Take the shard up where it was left.

        Returns:
            False when another task is writing it, or there is nothing to do any more.
        """
        if not self._lock.acquire():
            return False
        sidecar = finished(
            self.run, self.name
        )  # again: it may have been finished between the plan and the lock
        again = self.retry_failed and sidecar is not None and bool(sidecar["failed"])
        if sidecar is not None and not again:
            self._lock.release(remove=True)
            return False
        if again:
            self._old = _extents(self.run.tar(self.name))
        else:
            self._recover()
        self._read_failures()
        self._fd = os.open(self.run.partial(self.name), os.O_RDWR | os.O_CREAT, 0o644)
        end = 0
        with os.fdopen(os.dup(self._fd), "rb") as file:
            for whole in tar.scan(file):
                self.done.add(whole.key)
                end = whole.end
            if not self.done and next(tar.scan(file, older=True), None) is not None:
                log.warning(
                    "shard %s: an earlier version began it, whose samples cannot be taken up: restored anew",
                    self.name,
                )
        os.ftruncate(self._fd, end)
        os.lseek(self._fd, end, os.SEEK_SET)
        self._resumed = len(self.done)
        self._lock.sign(self.task, self._resumed)
        return True

    def _recover(self) -> None:
        """A tar that is not finished (no sidecar, or cut short by --limit) becomes a .partial again."""
        sidecar = read_sidecar(self.run, self.name)
        if sidecar is not None:
            lines = [json.dumps(failure) + "\n" for failure in sidecar["failed"]]
            write_atomically(self.run.failed(self.name), "".join(lines).encode())
        for path in (self.run.sidecar(self.name), self.run.older_sidecar(self.name)):
            path.unlink(missing_ok=True)
        if self.run.tar(self.name).exists():
            os.replace(self.run.tar(self.name), self.run.partial(self.name))

    def _read_failures(self) -> None:
        path = self.run.failed(self.name)
        if not path.exists():
            return
        for line in path.read_text(errors="replace").splitlines():
            try:
                failure = Failure(**json.loads(line))
            except (ValueError, TypeError):
                continue  # a last line cut by a kill; the sample will fail again
            self.failed[failure.index] = failure
        # rewritten whole, so that what is appended does not continue a cut line
        lines = [json.dumps(asdict(failure)) + "\n" for failure in self.failed.values()]
        write_atomically(path, "".join(lines).encode())

    def has(self, entry: RawSample | Sample | Failure) -> bool:
        """Whether a sample is already restored, or listed as failed."""
        if isinstance(entry, Failure):
            return entry.index in self.failed
        return entry.index in self.failed or entry.key in self.done

    def kept(self, entry: RawSample | Sample | Failure) -> bool:
        """Whether a sample was restored by the run whose failures are tried again, so that it is copied."""
        return not isinstance(entry, Failure) and entry.key in self._old

    def write(
        self, key: str, members: Sequence[tuple[str, bytes]], record: Mapping[str, Any], meta: bytes = b"{}"
    ) -> None:
        """Append a sample.

        Args:
            key: its key.
            members: (file name after the first dot, content).
            record: its .reddiff.json member, what the run says of it.
            meta: its .json member, the user's own.

        Raises:
            OutputError: the file cannot be written.
        """
        files = [(f"{key}.{suffix}", content) for suffix, content in [*members, ("json", meta)]]
        self._append(tar.encode([*files, (key + tar.RECORD, metadata.of_run(dict(record)))]))
        self.done.add(key)

    def copy(self, key: str) -> None:
        """Append a sample as it is in the old tar."""
        start, end = self._old[key]
        with open(self.run.tar(self.name), "rb") as file:
            file.seek(start)
            self._append(file.read(end - start))
        self.done.add(key)

    def _append(self, content: bytes) -> None:
        view = memoryview(content)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise self._output_error(error) from error

    def _output_error(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot write {error.filename or self.run.partial(self.name)}: {error.strerror}; what is written is "
            "whole, mend the cause and run the same command again"
        )

    def fail(self, failure: Failure) -> None:
        """List a sample as failed."""
        if failure.index in self.failed:
            return
        try:
            with open(self.run.failed(self.name), "ab") as file:
                file.write(json.dumps(asdict(failure)).encode() + b"\n")
        except OSError as error:
            raise self._output_error(error) from error
        self.failed[failure.index] = failure

    def withdraw(self, failure: Failure) -> None:
        """List a sample as failed that may be written already: the commit leaves it out."""
        assert failure.key is not None
        self._withdrawn.add(failure.key)
        if self.failed.get(failure.index) != failure:
            self.failed.pop(failure.index, None)
            self.fail(failure)

    def _leave_out(self, keys: set[str]) -> None:
        """Write the shard anew without some samples."""
        partial = self.run.partial(self.name)
        with open(partial, "rb") as old, temporary_file(partial) as new:
            for key, (start, end) in _extents(partial).items():
                if key not in keys:
                    old.seek(start)
                    new.write(old.read(end - start))
            new.flush()
            os.fsync(new.fileno())
            os.replace(new.name, partial)
        os.close(self._fd)
        self._fd = os.open(partial, os.O_RDWR)
        os.lseek(self._fd, 0, os.SEEK_END)
        self.done -= keys

    def commit(self, complete: bool, info: Mapping[str, Any]) -> None:
        """Finish the shard.

        Args:
            complete: False when --limit cut it short: a later run goes on with it.
            info: what else the sidecar says (versions, the prior's hash).

        Raises:
            OutputError: a file cannot be written; the shard stays a .partial.
        """
        if not same_file(self.run.partial(self.name), self._fd):
            raise OutputError(
                f"{self.run.partial(self.name)} was deleted or replaced while this task wrote it; what it held of this "
                "shard is lost, run the same command again"
            )
        try:
            if keys := self._withdrawn & self.done:
                self._leave_out(keys)
            self._append(tar.END)
            os.fsync(self._fd)
            self._publish(complete, info)
        except OSError as error:
            raise error if isinstance(error, OutputError) else self._output_error(error) from error
        self.close(remove_lock=True)

    def _publish(self, complete: bool, info: Mapping[str, Any]) -> None:
        partial, final = self.run.partial(self.name), self.run.tar(self.name)
        sums, restored, far = Sums(), 0, 0
        levels: Counter[str] = Counter()
        with open(partial, "rb") as file:
            for whole in tar.scan(file):
                record = metadata.parse(whole.record, f"{whole.key}{tar.RECORD}")
                restored, far = restored + 1, far + metadata.is_far(record)
                if "sigma_y_of" in record:
                    levels[str(record["sigma_y_of"])] += 1
                sums.add(metadata.metrics(record))
        sidecar = {
            "name": self.name,
            "complete": complete,
            "restored": restored,
            "resumed": self._resumed + len(self._old),
            "failed": [asdict(self.failed[index]) for index in sorted(self.failed)],
            "metrics": sums.metrics,
            "sigma_y_of": dict(levels),
            "misfit_far": far,
            "seconds": round(time.monotonic() - self._started, 3),
            "finished": time.time(),
            "host": socket.gethostname(),
            "task": self.task,
            "attempts": self._lock.attempts(),
            "tar_bytes": os.fstat(self._fd).st_size,
            "tar_sha256": sha256(partial),
            **info,
        }
        os.replace(partial, final)
        sync_folder(final.parent)
        account = self.run.sidecar(self.name)
        account.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(account, json.dumps(sidecar, indent=1).encode() + b"\n")
        self.run.older_sidecar(self.name).unlink(missing_ok=True)
        self.run.failed(self.name).unlink(missing_ok=True)

    def close(self, remove_lock: bool = False) -> None:
        """Let go of the shard; without a commit before, the next run goes on with it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._lock.release(remove=remove_lock)


def _extents(path: Any) -> dict[str, tuple[int, int]]:
    """Where each sample of a shard lies: {key: (first byte, byte after the last)}."""
    extents, start = {}, 0
    with open(path, "rb") as file:
        for whole in tar.scan(file):
            extents[whole.key] = (start, whole.end)
            start = whole.end
    return extents
