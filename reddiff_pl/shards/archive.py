"""Members of input tars, in order and within bounds: whatever the tar says of itself, memory and time have an end.

The headers are Python's tarfile's to parse; sizes, maps and links are checked here, the length of a header and what
comes after the end by `tar_bytes.py`. Nothing of a tar is lost in silence: what cannot be read on raises.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from reddiff_pl.errors import ConfigError
from reddiff_pl.shards.tar import StrictHeader
from reddiff_pl.shards.tar_bytes import HEADER_BYTES, TarBytes, TrailingBytes

SPARSE_PIECES = 1 << 14
RECENT_BYTES = 1 << 26  # of earlier members, for links to them


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
    source = TarBytes(file, where)
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


def _opened(source: TarBytes) -> tarfile.TarFile:
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


def _next(archive: tarfile.TarFile, source: TarBytes) -> tarfile.TarInfo | None:
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

    def __init__(self, source: TarBytes, max_bytes: int) -> None:
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


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
