"""The bytes of an input tar, decompressed and counted, read forward to what follows its end; every way has an end."""

from __future__ import annotations

import io
import logging
import tarfile
import time
from typing import IO, Any

from reddiff_pl.shards.decompress import CHUNK, WithBeginning, decompressed
from reddiff_pl.shards.tar import BLOCK

log = logging.getLogger(__name__)

HEADER_BYTES = 1 << 20  # of one member, extended headers and sparse maps included
SKIP_BYTES = 4 << 30  # of what cannot be skipped without reading it
PADDING_BYTES = 1 << 28  # zeros after the end mark
SAY_AFTER = 30.0  # seconds without a member


class TrailingBytes(tarfile.ReadError):
    """What follows the end mark is no other tar."""


class TarBytes:
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
        self._data: Any = file if self.seekable else opened or WithBeginning(begin, file)

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


def _some(file: IO[bytes], size: int) -> bytes:
    """So many bytes, fewer at the end of the file alone."""
    content = file.read(size) or b""
    while 0 < len(content) < size and (more := file.read(size - len(content))):
        content += more
    return content
