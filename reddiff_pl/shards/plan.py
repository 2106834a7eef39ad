"""Which shards there are, what they are called, and whose they are. No torch, no webdataset."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from braceexpand import braceexpand

from reddiff_pl.errors import ConfigError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
IMAGES_PER_SHARD = 1000

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """One unit of work.

    Attributes:
        name: its path relative to the inputs' common prefix, without .tar; also of the output.
        url: a tar's path or URL; of a folder of images, the folder.
        size: bytes of the tar, or number of images; 0 where it is not known.
        images: of a folder of images, the files of this shard, relative to `url`.
    """

    name: str
    url: str
    size: int = 0
    images: tuple[str, ...] | None = None

    def digest(self) -> str | None:
        """Of a folder of images, a hash of the files' names: it tells when others are added. None for a tar."""
        return (
            None
            if self.images is None
            else hashlib.sha256("\0".join(self.images).encode("utf-8", "surrogateescape")).hexdigest()
        )


def plan(shards: str | Sequence[str] | None, images: str | None) -> list[Shard]:
    """All shards of the run, sorted by name.

    Args:
        shards: paths, URLs or patterns of them: braces ({000000..000009}) and, for paths, *, ? and [].
        images: a folder of images, searched through, cut into shards of `IMAGES_PER_SHARD`.

    Raises:
        ConfigError: nothing or both given, a pattern that matches nothing, a missing file, two equal names.
    """
    if (shards is None) == (images is None):
        raise ConfigError("--data.shards or --data.images: give one of them")
    if images is not None:
        return _image_shards(images)
    patterns = [shards] if isinstance(shards, str) else list(shards or [])
    urls = [url for pattern in patterns for url in _expand(pattern)]
    if not urls:
        raise ConfigError("--data.shards: the list is empty")
    planned = [
        Shard(name, url, 0 if is_remote(url) else os.path.getsize(url))
        for name, url in zip(_names(urls), urls, strict=True)
    ]
    planned.sort(key=lambda shard: shard.name)
    for one, other in itertools.pairwise(planned):
        if one.name == other.name:
            raise ConfigError(
                f"--data.shards: {one.url} and {other.url} would both be written as {one.name}; rename one"
            )
    return planned


def assigned(shards: Sequence[T], rank: int, world: int) -> list[T]:
    """The shards of one task: every world-th, from its rank on.

    All shards are split, the finished ones among them: a split of what is still to do, made by each task at
    its own start, would do some shards twice and others never.
    """
    return list(shards[rank::world])


def is_remote(url: str) -> bool:
    """Whether `url` is not a path: http://, s3://, pipe:, NAME=pipe:, ..."""
    return re.match(r"([^=]*=)?pipe:|[a-z][a-z0-9+.-]*(://|::)", url) is not None


def _expand(pattern: str) -> list[str]:
    if pipe := re.fullmatch(r"(?:([^=]*)=)?pipe:(.*)", pattern, re.DOTALL):
        return _expand_pipe(pattern, pipe[1], pipe[2])
    try:
        urls = list(braceexpand(pattern))
    except ValueError as error:
        raise ConfigError(f"--data.shards: {pattern}: {error}") from error
    found: list[str] = []
    for url in urls:
        if is_remote(url):
            from reddiff_pl.shards import stores

            found.extend(stores.expand(url))
        elif os.path.isfile(url):
            found.append(url)
        elif glob.has_magic(url):
            found.extend(sorted(filter(os.path.isfile, glob.glob(url, recursive=True))))
        else:
            what = "is a folder, not a tar (for images: --data.images)" if os.path.isdir(url) else "not found"
            raise ConfigError(f"--data.shards: {url}: {what}")
    if not found:
        raise ConfigError(f"--data.shards: {pattern} matches no file")
    return found


def _expand_pipe(pipe: str, name: str | None, command: str) -> list[str]:
    """Braces of the name and of the command go together; without any in the name, the shell gets the command as is."""
    if not name:
        raise ConfigError(f"--data.shards: {pipe}: give the shard a name: NAME=pipe:COMMAND")
    try:
        names = list(braceexpand(name))
        commands = [command] if names == [name] else list(braceexpand(command, escape=False))
    except ValueError as error:
        raise ConfigError(f"--data.shards: {pipe}: {error}") from error
    if len(names) != len(commands):
        raise ConfigError(f"--data.shards: {pipe}: {len(names)} names for {len(commands)} commands")
    for name in names:
        if name != posixpath.normpath(name) or name.startswith(("/", ".")) or not name.isprintable():
            raise ConfigError(
                f"--data.shards: {name}=pipe: the name must be a relative path, without . or .."
            )
    return [f"{name}=pipe:{command}" for name, command in zip(names, commands, strict=True)]


def _names(urls: Sequence[str]) -> list[str]:
    given = {url: url.partition("=pipe:")[0] for url in urls if re.match(r"[^=]*=pipe:", url)}
    paths = {
        url: _remote_path(url) if is_remote(url) else os.path.abspath(url) for url in urls if url not in given
    }
    prefix = posixpath.commonpath([posixpath.dirname(path) for path in paths.values()]) if paths else ""
    names = [given[url] if url in given else posixpath.relpath(paths[url], prefix) for url in urls]
    return [re.sub(r"\.(tar|tar\.gz|tgz)$", "", name) for name in names]


def _remote_path(url: str) -> str:
    """/HOST/PATH or /BUCKET/PATH, without a query, which may hold a signature."""
    path = re.sub(r"^.*?:/+", "/", url)
    return posixpath.normpath(re.sub(r"(\.tar|\.tar\.gz|\.tgz)[?#].*$", r"\1", path))


def _image_shards(folder: str) -> list[Shard]:
    if not os.path.isdir(folder):
        raise ConfigError(f"--data.images: no folder {folder}")
    files: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=_refuse_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [n for n in names if n.lower().endswith(IMAGE_SUFFIXES) and not n.startswith(".")]
        files.extend(os.path.relpath(os.path.join(parent, name), folder) for name in images)
    files.sort()
    if not files:
        raise ConfigError(f"--data.images: {folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    chunks = [tuple(files[i : i + IMAGES_PER_SHARD]) for i in range(0, len(files), IMAGES_PER_SHARD)]
    return [Shard(f"images-{i:06d}", folder, len(chunk), chunk) for i, chunk in enumerate(chunks)]


def _refuse_folder(error: OSError) -> None:
    """Not to be skipped in silence: its images would be lost."""
    raise ConfigError(f"--data.images: {error.filename}: {error.strerror}") from error
