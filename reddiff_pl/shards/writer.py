"""Output shards: .partial, then the tar, then the sidecar.

Each sample is appended in one write with its .json member last, so a shard cut anywhere is taken up at its
last whole sample. The order of the commit is: the .partial synced, renamed to .tar, the folder synced, the
sidecar written. A tar without sidecar becomes a .partial again.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reddiff_pl.shards import tar
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import Sums, finished, read_sidecar, sync_folder, write_atomically
from reddiff_pl.shards.lock import ShardLock
from reddiff_pl.shards.reader import Failure, RawSample

if TYPE_CHECKING:  # samples import torch, which `status` must not
    from reddiff_pl.shards.samples import Sample

METRICS = ("psnr", "ssim", "misfit")


class ShardWriter:
    """The output shard of one input shard, from lock to commit.

    Attributes:
        done: keys that are already in it.
        failed: failures already listed, by their index in the input shard.

    Args:
        run: the run's paths.
        name: the shard's name.
    """

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name
        self.done: set[str] = set()
        self.failed: dict[int, Failure] = {}
        self._lock = ShardLock(run.lock(name))
        self._fd = -1
        self._started = time.monotonic()

    def open(self) -> bool:
        """Take the shard up where it was left.

        Returns:
            False when another task is writing it or has finished it meanwhile.
        """
        if not self._lock.acquire():
            return False
        if finished(self.run, self.name) is not None:  # between the plan and the lock
            self._lock.release(remove=True)
            return False
        self._recover()
        self._read_failures()
        self._fd = os.open(self.run.partial(self.name), os.O_RDWR | os.O_CREAT, 0o644)
        end = 0
        with os.fdopen(os.dup(self._fd), "rb") as file:
            for key, offset, _ in tar.scan(file):
                self.done.add(key)
                end = offset
        os.ftruncate(self._fd, end)
        os.lseek(self._fd, end, os.SEEK_SET)
        return True

    def _recover(self) -> None:
        """A tar that is not finished (no sidecar, or cut short by --limit) becomes a .partial again."""
        sidecar = read_sidecar(self.run, self.name)
        if sidecar is not None:
            lines = [json.dumps(failure) + "\n" for failure in sidecar["failed"]]
            write_atomically(self.run.failed(self.name), "".join(lines).encode())
        self.run.sidecar(self.name).unlink(missing_ok=True)
        if self.run.tar(self.name).exists():
            os.replace(self.run.tar(self.name), self.run.partial(self.name))

    def _read_failures(self) -> None:
        path = self.run.failed(self.name)
        if not path.exists():
            return
        for line in path.read_text().splitlines():
            try:
                failure = Failure(**json.loads(line))
            except (ValueError, TypeError):
                continue  # a last line cut by a kill; the sample will fail again
            self.failed[failure.index] = failure
        # rewritten whole, so that what is appended does not continue a cut line
        lines = [json.dumps(failure.__dict__) + "\n" for failure in self.failed.values()]
        write_atomically(path, "".join(lines).encode())

    def has(self, entry: RawSample | Sample | Failure) -> bool:
        """Whether a sample is already restored, or listed as failed."""
        if isinstance(entry, Failure):
            return entry.index in self.failed
        return entry.index in self.failed or entry.key in self.done

    def write(self, key: str, members: Sequence[tuple[str, bytes]], record: Mapping[str, Any]) -> None:
        """Append a sample.

        Args:
            key: its key.
            members: (file name after the first dot, content).
            record: its .json member.
        """
        record_json = json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
        files = [(f"{key}.{suffix}", content) for suffix, content in [*members, ("json", record_json)]]
        _write_all(self._fd, tar.encode(files))
        self.done.add(key)

    def fail(self, failure: Failure) -> None:
        """List a sample as failed."""
        if failure.index in self.failed:
            return
        with open(self.run.failed(self.name), "ab") as file:
            file.write(json.dumps(failure.__dict__).encode() + b"\n")
        self.failed[failure.index] = failure

    def commit(self, complete: bool, info: Mapping[str, Any]) -> None:
        """Finish the shard.

        Args:
            complete: False when --limit cut it short: a later run goes on with it.
            info: what else the sidecar says (versions, prior hash, digest of the inputs).
        """
        _write_all(self._fd, tar.END)
        os.fsync(self._fd)
        partial = self.run.partial(self.name)
        sums, restored = Sums(), 0
        with open(partial, "rb") as file:
            for _, _, record in tar.scan(file):
                restored += 1
                sums.add({name: value for name, value in json.loads(record).items() if name in METRICS})
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _sha256(file)
        size = os.fstat(self._fd).st_size
        os.replace(partial, self.run.tar(self.name))
        sync_folder(partial.parent)
        sidecar = {
            "name": self.name,
            "complete": complete,
            "restored": restored,
            "failed": [self.failed[index].__dict__ for index in sorted(self.failed)],
            "metrics": sums.metrics,
            "seconds": round(time.monotonic() - self._started, 3),
            "host": socket.gethostname(),
            "attempts": self._lock.attempts(),
            "tar_bytes": size,
            "tar_sha256": digest.hexdigest(),
            **info,
        }
        write_atomically(self.run.sidecar(self.name), json.dumps(sidecar, indent=1).encode() + b"\n")
        self.run.failed(self.name).unlink(missing_ok=True)
        self.close(remove_lock=True)

    def close(self, remove_lock: bool = False) -> None:
        """Let go of the shard; without a commit before, the next run goes on with it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._lock.release(remove=remove_lock)


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _sha256(file: Any) -> Any:
    digest = hashlib.sha256()  # Python 3.10 has no file_digest
    while block := file.read(1 << 20):
        digest.update(block)
    return digest
