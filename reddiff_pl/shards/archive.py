"""Members of input tars, in order and within bounds: whatever the tar says of itself, memory and time have an end.

The headers are Python's tarfile's to parse; sizes, maps, links and what comes after the end are checked here. Nothing
of a tar is lost in silence: what cannot be read on raises.
"""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import posixpath
import tarfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from reddiff_pl.errors import ConfigError
from reddiff_pl.shards.tar import BLOCK, StrictHeader

log = logging.getLogger(__name__)

HEADER_BYTES = 1 << 20  # of one member, extended headers and sparse maps included
SPARSE_PIECES = 1 << 14
SKIP_BYTES = 4 << 30  # of what cannot be skipped without reading it
PADDING_BYTES = 1 << 28  # zeros after the end mark
WINDOW_BYTES = 1 << 27  # what a decompressor may keep
RECENT_BYTES = 1 << 26  # of earlier members, for links to them
CHUNK = 1 << 20
SAY_AFTER = 30.0  # seconds without a member


class TrailingBytes(tarfile.ReadError):
    """What follows the end mark is no other tar."""


class DamagedMember(tarfile.ReadError):
    """A member whose content cannot be read, nor what follows.

    Args:
        name: its name.
        error: why.
    """

    def __init__(self, name: str, error: Exception) -> None:
        super().__init__(_line(error))
        self.name = name


@dataclass(frozen=True)
class Member:
    """One member of a tar that is no folder.

    Attributes:
        name: its path in the tar.
        content: of a file or a link to one; None where it cannot be had.
        error: why not.
        position: how far the tar has been read, in bytes of the file as it lies there.
    """

    name: str
    content: bytes | None
    error: str | None
    position: int


def members(
    file: IO[bytes], where: str, max_bytes: int, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[Member]:
    """All files and links of a tar, compressed or not, also of several tars in one file, one after the other.

    Args:
        file: the tar, read from its beginning; sought in where that is possible.
        where: what it is called, for the log.
        max_bytes: members beyond it have an error instead of a content.
        wanted: whether a member of this name is to be read; others have neither content nor error.

    Raises:
        DamagedMember: it ends within a member.
        TrailingBytes: all was read, but what follows the end.
        tarfile.TarError: it is damaged, truncated, no tar, or too large in a way that has no end.
        OSError, EOFError: it cannot be read, or not decompressed.
    """
    source = _Source(file, where)
    contents = _Contents(source, max_bytes)
    archive = _opened(source)
    while True:
        while (header := _next(archive, source)) is not None:
            if not header.isdir():
                name = _normal(header.name)
                try:
                    content, error = contents.of(header, name) if wanted(name) else (None, None)
                except ConfigError:  # a store wants credentials
                    raise
                except Exception as damage:  # decompressors and stores raise many kinds
                    raise DamagedMember(name, damage) from damage
                yield Member(name, content, error, source.raw_position())
                source.said = time.monotonic()
            source.skip_to(archive.offset)
            archive.members = []  # type: ignore[attr-defined]  # it keeps every header otherwise
        if not source.another():
            return
        end = source.position
        try:
            archive = _opened(source)
        except tarfile.ReadError:
            raise TrailingBytes(f"what follows its end mark, from byte {end} on, is no other tar") from None


def _normal(name: str) -> str:
    """Without what `tar -C folder .` puts before."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _opened(source: _Source) -> tarfile.TarFile:
    source.budget = HEADER_BYTES
    try:
        # names are UTF-8 whatever the locale is
        return tarfile.TarFile(
            fileobj=source,  # type: ignore[arg-type]
            tarinfo=StrictHeader,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except (ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise tarfile.ReadError(f"damaged tar ({_line(error)} at byte {source.position})") from None
    finally:
        source.budget = None


def _next(archive: tarfile.TarFile, source: _Source) -> tarfile.TarInfo | None:
    """The next header."""
    before = source.position
    source.budget = HEADER_BYTES
    try:
        header = archive.next()
    except (ValueError, ArithmeticError, LookupError, RecursionError) as error:  # fields that are no numbers
        raise tarfile.ReadError(f"damaged tar ({_line(error)} at byte {before})") from None
    finally:
        source.budget = None
    if header is None:
        return None
    if header.size < 0 or archive.offset < source.position:
        raise tarfile.ReadError(f"damaged tar ({header.name[:200]} of size {header.size} at byte {before})")
    if len(archive.pax_headers) > 1000:
        raise tarfile.ReadError(f"damaged tar (more than 1000 global headers at byte {before})")
    return header


class _Contents:
    """What members hold, and what links to them do."""

    def __init__(self, source: _Source, max_bytes: int) -> None:
        self.source, self.max_bytes = source, max_bytes
        self._places: dict[
            str, tuple[int, int]
        ] = {}  # of a file that can be sought in: offset and size of each
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    def of(self, header: tarfile.TarInfo, name: str) -> tuple[bytes | None, str | None]:
        """(content, error)."""
        if header.issym() or header.islnk():
            return self._linked(header, name)
        if not header.isreg():
            return None, "is a device or a pipe, not a file"
        if header.size > self.max_bytes:
            return None, f"has {header.size} bytes"
        if pieces := getattr(header, "sparse", None):
            content = self._sparse(header, pieces)
        else:
            self.source.skip_to(header.offset_data)
            content = self.source.exactly(header.size)
            self._remember(name, header.offset_data, content)
        return content, None

    def _sparse(self, header: tarfile.TarInfo, pieces: list[tuple[int, int]]) -> bytes:
        pieces = [(offset, size) for offset, size in pieces if size]  # unused places of the map
        end = 0
        for offset, size in pieces:
            if size < 0 or offset < end or offset + size > header.size:
                raise tarfile.ReadError(f"damaged tar (the map of {header.name[:200]}, which is sparse)")
            end = offset + size
        if len(pieces) > SPARSE_PIECES:
            raise tarfile.ReadError(f"damaged tar ({header.name[:200]} in more than {SPARSE_PIECES} pieces)")
        self.source.skip_to(header.offset_data)
        whole = io.BytesIO()
        for offset, size in pieces:
            whole.seek(offset)
            whole.write(self.source.exactly(size))
        if end < header.size:
            whole.seek(header.size - 1)
            whole.write(b"\0")
        return whole.getvalue()

    def _linked(self, header: tarfile.TarInfo, name: str) -> tuple[bytes | None, str | None]:
        base = "" if header.islnk() else posixpath.dirname(name)
        target = posixpath.normpath(posixpath.join(base, header.linkname))
        if target.startswith(("/", "../")) or target == "..":
            return None, f"is a link to {header.linkname[:200]}, which is outside the tar"
        if target in self._places:
            offset, size = self._places[target]
            self._places[name] = offset, size
            return self.source.at(offset, size), None
        if target in self._recent:
            content = self._recent[target]
            self._remember(name, -1, content)
            return content, None
        return None, (
            f"is a link to {target[:200]}, which is not before it in the tar, or too far; "
            "write the tar with --dereference --hard-dereference"
        )

    def _remember(self, name: str, offset: int, content: bytes) -> None:
        if self.source.seekable:
            self._places[name] = offset, len(content)
        elif len(content) <= RECENT_BYTES:
            self._size += len(content) - len(self._recent.pop(name, b""))
            self._recent[name] = content
            while self._size > RECENT_BYTES:
                self._size -= len(self._recent.popitem(last=False)[1])


class _Source:
    """A file read forward, decompressed, for tarfile: every read is counted, and a slow one says where it is.

    Attributes:
        position: offset in the decompressed bytes.
        seekable: whether what is not wanted can be skipped without reading it.
        budget: how much more may be read of a header; None: no header is being read.
        said: when a member was read, or a line told of the reading.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        self.where, self.position, self.said = where, 0, time.monotonic()
        self.budget: int | None = None
        self._file, self._end, self._back = file, 0, b""
        begin = _some(file, BLOCK)
        opened = decompressed(begin, file)
        self.seekable = opened is None and file.seekable()
        if self.seekable:
            self._end = file.seek(0, io.SEEK_END)
            file.seek(0)
        self._data: Any = file if self.seekable else opened or _After(begin, file)

    def raw_position(self) -> int:
        """How far the file as it lies there has been read."""
        try:
            return self._file.tell()
        except (OSError, ValueError):
            return self.position

    def tell(self) -> int:
        return self.position

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; fewer at the end alone."""
        if self.budget is not None:
            self.budget -= size
            if size < 0 or self.budget < 0:
                raise tarfile.ReadError(
                    f"damaged tar (a header of more than {HEADER_BYTES} bytes at byte {self.position})"
                )
        self._say()
        content, self._back = self._back[:size], self._back[size:]
        content += _some(self._data, size - len(content))
        self.position += len(content)
        return content

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        self.skip_to(position, to_end=True)
        return self.position

    def skip_to(self, position: int, to_end: bool = False) -> None:
        """Go forward.

        Raises:
            tarfile.ReadError: the file ends before (unless `to_end`), or the way is too long to be read.
        """
        if position < self.position:
            raise tarfile.ReadError(f"damaged tar (a member before byte {self.position} of itself)")
        if self.seekable and not self._back:
            self.position = self._file.seek(min(position, self._end))
        elif position - self.position > SKIP_BYTES:
            raise tarfile.ReadError(
                f"a member of {position - self.position} bytes, too many to be read only to be left out"
            )
        while self.position < position and self.read(min(CHUNK, position - self.position)):
            pass
        if self.position < position and not to_end:
            raise tarfile.ReadError(f"truncated tar (it ends at byte {self.position})")

    def exactly(self, size: int) -> bytes:
        """So many bytes, held once."""
        whole = io.BytesIO()
        while whole.tell() < size:
            if not (content := self.read(min(CHUNK, size - whole.tell()))):
                raise tarfile.ReadError(f"truncated tar (it ends at byte {self.position})")
            whole.write(content)
        return whole.getvalue()

    def at(self, offset: int, size: int) -> bytes:
        """Bytes that were passed, of a file that can be sought in."""
        self._file.seek(offset)
        content = _some(self._file, size)
        self._file.seek(self.position)
        return content

    def another(self) -> bool:
        """Whether another tar follows the end mark; zeros may lie between."""
        zeros = 0
        while block := self.read(BLOCK):
            if any(block):
                self._back = block + self._back
                self.position -= len(block)
                return True
            zeros += len(block)
            if zeros > PADDING_BYTES:
                raise TrailingBytes(f"more than {PADDING_BYTES} zeros follow its end mark")
        return False

    def _say(self) -> None:
        if (now := time.monotonic()) - self.said > SAY_AFTER:
            self.said = now
            log.info("%s: still reading, at byte %d", self.where, self.position)


class _After(io.RawIOBase):
    """A file whose beginning was read already."""

    def __init__(self, begin: bytes, file: IO[bytes]) -> None:
        self._begin, self._file = begin, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._begin[: len(buffer)] or self._file.read(len(buffer)) or b""
        self._begin = self._begin[len(content) :]
        buffer[: len(content)] = content
        return len(content)


class _Streams(io.RawIOBase):
    """What a decompressor object makes of a file of one stream or of several."""

    def __init__(self, file: IO[bytes], make: Callable[[], Any]) -> None:
        self._file, self._make = file, make
        self._decompressor, self._rest = make(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._decompressor.eof:
                self._rest = self._decompressor.unused_data or self._file.read(CHUNK) or b""
                if not self._rest.strip(b"\0"):
                    return 0
                self._decompressor = self._make()
            if self._decompressor.needs_input and not self._rest:
                self._rest = self._file.read(CHUNK) or b""
                if not self._rest:
                    raise EOFError("the compressed file ends too early")
            content = self._decompressor.decompress(self._rest, len(buffer))
            self._rest = b""
            if content:
                buffer[: len(content)] = content
                return len(content)


def decompressed(begin: bytes, file: IO[bytes]) -> IO[bytes] | None:
    """The tar within a compressed file; None where it is not compressed.

    Args:
        begin: what was read of the file already.
        file: the rest of it.

    Raises:
        tarfile.ReadError: it is of another kind, or of one whose package is not installed.
    """
    whole = io.BufferedReader(_After(begin, file), CHUNK)
    if begin.startswith(b"\x1f\x8b"):
        return io.BufferedReader(gzip.GzipFile(fileobj=whole), CHUNK)
    if begin.startswith(b"BZh") and begin[4:10] == b"1AY&SY":
        return io.BufferedReader(_Streams(whole, bz2.BZ2Decompressor), CHUNK)
    if begin.startswith(b"\xfd7zXZ\0"):
        make = lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2 * WINDOW_BYTES)  # noqa: E731
        return io.BufferedReader(_Streams(whole, make), CHUNK)
    if begin.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstd(whole)
    for mark, kind in _KINDS.items():
        if begin.lstrip().startswith(mark):
            raise tarfile.ReadError(f"it is {kind}, not a tar")
    return None


_KINDS = {
    b"PK\x03\x04": "a zip file",
    b"7z\xbc\xaf": "a 7z file",
    b"Rar!": "a rar file",
    b"PAR1": "a parquet file",
    b"\x89HDF": "an HDF5 file",
    b"\x04\x22\x4d\x18": "an lz4 file",
    b"version https://git-lfs": "a Git LFS pointer (git lfs pull)",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML file",
    b"%PDF": "a PDF file",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
}


def _zstd(file: IO[bytes]) -> IO[bytes]:
    try:
        import zstandard
    except ImportError:
        raise tarfile.ReadError(
            "it is compressed with zstd; pip install zstandard, or decompress it (zstd -d)"
        ) from None
    reader = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
    return io.BufferedReader(reader.stream_reader(file, read_across_frames=True), CHUNK)


def _some(file: IO[bytes], size: int) -> bytes:
    """So many bytes, fewer at the end of the file alone."""
    content = file.read(size) or b""
    while 0 < len(content) < size and (more := file.read(size - len(content))):
        content += more
    return content


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
