"""Tar archives read strictly and written in whole samples."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

BLOCK = 512
END = bytes(2 * BLOCK)  # two empty blocks close an archive
RECORD = ".reddiff.json"  # what a run says of a sample; the last member of each


class StrictHeader(tarfile.TarInfo):
    """Raises where the standard reader ends silently: a damaged header, or no end mark.

    The standard reader takes both for the end of the archive, and what follows would be lost unnoticed.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[override]
        offset = tar.offset
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
                error = "no end mark" if offset else "empty file"  # type: ignore[assignment]
            raise tarfile.ReadError(f"truncated or damaged tar ({error} at byte {offset})") from None


def open_tar(file: IO[bytes], seekable: bool = False) -> tarfile.TarFile:
    """A tar reader that raises `tarfile.ReadError` when the archive is truncated or damaged."""
    return tarfile.open(fileobj=file, mode="r:" if seekable else "r|*", tarinfo=StrictHeader)


def encode(members: Sequence[tuple[str, bytes]]) -> bytes:
    """The tar bytes of a sample's members, with nothing in them but names and contents: no time, no owner."""
    out = io.BytesIO()
    for name, content in members:
        header = tarfile.TarInfo(name)
        header.size, header.mtime, header.mode = len(content), 0, 0o644
        out.write(header.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        out.write(content)
        out.write(bytes(-len(content) % BLOCK))
    return out.getvalue()


class Whole(NamedTuple):
    """A whole sample of an output shard.

    Attributes:
        key: its name.
        end: offset of the byte after it.
        meta: its .json member, the user's own.
        record: its .reddiff.json member; the very `meta` where an earlier version wrote one for both.
    """

    key: str
    end: int
    meta: bytes
    record: bytes


def scan(file: IO[bytes], older: bool = False) -> Iterator[Whole]:
    """The whole samples of an output shard that may have been cut anywhere.

    A sample is whole when its .reddiff.json member, written last, is.

    Args:
        file: the shard, seekable.
        older: take samples that end with their .json, too, as earlier versions wrote them. In a shard that may have
            been cut these cannot be told from those whose last member is lost.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size == 0:
        return
    before: Whole | None = None  # a .json that no .reddiff.json has followed yet
    try:
        archive = open_tar(file, seekable=True)
        for member in archive:
            end = member.offset_data + member.size + -member.size % BLOCK
            if end > size:
                return
            if member.name.endswith(".json"):
                opened = archive.extractfile(member)
                assert opened is not None
                content = opened.read()
                if member.name.endswith(RECORD):
                    key = member.name.removesuffix(RECORD)
                    meta = before.meta if before is not None and before.key == key else b"{}"
                    yield Whole(key, end, meta, content)
                    before = None
                else:
                    if before is not None and older:
                        yield before
                    before = Whole(member.name.removesuffix(".json"), end, content, content)
            archive.members = []  # type: ignore[attr-defined]  # it keeps every header otherwise
        if before is not None and older:
            yield before
    except tarfile.ReadError:
        return


def members_of(content: bytes, key: str) -> dict[str, bytes]:
    """A sample's files, {file name after the first dot: content}, from its piece of a tar."""
    members = {}
    with open_tar(io.BytesIO(content + END)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None and member.name.startswith(f"{key}."):
                members[member.name[len(key) + 1 :]] = file.read()
    return members
