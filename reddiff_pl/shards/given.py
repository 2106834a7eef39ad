"""Operator parameters that lie apart from the images: a folder of one file an image, or one file for all."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.shards.names import nfc
from reddiff_pl.shards.reader import RawSample
from reddiff_pl.shards.suffixes import READABLE
from reddiff_pl.shards.walk import Walk


class GivenParameters:
    """The files of --data.params.

    Args:
        params: {name of the parameter: folder or file}.
        names: the operator's parameters.
        operator: its name, for messages.

    Raises:
        ConfigError: the operator has no such parameter, or there is no such file or folder.
    """

    def __init__(self, params: Mapping[str, str] | None, names: Collection[str], operator: str) -> None:
        self._for_all: dict[str, Path] = {}
        self._folders: dict[str, dict[str, str]] = {}
        for name, path in (params or {}).items():
            option = f"--data.params.{name}"
            if name not in names:
                has = f"it has {', '.join(sorted(names))}" if names else "it has none"
                raise ConfigError(f"{option}: {operator} has no parameter {name}; {has}")
            if os.path.isdir(path):
                self._folders[name] = _by_stem(path, option, name)
            elif not os.path.isfile(path):
                raise ConfigError(f"{option}: {path}: no such file or folder")
            elif os.path.splitext(path)[1].lower() not in READABLE:
                raise ConfigError(f"{option}: {path}: expected a picture or a .npy")
            else:
                self._for_all[name] = Path(path)

    @property
    def files(self) -> Mapping[str, Path]:
        """{parameter: the file that holds it for all images}."""
        return self._for_all

    def of(self, name: str, image: str) -> Path | None:
        """The file of an image's parameter, by the image's file or key; None without one."""
        if name in self._folders:
            found = self._folders[name]
            return next((Path(found[stem]) for stem in _stems(image) if stem in found), None)
        return self._for_all.get(name)

    def unused(self, images: Iterable[str]) -> Counter[str]:
        """What lies in the folders and belongs to none of these images (files), {kind of file: how many}."""
        left: Counter[str] = Counter()
        for name, found in self._folders.items():
            used = {self.of(name, image) for image in images}
            if count := sum(Path(path) not in used for path in found.values()):
                left[f"of --data.params.{name} for no image"] += count
        return left

    def add_to(self, raw: RawSample) -> None:
        """Give a sample what it does not bring itself.

        Raises:
            SampleError: a folder has nothing for it; another parameter, such as a drawn one, would not be its own.
        """
        for name in [*self._folders, *self._for_all]:
            if any(member.startswith(f"{name}.") for member in raw.members):
                continue
            if (path := self.of(name, raw.file or raw.key)) is not None:
                raw.members[f"{name}{path.suffix.lower()}"] = path
            elif name in self._folders:
                raise SampleError(f"no {name}: the folder of --data.params.{name} has no file of its name")


def _by_stem(path: str, option: str, word: str) -> dict[str, str]:
    """The files of a folder of parameters, {relative name without suffix: path}; NAME.WORD.png counts as NAME.

    Raises:
        ConfigError: two files for one name, or none at all.
    """
    found: dict[str, str] = {}
    for folder, files in Walk(path, option, ()).folders:
        for name in sorted(files):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in READABLE:
                continue
            stem = nfc(os.path.join(folder, stem.removesuffix(f".{word}")))
            if stem in found:
                raise ConfigError(f"{option}: {found[stem]} and {name} are both the {word} of {stem}")
            found[stem] = os.path.join(path, folder, name)
    if not found:
        raise ConfigError(f"{option}: {path} holds no picture and no .npy")
    return found


def _stems(file: str) -> list[str]:
    """What a parameter of an image may be called, the closest first: by its whole name, by its name without suffix."""
    return [nfc(file), nfc(os.path.splitext(file)[0])]
