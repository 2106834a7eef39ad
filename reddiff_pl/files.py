"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

MAX_DEPTH = 64


_TEMPORARY = re.compile(r"\.(config|.+\.(yaml|json|jsonl|partial|md|tex|csv|html|png))\.\d+")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, also after a power cut."""
    with temporary_file(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        os.replace(file.name, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def temporary_file(path: Path) -> Iterator[IO[bytes]]:
    """A hidden file beside `path`, to be renamed to it or linked; gone at the end, whatever happens but a kill.

    It is locked as long as it is written, so that others know those that a kill left behind (`clear_leftovers`).
    """
    name = path.with_name(f".{path.name}.{os.getpid()}")
    while True:
        file = open(name, "wb")  # noqa: SIM115 (closed at the end)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.lockf(file, fcntl.LOCK_EX)
            if same_file(name, file.fileno()):
                break  # else somebody took it for a leftover before it was locked
        except BaseException:
            file.close()
            raise
        file.close()
    try:
        yield file
    finally:
        if same_file(name, file.fileno()):
            name.unlink()
        file.close()


def same_file(path: Path, descriptor: int) -> bool:
    """Whether a path still leads to an open file."""
    try:
        there, here = os.stat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def clear_leftovers(folder: Path, below: bool = True) -> int:
    """Delete what killed processes left of `write_atomically`; returns how many files.

    Args:
        folder: where to look.
        below: also in the folders below it.
    """
    count = 0
    for parent, folders, names in os.walk(folder):
        for name in names:
            if _TEMPORARY.fullmatch(name):
                count += _delete_unless_held(Path(parent, name))
        if not below:
            folders.clear()
    return count


def _delete_unless_held(path: Path) -> bool:
    try:
        with open(path, "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:  # another process is at it, or has renamed it
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sha256(path: Path) -> str:
    """The hash of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def plain_yaml(content: bytes | str) -> Any:
    """YAML from anyone as plain values.

    Neither anchors, which grow without bound as they are followed, nor tags, nor nesting beyond what a person writes.

    Args:
        content: UTF-8 text; not larger than what is worth reading.

    Raises:
        ValueError: it is not such YAML; one line.
    """
    import yaml

    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise ValueError("anchors and aliases are not taken")
            if tag := getattr(event, "tag", None):
                raise ValueError(f"the tag {tag} is not taken")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} deep")
        return yaml.safe_load(text)
    except (yaml.YAMLError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error
