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
import string
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import IO, Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from reddiff_pl import __version__
from reddiff_pl.errors import ConfigError, OutputError
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import finished

log = logging.getLogger(__name__)

WAITS = (1.0, 4.0, 16.0)  # seconds before another try
BLOCK = 8 << 20  # bytes asked for at once
PIPE_BLOCK = 1 << 16  # so much of a command's output is held back; more than what pads a tar
TIMEOUT = 60  # seconds without a byte

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_WITHOUT_FOLDERS = ("s3", "s3a", "gs", "gcs", "abfs", "az")  # there, to make a folder may make a bucket
_T = TypeVar("_T")


def open_url(url: str) -> IO[bytes]:
    """Open a URL to be read once, from beginning to end.

    Args:
        url: `pipe:COMMAND` or `NAME=pipe:COMMAND` (run by bash with pipefail), http(s), or what fsspec knows.

    Raises:
        ConfigError: when it is read, a store wants credentials.
        OSError: when it is read, anything else; one line.
    """
    read = _pipe if _is_pipe(url) else _download if _is_http(url) else _stored
    return io.BufferedReader(_Blocks(read(url)), 1 << 16)


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

    What is there already is not uploaded again, nor is a shard that is not finished, as one that --limit cut short.
    A sidecar always tells of the tar beside it: that of another tar is deleted before this one is uploaded.

    Args:
        run: the run's paths.
        name: the shard's name.
        url: a folder of any store that fsspec writes to.

    Raises:
        ConfigError: nothing can be written to such a URL, or the store wants credentials.
        OutputError: the upload failed, also after some tries. The local shard stays.
    """
    _target(run, url)
    try:
        if _patiently(lambda: _upload(run, name, url), f"--publish: shard {name}"):
            log.info("shard %s: published to %s", name, url)
    except OSError as error:
        raise OutputError(
            f"--publish: shard {name} cannot be uploaded to {url}: {error}; it stays in "
            f"{run.tar(name)}, mend the cause and run the same command again"
        ) from error


def publish_missing(run: Run, names: Iterable[str], url: str) -> None:
    """Upload those shards that are finished and not published yet. Reads sidecars only, here and there.

    Raises:
        ConfigError: nothing can be written to such a URL, or the store wants credentials.
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


def _upload(run: Run, name: str, url: str) -> bool:
    """Upload what differs; whether something did."""
    fs, base = _target(run, url)
    tar, mark = f"{base}/{name}.tar", f"{base}/{name}.json"
    sidecar = finished(run, name)
    if sidecar is None:
        return False
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
    if _is_http(url) or _is_pipe(url):
        raise ConfigError(f"--publish: {url}: only stores can be written to: s3://, gs://, file://, ...")
    fs, base = _filesystem(url, "--publish")
    if "file" in fs.protocol and os.path.realpath(base) == os.path.realpath(run.out):
        raise ConfigError(f"--publish: {url} is the output directory itself")
    return fs, f"{base.rstrip('/')}/shards"


def _filesystem(url: str, option: str) -> tuple[Any, str]:
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
    fs, path = _filesystem(url, "--data.shards")
    what = f"--data.shards: {url}"
    with _patiently(lambda: fs.open(path, "rb", block_size=BLOCK, cache_type="none"), what) as file:
        while block := _patiently(lambda: file.read(BLOCK), what):
            yield block


def _patiently(action: Callable[[], _T], what: str) -> _T:
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


def _is_pipe(url: str) -> bool:
    return re.match(r"([^=]*=)?pipe:", url) is not None


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _line(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    text = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError):
        return f"not found ({text})"
    return f"{type(error).__name__}: {text}" if isinstance(error, HTTPException) or not text else text
