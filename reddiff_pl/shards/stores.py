"""Shards that are not plain files: pipe:, http(s), s3, gs and whatever else fsspec knows. No torch, no webdataset.

Reading never ends early in silence: where the content is not known to be whole, an `OSError` of one line is
raised instead of an end of file. A connection that fails is tried again after each of `WAITS`.
"""

from __future__ import annotations

import io
import json
import logging
import os
import posixpath
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from typing import IO, Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from reddiff_pl import __version__
from reddiff_pl.errors import ConfigError, OutputError
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import finished

log = logging.getLogger(__name__)

WAITS = (1.0, 4.0, 16.0)  # seconds before another try
BLOCK = 1 << 20
STORE_BLOCK = 8 << 20  # bytes asked of a store at once: a connection is not held open while the GPU works
TIMEOUT = 60  # seconds without a byte

NAMED_PIPE = re.compile(r"(?:(?P<name>[^=]*)=)?pipe:(?P<command>.*)", re.DOTALL)
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_WITHOUT_FOLDERS = ("s3", "s3a", "gs", "gcs", "abfs", "az")  # there, to make a folder may make a bucket
_T = TypeVar("_T")


def open_url(url: str) -> IO[bytes]:
    """Open a URL to be read once, from beginning to end.

    Args:
        url: `pipe:COMMAND` or `NAME=pipe:COMMAND` (run by bash with pipefail), http(s), or what fsspec knows.

    Raises:
        OSError: here or while it is read; one line.
    """
    raw: io.RawIOBase
    if pipe := NAMED_PIPE.fullmatch(url):
        raw = _Pipe(pipe["command"])
    elif _is_http(url):
        raw = _Download(url)
    else:
        raw = _Stored(url)
    return io.BufferedReader(raw, BLOCK)


def expand(url: str) -> list[str]:
    """The URLs that a pattern without braces stands for, sorted; stores that can list take *, ? and [].

    Raises:
        ConfigError: the URL is of no known kind, needs a package, or cannot be listed.
    """
    if _is_http(url):
        if "*" in url:
            raise ConfigError(f"--data.shards: {url}: http cannot list files; use braces, or %2A for a star")
        return [url]
    fs, path = _filesystem(url, "--data.shards")
    if not re.search(r"[*?[]", path):
        return [url]
    try:
        found = fs.glob(path, detail=True)
    except Exception as error:  # each store raises its own
        raise ConfigError(f"--data.shards: {url}: {_line(error)}") from error
    return sorted(fs.unstrip_protocol(name) for name, info in found.items() if info["type"] == "file")


def publish(run: Run, name: str, url: str) -> None:
    """Upload a finished shard to URL/shards/NAME.tar, and then its sidecar to URL/shards/NAME.json.

    What is there already is not uploaded again. A sidecar always tells of the tar beside it: that of another
    tar is deleted before this one is uploaded.

    Args:
        run: the run's paths.
        name: the shard's name.
        url: a folder of any store that fsspec writes to.

    Raises:
        ConfigError: nothing can be written to such a URL.
        OutputError: the upload failed, also after some tries. The local shard stays.
        ValueError: the shard is not finished.
    """
    _target(run, url)
    sidecar = finished(run, name)
    if sidecar is None:
        raise ValueError(f"shard {name} is not finished")
    try:
        if _patiently(lambda: _upload(run, name, url, sidecar), f"publishing shard {name}"):
            log.info("shard %s: published to %s", name, url)
    except OSError as error:
        raise OutputError(
            f"--publish: shard {name} cannot be uploaded to {url}: {error}; it stays in "
            f"{run.tar(name)}, mend the cause and run the same command again"
        ) from error


def publish_missing(run: Run, names: Iterable[str], url: str) -> None:
    """Upload those shards that are finished and not published yet. Reads sidecars only, here and there.

    Raises:
        ConfigError: nothing can be written to such a URL.
        OutputError: an upload failed, also after some tries.
    """
    fs, base = _target(run, url)

    def is_missing(name: str) -> bool:
        if finished(run, name) is None:
            return False
        try:
            return _read(fs, f"{base}/{name}.json") != run.sidecar(name).read_bytes()
        except Exception:
            return True  # `publish` will meet it again, and is patient

    names = list(names)
    with ThreadPoolExecutor(16, "published") as pool:
        missing = [name for name, yes in zip(names, pool.map(is_missing, names), strict=True) if yes]
    for name in missing:
        publish(run, name, url)


def _upload(run: Run, name: str, url: str, sidecar: dict[str, Any]) -> bool:
    """Upload what differs; whether something did."""
    fs, base = _target(run, url)
    tar, mark = f"{base}/{name}.tar", f"{base}/{name}.json"
    mine, there = run.sidecar(name).read_bytes(), _read(fs, mark)
    if there == mine:
        return False
    if _tar_sha256(there) != sidecar["tar_sha256"]:
        if there is not None:
            fs.rm_file(mark)
        if url.split(":")[0] not in _WITHOUT_FOLDERS:
            fs.makedirs(posixpath.dirname(tar), exist_ok=True)
        fs.put_file(str(run.tar(name)), tar)
        if (size := fs.info(tar)["size"]) != sidecar["tar_bytes"]:
            raise OSError(f"{tar} has {size} bytes there, {sidecar['tar_bytes']} here")
    fs.pipe_file(mark, mine)
    return True


def _read(fs: Any, path: str) -> bytes | None:
    try:
        return fs.cat_file(path)
    except FileNotFoundError:
        return None


def _tar_sha256(sidecar: bytes | None) -> str | None:
    """Of the tar that a published sidecar tells of; None where it is missing or was cut."""
    try:
        return json.loads(sidecar or b"")["tar_sha256"]
    except (ValueError, KeyError, TypeError):
        return None


def _target(run: Run, url: str) -> tuple[Any, str]:
    """The file system to publish to, and the folder of the shards in it."""
    if _is_http(url) or NAMED_PIPE.fullmatch(url):
        raise ConfigError(f"--publish: {url}: only stores can be written to: s3://, gs://, file://, ...")
    fs, base = _filesystem(url, "--publish")
    if "file" in fs.protocol and os.path.realpath(base) == os.path.realpath(run.out):
        raise ConfigError(f"--publish: {url} is the output directory itself")
    return fs, f"{base.rstrip('/')}/shards"


def _filesystem(url: str, option: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it."""
    import fsspec

    protocol = url.split(":")[0]
    try:
        # what is there may change while the run lasts: nothing is remembered
        return fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        what = f"pip install 'reddiff_pl[{_EXTRAS[protocol]}]'" if protocol in _EXTRAS else _line(error)
        raise ConfigError(f"{option}: {url} needs a package that is not installed: {what}") from error
    except Exception as error:
        raise ConfigError(f"{option}: {url}: {_line(error)}") from error


class _Pipe(io.RawIOBase):
    """What a shell command writes.

    The last two blocks are handed out only when the command is known to have succeeded: the reader stops at the
    end mark of a tar, which a command may have written before it fails (as `tar` does when files vanish).
    """

    def __init__(self, command: str) -> None:
        # of a pipeline every command counts; but a stop signal to the job, which ends by itself, must not end the
        # command before, and make its sample a failure
        shell = ["bash", "-o", "pipefail"] if shutil.which("bash") else ["sh"]
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [*shell, "-c", f"trap '' USR1 USR2\n{command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,  # no Ctrl-C, and all its processes can be ended together
        )
        self._ready = memoryview(b"")
        self._held: bytes | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._ready:
            if self._held is None:
                self._held = self._block()
            self._ready, self._held = memoryview(self._held), self._block()
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _block(self) -> bytes:
        assert self._process.stdout is not None
        block = self._process.stdout.read(BLOCK // 16)
        if len(block) < BLOCK // 16 and (code := self._process.wait()) not in (0, 141):
            # 141: a command of the pipeline wanted no more of the one before it
            self._stderr.seek(0)
            said = self._stderr.read().decode(errors="replace").split("\n")
            last = next((f": {line.strip()}" for line in reversed(said) if line.strip()), "")
            how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
            raise OSError(f"the command ended with {how}{last}")
        return block

    def close(self) -> None:
        if not self.closed:
            if self._process.poll() is None:  # closed early, as by --limit: what it says now does not matter
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process.wait()
            self._stderr.close()
        super().close()


class _Download(io.RawIOBase):
    """A file by http(s), taken up where the connection was cut.

    Not fsspec's, which tries nothing again and takes no proxy from the environment.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._response: HTTPResponse | None = None
        self._position, self._length, self._version = 0, -1, ""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return _patiently(lambda: self._read(buffer), self._url)

    def _read(self, buffer: Any) -> int:
        try:
            if self._response is None:
                self._response = self._connect()
            count = self._response.readinto(buffer)
            if not count and self._position < self._length:
                raise ConnectionError(f"cut at byte {self._position} of {self._length}")
        except Exception:
            self._disconnect()
            raise
        self._position += count
        return count

    def _connect(self) -> HTTPResponse:
        headers = {"User-Agent": f"reddiff_pl/{__version__}"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
            if self._version:
                headers["If-Range"] = self._version
        response = urlopen(Request(self._url, headers=headers), timeout=TIMEOUT)
        if not self._position:
            self._length = int(response.headers.get("Content-Length", -1))
            tag = response.headers.get("ETag", "")
            self._version = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {self._position}-"):
            response.close()
            where = f"cut at byte {self._position} of {self._length}"
            raise io.UnsupportedOperation(f"{where}, and the server does not go on from there")
        return response

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def close(self) -> None:
        self._disconnect()
        super().close()


class _Stored(io.RawIOBase):
    """A file of a store, read by fsspec in blocks."""

    def __init__(self, url: str) -> None:
        self._url = url
        fs, path = _filesystem(url, "--data.shards")
        self._file = self._try(lambda: fs.open(path, "rb", block_size=STORE_BLOCK))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._try(lambda: self._file.read(len(buffer)))
        buffer[: len(block)] = block
        return len(block)

    def _try(self, action: Callable[[], _T]) -> _T:
        return _patiently(action, self._url)

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()


def _patiently(action: Callable[[], _T], what: str) -> _T:
    """Try again where that may help.

    Raises:
        OSError: it did not; one line.
    """
    for wait in (*WAITS, None):
        try:
            return action()
        except Exception as error:  # each store raises its own
            if wait is None or _is_permanent(error):
                raise OSError(_line(error)) from error
            log.info("%s: %s; trying again in %g s", what, _line(error), wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def _is_permanent(error: Exception) -> bool:
    if isinstance(error, HTTPError):
        return error.code < 500 and error.code not in (408, 425, 429)
    return isinstance(error, (FileNotFoundError, PermissionError, io.UnsupportedOperation, ConfigError))


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _line(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        error = error.reason if isinstance(error.reason, BaseException) else error
    text = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError):
        return f"not found ({text})"
    return f"{type(error).__name__}: {text}" if isinstance(error, HTTPException) or not text else text
