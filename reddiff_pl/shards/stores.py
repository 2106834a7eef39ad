"""Shards that are not plain files: pipe:, http(s), s3, gs and whatever else fsspec knows. No torch, no webdataset.

Reading never ends early in silence: where the content is not known to be whole, an `OSError` of one line is
raised instead of an end of file. A connection that fails is tried again after each of `WAITS`.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import signal
import string
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from http.client import HTTPException
from typing import IO, Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from reddiff_pl import __version__
from reddiff_pl.errors import ConfigError

log = logging.getLogger(__name__)

WAITS = (1.0, 4.0, 16.0)  # seconds before another try
BLOCK = 8 << 20  # bytes asked for at once
PIPE_BLOCK = 1 << 16  # so much of a command's output is held back; more than what pads a tar
TIMEOUT = 60  # seconds without a byte

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_T = TypeVar("_T")


def open_url(url: str) -> IO[bytes]:
    """Open a URL to be read once, from beginning to end.

    Args:
        url: `pipe:COMMAND` or `NAME=pipe:COMMAND` (run by bash with pipefail), http(s), or what fsspec knows.

    Raises:
        ConfigError: when it is read, a store wants credentials.
        OSError: when it is read, anything else; one line.
    """
    read = _pipe if is_pipe(url) else _download if is_http(url) else _stored
    return io.BufferedReader(_Blocks(read(url)), 1 << 16)


def expand(url: str) -> list[str]:
    """The URLs that a pattern without braces stands for, sorted; stores that can list take *, ? and [].

    Raises:
        ConfigError: the URL is of no known kind, needs a package, or cannot be listed.
    """
    if is_http(url):
        if "*" in url:
            raise ConfigError(f"--data.shards: {url}: http cannot list files; use braces, or %2A for a star")
        return [url]
    fs, path = filesystem(url, "--data.shards")
    if not re.search(r"[*?[]", path):
        return [url]
    try:
        found = fs.glob(path, detail=True)
    except Exception as error:  # each store raises its own
        raise ConfigError(f"--data.shards: {url}: {_line(error)}") from error
    return sorted(fs.unstrip_protocol(name) for name, info in found.items() if info["type"] == "file")


def filesystem(url: str, option: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it."""
    import fsspec  # type: ignore[import-untyped]

    protocol = url.split(":")[0]
    try:
        # what is there may change while the run lasts: nothing is remembered
        return fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        what = f"pip install 'reddiff_pl[{_EXTRAS[protocol]}]'" if protocol in _EXTRAS else _line(error)
        raise ConfigError(f"{option}: {url} needs a package that is not installed: {what}") from error
    except Exception as error:
        raise ConfigError(f"{option}: {url}: {_line(error)}") from error


class _Blocks(io.RawIOBase):
    """Blocks of bytes as a file."""

    def __init__(self, blocks: Generator[bytes, None, None]) -> None:
        self._blocks = blocks
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._ready:
            self._ready = memoryview(next(self._blocks, b""))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._blocks.close()
        super().close()


def _pipe(url: str) -> Generator[bytes, None, None]:
    """What a shell command writes.

    The end is handed out only when the command is known to have succeeded: the reader stops at the end mark of a
    tar, which a command may have written before it fails (as `tar` does when files vanish).
    """
    command = url.partition("pipe:")[2]
    # of a pipeline every command counts; and a stop signal that the whole job gets must not end the command before
    # the run ends by itself, and make a failure of the sample being read
    shell = ["bash", "-o", "pipefail"] if shutil.which("bash") else ["sh"]
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            [*shell, "-c", f"trap '' USR1 USR2\n{command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # no Ctrl-C, and all its processes can be ended together
        ) as process,
    ):
        assert process.stdout is not None
        try:
            held = b""
            while len(block := process.stdout.read(PIPE_BLOCK)) == PIPE_BLOCK:
                if held:
                    yield held
                held = block
            code = process.wait()
            if code not in (0, 141):  # 141: a command of the pipeline wanted no more of the one before it
                stderr.seek(0)
                said = stderr.read().decode(errors="replace").strip().splitlines()
                how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
                raise OSError(": ".join([f"the command ended with {how}", *said[-1:]]))
            yield held + block
        finally:
            if process.poll() is None:  # closed early, as by --limit: what it would say does not matter
                os.killpg(process.pid, signal.SIGKILL)


def _download(url: str) -> Generator[bytes, None, None]:
    """A file by http(s), taken up where the connection was cut.

    Not fsspec's, which neither tries again nor takes a proxy from the environment.
    """
    quoted = quote(url, safe=string.punctuation)  # spaces and letters beyond ASCII
    position, length, version = 0, 0, ""
    waits = iter(WAITS)
    while True:
        headers = {"User-Agent": f"reddiff_pl/{__version__}"}
        if position:
            headers["Range"] = f"bytes={position}-"
        if version:
            headers["If-Range"] = version
        try:
            with urlopen(Request(quoted, headers=headers), timeout=TIMEOUT) as response:
                if not position:
                    length = response.length or 0
                    tag = response.headers.get("ETag", "")
                    version = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
                elif not response.headers.get("Content-Range", "").startswith(f"bytes {position}-"):
                    raise io.UnsupportedOperation(
                        f"cut at byte {position} of {length}, and the server does not go on from there"
                    )
                while block := response.read(BLOCK):
                    position += len(block)
                    waits = iter(WAITS)
                    yield block
            if position >= length:
                return
            raise ConnectionError(f"cut at byte {position} of {length}")
        except (OSError, HTTPException) as error:
            _pause(error, waits, f"--data.shards: {url}")


def _stored(url: str) -> Generator[bytes, None, None]:
    """A file of a store, a request a block: no connection is held open while the GPU works."""
    fs, path = filesystem(url, "--data.shards")
    what = f"--data.shards: {url}"
    with patiently(lambda: fs.open(path, "rb", block_size=BLOCK, cache_type="none"), what) as file:
        while block := patiently(lambda: file.read(BLOCK), what):
            yield block


def patiently(action: Callable[[], _T], what: str) -> _T:
    """Try again where that may help.

    Raises:
        ConfigError: a store wants credentials.
        OSError: any other error; one line.
    """
    waits = iter(WAITS)
    while True:
        try:
            return action()
        except Exception as error:  # each store raises its own
            _pause(error, waits, what)


def _pause(error: Exception, waits: Iterator[float], what: str) -> None:
    """Wait before another try; raise where none is left, or none would help."""
    if "Credentials" in type(error).__name__:  # as botocore's and Google's; not this shard's failure
        raise ConfigError(f"{what}: {_line(error)}") from error
    wait = None if _is_permanent(error) else next(waits, None)
    if wait is None:
        raise OSError(_line(error)) from error
    log.info("%s: %s; trying again in %g s", what, _line(error), wait)
    time.sleep(wait)


def _is_permanent(error: Exception) -> bool:
    if isinstance(error, HTTPError):
        return error.code < 500 and error.code not in (408, 425, 429)
    return isinstance(error, (FileNotFoundError, PermissionError, io.UnsupportedOperation, ConfigError))


def is_pipe(url: str) -> bool:
    return re.match(r"([^=]*=)?pipe:", url) is not None


def is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _line(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    text = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError):
        return f"not found ({text})"
    return f"{type(error).__name__}: {text}" if isinstance(error, HTTPException) or not text else text
