"""What was found in a folder: its images and what belongs to each, and where it is cut into shards. No torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

IMAGES_PER_SHARD = 1000
BYTES_PER_SHARD = 1 << 30

Kind = Literal["images", "measured"]


@dataclass(frozen=True)
class FolderImage:
    """One image of a folder.

    Attributes:
        key: its name in tars: relative path without suffix, in which dots of the last part are underscores.
        file: its path relative to the folder.
        members: file name after the key, in lower case (y.jpg, mask.png, json) -> path relative to the folder.
        size: bytes of the file.
        error: why it cannot be read, if that is known.
        changed: when it, or what belongs to it, was changed last, in seconds since 1970.
    """

    key: str
    file: str
    members: Mapping[str, str] = field(default_factory=dict)
    size: int = 0
    error: str | None = None
    changed: float = 0.0


@dataclass
class Folder:
    """What lies in a folder.

    Attributes:
        path: the folder.
        images: all images, sorted by file.
        skipped: what is not looked at, {kind of file: how many}.
    """

    path: str
    images: list[FolderImage]
    skipped: Counter[str]

    def digest(self) -> str:
        """A hash of the images' names. What lies beside them is left out: a missing mask may be added."""
        return digest(image.file for image in self.images)

    def cuts(self) -> list[int]:
        """Where the shards begin: `IMAGES_PER_SHARD` images each at most and, of several, `BYTES_PER_SHARD`."""
        starts, count, total = [0], 0, 0
        for i, image in enumerate(self.images):
            if count and (count == IMAGES_PER_SHARD or total + image.size > BYTES_PER_SHARD):
                starts.append(i)
                count = total = 0
            count, total = count + 1, total + image.size
        return starts


def digest(names: Iterator[str]) -> str:
    """A hash of names."""
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def not_looked_at(skipped: Mapping[str, int]) -> str | None:
    """The line that says what lies in a folder beside images: `5 files were not looked at: 3 .txt, 2 hidden`."""
    if not (total := sum(skipped.values())):
        return None
    kinds = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{count:,} {kind}" for kind, count in kinds[:12])
    more = f", {sum(count for _, count in kinds[12:]):,} of other kinds" if kinds[12:] else ""
    return f"{total:,} file{'s were' if total > 1 else ' was'} not looked at: {named}{more}"
