"""The files below a folder, by their names and sizes: links, what is hidden, and what cannot be opened. No torch."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from reddiff_pl.errors import ConfigError
from reddiff_pl.shards.folder import FolderImage


class About(NamedTuple):
    """Bytes of a file (-1: it is no regular one), and when it was changed, in seconds since 1970."""

    size: int = 0
    changed: float = 0.0


class Walk:
    """The files of a folder and those below.

    Attributes:
        folders: (path relative to the top, {file name: about it}), empty for the top itself.
        errors: what lies there and cannot be read.
        skipped: hidden files and what is no file.
    """

    def __init__(self, top: str, option: str, leave_out: Collection[str]) -> None:
        self.top, self.option = top, option
        self.folders: list[tuple[str, dict[str, About]]] = []
        self.errors: list[FolderImage] = []
        self.skipped: Counter[str] = Counter()
        self._leave_out = {os.path.realpath(path) for path in leave_out}
        self._names = {os.path.basename(path) for path in self._leave_out}
        self._seen = {os.path.realpath(top)}
        links: list[str] = []
        self._enter("", links)
        while links:  # after all real folders, so that these keep their own names
            link = links.pop(0)
            real = os.path.realpath(os.path.join(top, link))
            back = f"{os.path.realpath(top)}{os.sep}".startswith(f"{real.rstrip(os.sep)}{os.sep}")
            if back or real in self._seen or real in self._leave_out:
                self.skipped["links to folders looked through already"] += 1
                continue
            self._seen.add(real)
            self._enter(link, links)

    def _enter(self, folder: str, links: list[str], hidden: bool = False) -> None:
        files: dict[str, About] = {}
        below: list[str] = []
        try:
            with os.scandir(os.path.join(self.top, folder)) as entries:
                for entry in entries:
                    self._add(entry, folder, files, below, links, hidden)
        except OSError as error:
            if not folder:
                raise ConfigError(f"{self.option}: {self.top}: {error.strerror}") from error
            if hidden:
                self.skipped["hidden"] += 1
            else:
                self.errors.append(FolderImage("", folder, error=f"cannot be opened: {error.strerror}"))
            return
        if files:
            self.folders.append((folder, files))
        for name in sorted(below):
            self._enter(os.path.join(folder, name), links, hidden or name.startswith("."))

    def _add(
        self,
        entry: os.DirEntry[str],
        folder: str,
        files: dict[str, About],
        below: list[str],
        links: list[str],
        hidden: bool,
    ) -> None:
        hidden = hidden or entry.name.startswith(".")
        if entry.is_dir(follow_symlinks=False):
            real = os.path.realpath(entry.path)
            if real not in self._leave_out | self._seen:
                self._seen.add(real)
                below.append(entry.name)
        elif hidden:
            self.skipped["hidden"] += 1
        elif entry.is_symlink() and entry.is_dir():
            links.append(os.path.join(folder, entry.name))
        elif entry.name not in self._names or os.path.realpath(entry.path) not in self._leave_out:
            try:
                about = entry.stat()
            except OSError:  # a link to nothing, or gone: reading it will say so
                files[entry.name] = About()
                return
            size = about.st_size if stat.S_ISREG(about.st_mode) else -1
            files[entry.name] = About(size, about.st_mtime)
