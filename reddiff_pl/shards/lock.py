"""One writer a shard, by a lock that the operating system drops with the process."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from reddiff_pl.errors import ConfigError


class ShardLock:
    """An exclusive fcntl lock; its file names the holder, a line an attempt.

    The holder must not open that file a second time: closing any descriptor of it drops the lock.

    Args:
        path: the lock file, made if needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def acquire(self) -> bool:
        """Take the lock; False when another process has it.

        Raises:
            ConfigError: the file system refuses locks.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise ConfigError(
                f"--out: the file system of {self.path.parent} refuses locks ({error.strerror}); "
                "without them two tasks could write one shard: choose another directory"
            ) from error
        self._fd = fd
        return True

    def sign(self, task: int, done: int) -> None:
        """Say who holds the lock, for `status` and for the tasks that find it held.

        Args:
            task: the holder's rank.
            done: samples already in the shard.
        """
        line = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "task": task,
            "time": time.time(),
            "done": done,
        }
        os.write(self._fd, json.dumps(line).encode() + b"\n")

    def attempts(self) -> int:
        """How often this shard was taken up, this time included.

        Read through the lock's own descriptor: to open the file again and close it would drop the lock.
        """
        return os.pread(self._fd, os.fstat(self._fd).st_size, 0).count(b"\n")

    def release(self, remove: bool) -> None:
        """Give the lock back; `remove` its file when the shard is finished."""
        if self._fd < 0:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1


def holder(path: Path) -> str:
    """Who took the lock last, for a log line."""
    try:
        last = json.loads(path.read_text().splitlines()[-1])
        return f"task {last['task']} ({last['host']} process {last['pid']})"
    except (OSError, ValueError, IndexError, KeyError):
        return "another task"
