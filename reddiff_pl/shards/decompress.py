"""Compressed files, of one stream or several, as what they hold; what else is no tar is called by its name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from typing import IO, Any

CHUNK = 1 << 20
WINDOW_BYTES = 1 << 27  # what a decompressor may keep


def decompressed(begin: bytes, file: IO[bytes]) -> IO[bytes] | None:
    """The tar within a compressed file; None where it is not compressed.

    Args:
        begin: what was read of the file already.
        file: the rest of it.

    Raises:
        tarfile.ReadError: it is of another kind, or of one whose package is not installed.
    """
    whole = io.BufferedReader(WithBeginning(begin, file), CHUNK)
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


class WithBeginning(io.RawIOBase):
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
