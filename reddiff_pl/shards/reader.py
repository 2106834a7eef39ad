"""Input shards as raw samples, in order, with everything that is wrong about them told."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from reddiff_pl.shards.plan import Shard, is_remote
from reddiff_pl.shards.tar import open_tar

MAX_MEMBER_BYTES = 1 << 30


@dataclass
class RawSample:
    """One sample as it lies in the shard.

    Attributes:
        index: its place in the shard.
        key: its name up to the first dot.
        members: file name after the first dot, in lower case -> content, or the file that holds it.
        position: how far the shard has been read, in the unit of `Shard.size`.
        error: why it cannot be used, if so.
        file: of a folder, its file's path there.
    """

    index: int
    key: str
    members: dict[str, bytes | Path] = field(default_factory=dict)
    position: int = 0
    error: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class Failure:
    """A sample that cannot be restored, or (key None) a shard that cannot be read on."""

    index: int
    key: str | None
    reason: str


def read_shard(shard: Shard) -> Iterator[RawSample | Failure]:
    """All samples of a shard in order; every key once, as a sample or as a failure.

    Of a key that comes twice the first counts and the second is a failure. A shard that ends too early fails
    the sample it ends in, since members of that sample may be missing.
    """
    samples = _read_tar(shard) if shard.images is None else _read_folder(shard)
    seen: set[str] = set()
    index = -1
    for index, sample in enumerate(samples):
        if isinstance(sample, Failure):
            yield Failure(index, sample.key, sample.reason)
        elif sample.key in seen:
            yield Failure(index, sample.key, "duplicate key; the first one in the shard counts")
        elif sample.error or not _is_safe(sample.key):
            reason = sample.error or "unsafe key; it must be a relative path without .. or control characters"
            yield Failure(index, sample.key, reason)
        else:
            seen.add(sample.key)
            sample.index = index
            yield sample
    if index < 0:
        yield Failure(0, None, f"empty shard: {shard.url} holds no samples")


def _read_folder(shard: Shard) -> Iterator[RawSample | Failure]:
    for position, image in enumerate(shard.images or (), 1):
        if image.error:
            yield Failure(0, image.key, f"{Path(image.file).name} {image.error}")
            continue
        members: dict[str, bytes | Path] = {
            name: Path(shard.url, file) for name, file in image.members.items()
        }
        yield RawSample(0, image.key, members, position, file=image.file)


def _read_tar(shard: Shard) -> Iterator[RawSample | Failure]:
    current: RawSample | None = None
    try:
        with closing(_open(shard.url)) as file, open_tar(file) as archive:
            for member in archive:
                name = member.name.removeprefix("./")  # as `tar -C folder .` writes them
                match = re.match(r"((?:.*/)?[^./][^./]*)\.([^/]+)$", name)
                if member.isreg() and match and not name.startswith("__"):
                    key, suffix = match.group(1), match.group(2).lower()
                    if current is None or current.key != key or suffix in current.members:
                        if current is not None:
                            yield current
                        current = RawSample(0, key)
                    if member.size > MAX_MEMBER_BYTES:
                        current.error = f"{member.name} has {member.size} bytes, more than {MAX_MEMBER_BYTES}"
                    else:
                        content = archive.extractfile(member)
                        assert content is not None
                        current.members[suffix] = content.read()
                    current.position = archive.offset
                archive.members = []  # type: ignore[attr-defined]  # it keeps every header otherwise
        if current is not None:
            yield current
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = f"cannot read {shard.url} on: {error}"
        if current is not None:
            yield Failure(0, current.key, f"{reason}; what follows this sample is lost")
        else:
            yield Failure(0, None, reason)


def _open(url: str) -> IO[bytes]:
    if not is_remote(url):
        return open(url, "rb")
    from reddiff_pl.shards.stores import open_url

    return open_url(url)


def _is_safe(key: str) -> bool:
    return (
        not key.startswith("/")
        and not {"..", "."} & set(key.split("/"))
        and key.isprintable()
        and len(key.encode()) <= 4096
    )
