"""The folder that is exported to: nothing in it is overwritten but what an export wrote there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from reddiff_pl.errors import ConfigError, OutputError, SampleError
from reddiff_pl.exporting.names import MANIFEST


@dataclass(frozen=True)
class Entry:
    """A file that an export wrote.

    Attributes:
        shard: the sample's shard.
        key: the sample's key.
        stem: path below the target, without the kind's suffix.
        suffix: the kind's.
        sha256: of its content.
        made_of: what it was made of: the output tar's hash, and the format.
    """

    shard: str
    key: str
    stem: str
    suffix: str
    sha256: str
    made_of: str

    @property
    def path(self) -> str:
        return f"{self.stem}.{self.suffix}"


def check(target: Path, out: Path, inputs: Iterable[Path], option: str) -> None:
    """Refuse a folder that is, holds or lies in the inputs or the run; the files of inputs hold nothing.

    Raises:
        ConfigError: it is such a folder, no folder, or one that cannot be written to.
    """
    real = Path(os.path.realpath(target))
    if real.exists() and not real.is_dir():
        raise ConfigError(f"{option}: {target} is not a folder")
    for other in (out, *inputs):
        there = Path(os.path.realpath(other))
        how = (
            "is"
            if real == there
            else "holds"
            if real in there.parents
            else "lies in"
            if there in real.parents
            else ""
        )
        if how:
            what = "the run's output" if other is out else "the inputs"
            raise ConfigError(f"{option}: {target} {how} {what} ({other}); choose a folder of its own")

    above = next(folder for folder in (real, *real.parents) if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"{option}: {target} cannot be written to: {above} does not let it")


class Target:
    """A folder with a manifest of what was exported to it; a context.

    Args:
        folder: it; made where it is not there.

    Attributes:
        entries: {path: what was written there}.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self._by_sample: dict[tuple[str, str], dict[str, Entry]] = {}
        self._manifest: IO[bytes] | None = None

    def __enter__(self) -> Target:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / MANIFEST
            lines = path.read_bytes().splitlines() if path.exists() else []
            for line in lines:
                with contextlib.suppress(ValueError, TypeError):  # the last one may be cut
                    self._add(Entry(**json.loads(line)))
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            self._manifest = os.fdopen(os.open(path, flags, 0o644), "ab")
            self._manifest.write(b"\n" if lines else b"")  # what follows does not continue a cut line
        except OSError as error:
            raise OutputError(f"cannot write {error.filename or self.folder}: {error.strerror}") from error
        return self

    def __exit__(self, *exception: object) -> None:
        if self._manifest is not None:
            self._manifest.close()

    def holds(self, sample: tuple[str, str], made_of: str) -> bool:
        """Whether all files of a sample are there, as they were written, and made of the same."""
        known = [entry for entry in self._by_sample.get(sample, {}).values() if entry.made_of == made_of]
        return bool(known) and all(self.has(entry) for entry in known)

    def has(self, entry: Entry) -> bool:
        """Whether a file is there, as it was written, and made of the same."""
        known = self.entries.get(entry.path)
        return known is not None and known.made_of == entry.made_of and self._hash(entry.path) == known.sha256

    def _add(self, entry: Entry) -> None:
        self.entries[entry.path] = entry
        self._by_sample.setdefault((entry.shard, entry.key), {})[entry.path] = entry

    def write(self, entry: Entry, content: bytes) -> None:
        """Write a file whole or not at all.

        Raises:
            SampleError: something else is there, or a folder on the way is a link.
            OutputError: it cannot be written.
        """
        path, known = self.folder / entry.path, self.entries.get(entry.path)
        temporary = self.folder / f"{MANIFEST}.{os.getpid()}"
        try:
            self._make_parents(entry.path)
            if os.path.lexists(path):
                found = None if path.is_symlink() or not path.is_file() else self._hash(entry.path)
                if found not in (entry.sha256, known.sha256 if known is not None else entry.sha256):
                    raise SampleError(f"{path} is there, and is not what an export wrote; move it away")
            if not os.path.lexists(path) or self._hash(entry.path) != entry.sha256:
                with open(temporary, "xb") as file:
                    file.write(content)
                os.replace(temporary, path)
            assert self._manifest is not None
            self._manifest.write(json.dumps(asdict(entry)).encode() + b"\n")
            self._manifest.flush()
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno in (36, 20, 21):  # the name is too long, or a file and a folder have the same name
                raise SampleError(f"{entry.path[-80:]}: {error.strerror}") from error
            raise OutputError(f"cannot write {path}: {error.strerror}; run the same command again") from error
        self._add(entry)

    def _make_parents(self, path: str) -> None:
        folder = self.folder
        for part in PurePosixPath(path).parts[:-1]:
            folder = folder / part
            if folder.is_symlink():
                raise SampleError(f"{folder} is a link; nothing is written through links")
            folder.mkdir(exist_ok=True)

    def _hash(self, path: str) -> str | None:
        try:
            return hashlib.sha256((self.folder / path).read_bytes()).hexdigest()
        except OSError:
            return None
