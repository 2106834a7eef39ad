"""What exported files are called: the inputs' own relative names, each once on any file system."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from reddiff_pl.errors import SampleError

MANIFEST = ".reddiff-export.jsonl"


class Names:
    """Gives each sample a path below the target, none equal to another's by case or by Unicode's forms.

    Args:
        given: {(shard, key): path without suffix} of an earlier export, which stay.
        inputs: names of the inputs. No image is called as another's input is.
    """

    def __init__(self, given: Mapping[tuple[str, str], str], inputs: Iterable[str] = ()) -> None:
        self._given = dict(given)
        self._inputs = {_folded(path) for path in inputs}
        self._files: dict[str, tuple[str, str]] = {}
        self._folders: set[str] = set()

    def reserve(self, sample: tuple[str, str], paths: Iterable[str]) -> None:
        """Keep the paths of an earlier export for the sample that they are of."""
        for path in paths:
            self._take(path, sample)

    def stem(self, shard: str, key: str, file: str | None, suffixes: Iterable[str]) -> str:
        """The path of a sample without the suffix of its kind.

        `file` without its suffix, or SHARD/KEY where there is none; where that is taken, or another input's name, with
        its suffix, as `same.jpg` (then `.png` follows), or with a number.

        Args:
            shard: the shard's name.
            key: the sample's.
            file: of a folder of inputs, the file's path there.
            suffixes: kinds of the files that are to be written, without a dot.

        Raises:
            SampleError: the name would lead out of the target.
        """
        sample, suffixes = (shard, key), list(suffixes)
        if sample in self._given:
            stem = self._given[sample]
            for suffix in suffixes:
                self._take(f"{stem}.{suffix}", sample)
            return stem
        whole = PurePosixPath(_safe(file if file is not None else f"{shard}/{key}"))
        first = str(whole.with_suffix("")) if file is not None else str(whole)
        for stem in _candidates(self._beside_files(first), self._beside_files(str(whole))):
            paths = [f"{stem}.{suffix}" for suffix in suffixes]
            others = {_folded(path) for path in paths} & self._inputs - {_folded(str(whole))}
            if not others and all(self._free(path, sample) for path in paths):
                for path in paths:
                    self._take(path, sample)
                return stem
        raise AssertionError("numbers do not end")

    def _beside_files(self, path: str) -> str:
        """A path none of whose folders is called as a file already is."""
        *parents, name = path.split("/")
        folder = ""
        for part in parents:
            wanted, number = part, 2
            while _folded(folder + part) in self._files:
                part, number = f"{wanted}-{number}", number + 1
            folder += f"{part}/"
        return folder + name

    def _free(self, path: str, sample: tuple[str, str]) -> bool:
        folded = _folded(path)
        taken = self._files.get(folded, sample) != sample or folded in self._folders
        return not taken and folded != MANIFEST

    def _take(self, path: str, sample: tuple[str, str]) -> None:
        self._files[_folded(path)] = sample
        self._folders |= {_folded(str(parent)) for parent in PurePosixPath(path).parents}


def _candidates(first: str, whole: str) -> Iterator[str]:
    yield first
    if whole != first:
        yield whole
    for number in itertools.count(2):
        yield f"{first}-{number}"


def _folded(path: str) -> str:
    """One text for all that some file system takes for the same name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _safe(path: str) -> str:
    parts = path.split("/")
    if (
        path.startswith("/")
        or {"", ".", ".."} & set(parts)
        or any(ord(c) < 32 or ord(c) == 127 for c in path)
    ):
        raise SampleError("an unsafe name: it must be a relative path without .. or control characters")
    return path
