"""Input shards as raw samples, in order, with everything that is wrong about them told."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from reddiff_pl.errors import ConfigError
from reddiff_pl.shards.archive import DamagedMember, Member, members
from reddiff_pl.shards.plan import Shard, is_remote
from reddiff_pl.shards.suffixes import READABLE, UNREADABLE
from reddiff_pl.shards.tar_bytes import TrailingBytes

KNOWN_SUFFIXES = READABLE | UNREADABLE | {".json"}


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
        names: what `members` held when it was read.
    """

    index: int
    key: str
    members: dict[str, bytes | Path] = field(default_factory=dict)
    position: int = 0
    error: str | None = None
    file: str | None = None
    names: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Failure:
    """A sample that cannot be restored, or (key None) a shard that cannot be read on."""

    index: int
    key: str | None
    reason: str


@dataclass(frozen=True)
class Apart(Failure):
    """A sample of which more lies further on in the shard, so that what was made of its first part does not count."""


@dataclass
class Reading:
    """How shards are read, and what was passed over.

    Attributes:
        max_bytes: of one sample's files; a larger one fails.
        max_samples: in one shard; what comes after them fails.
        not_looked_at: what is neither of a sample nor a picture, {kind of file: how many}.
    """

    max_bytes: int = 512 << 20
    max_samples: int = 1_000_000
    not_looked_at: Counter[str] = field(default_factory=Counter)


def read_shard(shard: Shard, reading: Reading | None = None) -> Iterator[RawSample | Failure]:
    """All samples of a shard in order; every key once, as a sample or as a failure.

    Of a key that comes twice the first counts and the second is a failure. Where it is the rest of the first, the
    first fails, by an `Apart` of its index. A shard that ends too early fails the sample it ends in, since members of
    that sample may be missing.

    Args:
        shard: what to read.
        reading: bounds; gets the counts of what is not looked at.
    """
    reading = reading or Reading()
    samples = _read_tar(shard, reading) if shard.images is None else _read_folder(shard)
    seen: dict[str, tuple[int, frozenset[str]]] = {}
    kinds: dict[frozenset[str], frozenset[str]] = {}  # few sets of names for many samples
    index = -1
    for sample in samples:
        if index + 1 >= reading.max_samples:
            yield Failure(
                index + 1, None, f"more than {reading.max_samples:,} samples; cut {shard.url} into shards"
            )
            return
        names = frozenset(sample.names if isinstance(sample, RawSample) else ())
        first, parts = seen.get(sample.key or "", (-1, frozenset()))
        if names and parts and not names & parts:
            seen[sample.key or ""] = first, names | parts
            later = ", ".join(f"{sample.key}.{name}" for name in sorted(names))[:200]
            reason = (
                f"its files are not beside each other in the tar: {later} comes later; tar --sort=name helps"
            )
            yield Apart(first, sample.key, reason)
            continue
        index += 1
        if isinstance(sample, Failure):
            yield Failure(index, sample.key, sample.reason)
        elif first >= 0:
            yield Failure(index, sample.key, "duplicate key; the first one in the shard counts")
        else:
            if not _is_safe(sample.key):
                sample.error = "unsafe key; it must be a relative path without .. or control characters"
            seen[sample.key] = index, kinds.setdefault(names, names)
            sample.index = index
            yield Failure(index, sample.key, sample.error) if sample.error else sample
    if index < 0:
        yield Failure(0, None, f"empty shard: {shard.url} holds no samples")


def _read_folder(shard: Shard) -> Iterator[RawSample | Failure]:
    for position, image in enumerate(shard.images or (), 1):
        if image.error:
            yield Failure(0, image.key, f"{Path(image.file).name}: {image.error}")
            continue
        members: dict[str, bytes | Path] = {
            name: Path(shard.url, file) for name, file in image.members.items()
        }
        yield RawSample(0, image.key, members, position, file=image.file)


def _read_tar(shard: Shard, reading: Reading) -> Iterator[RawSample | Failure]:
    current: RawSample | None = None
    try:
        with closing(_open(shard.url)) as file:
            for member in members(file, shard.url, reading.max_bytes, lambda name: _parts(name) is not None):
                if (parts := _parts(member.name)) is None:
                    reading.not_looked_at[_kind(member.name)] += 1
                    continue
                key, suffix = parts
                if current is None or current.key != key or suffix in current.names:
                    if current is not None:
                        yield _checked(current, reading)
                    current = RawSample(0, key)
                current.names.add(suffix)
                current.position = member.position
                _add(current, member, suffix, reading.max_bytes)
        if current is not None:
            yield _checked(current, reading)
    except TrailingBytes as error:  # the tar itself is whole
        if current is not None:
            yield _checked(current, reading)
        yield Failure(0, None, f"{shard.url}: {_line(error)}")
    except ConfigError:  # a store wants credentials
        raise
    except Exception as error:  # tarfile, decompressors and stores raise many kinds
        if isinstance(error, DamagedMember) and (parts := _parts(error.name)) is not None:
            if current is not None and current.key != parts[0]:
                yield _checked(current, reading)
            current = RawSample(0, parts[0])
        reason = f"cannot read {shard.url} on: {_line(error)}"
        if current is not None:
            yield Failure(0, current.key, f"{reason}; what follows this sample is lost")
        else:
            yield Failure(0, None, reason)


def _parts(name: str) -> tuple[str, str] | None:
    """Key and the rest of a file's name, in lower case; None where it is of no sample's kind."""
    match = re.match(r"((?:.*/)?[^./][^./]*)\.([^/]+)$", name, re.DOTALL)
    if match is None or os.path.splitext(name)[1].lower() not in KNOWN_SUFFIXES:
        return None
    return match.group(1), match.group(2).lower()


def _kind(name: str) -> str:
    if name.rpartition("/")[2].startswith("."):
        return "hidden"
    suffix = os.path.splitext(name)[1].lower()
    return suffix if suffix.isprintable() and 1 < len(suffix) < 20 else "without a suffix"


def _add(sample: RawSample, member: Member, suffix: str, max_bytes: int) -> None:
    if member.error is not None:
        limit = f", more than {max_bytes} (--data.max_sample_mib)" if member.error.endswith("bytes") else ""
        sample.error = sample.error or f"{member.name} {member.error}{limit}"
    else:
        sample.members[suffix] = member.content or b""
    total = sum(len(content) for content in sample.members.values() if isinstance(content, bytes))
    if total > max_bytes:
        sample.error = sample.error or f"has {total} bytes, more than {max_bytes} (--data.max_sample_mib)"
    if sample.error:
        sample.members = {}


def _checked(sample: RawSample, reading: Reading) -> RawSample:
    """A sample with what is wrong about its files' names; what it has no use for is counted."""
    if sample.error:
        return sample
    stems: dict[str, list[str]] = {}
    unreadable = sorted(name for name in sample.names if f".{name.rpartition('.')[2]}" in UNREADABLE)
    for name in sorted(sample.names.difference(unreadable)):
        stem, _, suffix = name.rpartition(".")
        if suffix != "json":
            stems.setdefault(stem, []).append(name)
    for names in stems.values():
        if len(names) > 1:
            both = " and ".join(f"{sample.key}.{name}" for name in names)
            sample.error = f"{both} have one key; rename one of them"
    if "" not in stems and "y" not in stems:
        dotted = [name for name in sample.names if "." in name and name.rpartition(".")[0] != "x"]
        if unreadable:
            name = unreadable.pop(0)
            sample.error = f".{name} pictures cannot be read; convert {sample.key}.{name} to png, tiff or jpg"
        elif dotted:
            files = ", ".join(f"{sample.key}.{name}" for name in sorted(dotted))[:300]
            sample.error = (
                f"no measurement: a key ends at the first dot of a name, so that {files} is no image of its own; "
                "rename it, or add KEY.y.npy, KEY.y.png or a clean image such as KEY.jpg"
            )
    for name in unreadable:
        reading.not_looked_at[f".{name.rpartition('.')[2]}"] += 1
    if sample.error:
        sample.members = {}
    return sample


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:500]


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
