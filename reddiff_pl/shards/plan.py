"""Which shards there are, what they are called, and whose they are. No torch, no webdataset."""

from __future__ import annotations

import glob
import itertools
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from braceexpand import braceexpand

from reddiff_pl.errors import ConfigError
from reddiff_pl.shards.folder import Folder, FolderImage, Kind, digest
from reddiff_pl.shards.look import look

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """One unit of work.

    Attributes:
        name: its path relative to the inputs' common prefix, without .tar; also of the output.
        url: a tar's path or URL; of a folder of images, the folder.
        size: bytes of the tar, or number of images; 0 where it is not known.
        images: of a folder, those of this shard.
    """

    name: str
    url: str
    size: int = 0
    images: tuple[FolderImage, ...] | None = None

    @property
    def place(self) -> str:
        """A path or URL in the folder in which it lies: of a folder, what is in it."""
        return self.url if self.images is None else os.path.join(self.url, "-")

    def digest(self) -> str | None:
        """Of a folder, a hash of the images' names: it tells when others are added. None for a tar."""
        return None if self.images is None else digest(image.file for image in self.images)


def plan(
    shards: str | Sequence[str] | None = None,
    images: str | None = None,
    measured: str | None = None,
    params: Mapping[str, str] | None = None,
    out: str | Path | None = None,
) -> list[Shard]:
    """All shards of the run, sorted by name.

    Args:
        shards: paths, URLs or patterns of them: braces ({000000..000009}) and, for paths, *, ? and [].
        images: a folder of clean images.
        measured: a folder of measurements.
        params: {parameter: folder or file}; left out where it lies in the folder.
        out: the output directory: left out, and where it holds a run on this folder, cut as it was then.

    Raises:
        ConfigError: none or several given, a pattern that matches nothing, a missing file, two equal names.
    """
    if sum(given is not None for given in (shards, images, measured)) != 1:
        raise ConfigError("--data.shards, --data.images or --data.measured: give one of them")
    if shards is None:
        kind: Kind = "measured" if images is None else "images"
        return folder_shards(find_folder(kind, str(measured or images), params, out), kind, out)
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
            what = (
                "is a folder, not a tar (for images: --data.measured or --data.images)"
                if os.path.isdir(url)
                else "not found"
            )
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


def find_folder(
    kind: Kind, path: str, params: Mapping[str, str] | None = None, out: str | Path | None = None
) -> Folder:
    """What lies in a folder; `plan`'s arguments.

    Raises:
        ConfigError: it is not there, holds no image, or is plainly of the other kind.
    """
    return look(path, kind, [*(params or {}).values(), *([] if out is None else [str(out)])])


def folder_shards(folder: Folder, kind: Kind, out: str | Path | None = None) -> list[Shard]:
    """A folder cut into shards: as it was when the run in `out` began, so that files which grew move no image."""
    cuts, images = cuts_there(folder, out) or folder.cuts(), folder.images
    chunks = [tuple(images[i:j]) for i, j in zip(cuts, [*cuts[1:], len(images)], strict=True)]
    return [Shard(f"{kind}-{i:06d}", folder.path, len(chunk), chunk) for i, chunk in enumerate(chunks)]


def folder_mark(shards: Sequence[Shard]) -> str | None:
    """What tells a folder's content and its cuts, as config.yaml keeps it; None for tars."""
    if not shards or shards[0].images is None:
        return None
    images = [image.file for shard in shards for image in shard.images or ()]
    starts = itertools.accumulate((len(shard.images or ()) for shard in shards[:-1]), initial=0)
    return f"{digest(iter(images))} {' '.join(map(str, starts))}"


def cuts_there(folder: Folder, out: str | Path | None) -> list[int] | None:
    """The cuts of the run in `out`; None where there is none on these images."""
    if out is None:
        return None
    try:
        with open(Path(out, "config.yaml"), encoding="utf-8") as file:
            head = [next(file, "") for _ in range(8)]
    except (OSError, ValueError):
        return None
    for line in head:
        if found := re.fullmatch(r"# folder: (\w+)((?: \d+)+)\s*", line):
            cuts = [int(start) for start in found[2].split()]
            rising = all(one < other for one, other in itertools.pairwise(cuts))
            if found[1] == folder.digest() and cuts[0] == 0 and rising and cuts[-1] < len(folder.images):
                return cuts
    return None
