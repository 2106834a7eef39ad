"""Folders of files as people keep them: which file is an image, which belongs to one, and what is neither.

Names and sizes are read, contents are not. Nothing that lies there vanishes: it is an image, belongs to one, fails
with a reason, or is counted. No torch.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from reddiff_pl.errors import ConfigError

PHOTOS = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff")
IMAGE_SUFFIXES = (*PHOTOS, ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".tga")
ARRAY_SUFFIX = ".npy"
# pictures that no decoder here reads: each is a failure, never a file that is passed over
UNREADABLE = frozenset(
    [".heic", ".heif", ".hif", ".jxl", ".jxr", ".jpx", ".jpf", ".psd", ".psb", ".xcf", ".svg", ".eps"]
)
UNREADABLE |= {".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"}
UNREADABLE |= {
    ".dds",
    ".pcx",
    ".sgi",
    ".ras",
    ".icns",
    ".ico",
    ".cur",
    ".xbm",
    ".xpm",
    ".wmf",
    ".emf",
    ".ai",
    ".pict",
}
UNREADABLE |= {
    ".raw",
    ".nrw",
    ".3fr",
    ".iiq",
    ".x3f",
    ".mrw",
    ".kdc",
    ".dcr",
    ".erf",
    ".mef",
    ".rwl",
    ".gpr",
    ".crw",
}
UNREADABLE |= {
    ".bpg",
    ".flif",
    ".qoi",
    ".apng",
    ".mng",
    ".j2c",
    ".jpc",
    ".jph",
    ".ktx",
    ".insp",
    ".fli",
    ".vtf",
    ".pfm",
}
UNREADABLE |= {".wdp", ".djvu", ".dcm", ".fits", ".fit", ".nii", ".czi", ".nd2", ".lif"}
# what a picture beside another is called when it belongs to that: a reference, or an operator's parameter
WORDS = frozenset(
    ["x", "mask", "kernel", "filter", "filters", "psf", "tables", "coil_maps", "multipliers", "flip"]
)
IMAGES_PER_SHARD = 1000
BYTES_PER_SHARD = 1 << 30

Kind = Literal["images", "measured"]


def unreadable(suffix: str) -> str:
    """Why pictures of a kind are not restored."""
    return f"{suffix} pictures cannot be read; convert it to png, tiff or jpg"


class About(NamedTuple):
    """Bytes of a file (-1: it is no regular one), and when it was changed, in seconds since 1970."""

    size: int = 0
    changed: float = 0.0


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


def look(path: str, kind: Kind, leave_out: Collection[str] = ()) -> Folder:
    """All images below a folder.

    Linked folders are followed, each real folder once. Hidden files and folders are counted only.

    Args:
        path: the folder.
        kind: "images" are clean, "measured" are measurements with what belongs to them beside them.
        leave_out: files and folders that are something else, such as a folder of masks or OUT.

    Raises:
        ConfigError: it is not there, holds no image, or is plainly of the other kind.
    """
    option = f"--data.{kind}"
    if os.path.isfile(path):
        return _one(path, kind)
    if not os.path.isdir(path):
        raise ConfigError(f"{option}: {path}: no such folder")
    found, skipped = _Walk(path, option, leave_out), Counter[str]()
    images: list[FolderImage] = list(found.errors)
    attached: list[str] = []
    for folder, files in found.folders:
        sorted_out = _sort_out(folder, files, kind)
        images += sorted_out.images
        attached += sorted_out.attached
        skipped.update(sorted_out.skipped)
    skipped.update(found.skipped)
    if kind == "images":
        _refuse_measurements(path, images, attached)
    if not images:
        _refuse_empty(path, option, skipped)
    images.sort(key=lambda image: image.file)
    return Folder(path, _with_keys(images), skipped)


def _one(path: str, kind: Kind) -> Folder:
    """A single picture, with what belongs to it beside it."""
    parent, file = os.path.split(path)
    stem = os.path.splitext(file)[0].removesuffix(".y")
    with os.scandir(parent or ".") as entries:
        files = {
            entry.name: About()
            for entry in entries
            if entry.is_file() and _normal(entry.name).startswith(f"{_normal(stem)}.")
        }
    images = [image for image in _sort_out("", files, kind).images if image.file == file]
    if not images and "." in stem and stem.rpartition(".")[2].lower() in WORDS:
        raise ConfigError(
            f"--data.{kind}: {path} is named as what belongs to {stem.rpartition('.')[0]}.*; give that picture"
        )
    if not images:
        raise ConfigError(
            f"--data.{kind}: {path}: expected a folder or a picture ({', '.join(IMAGE_SUFFIXES)})"
        )
    return Folder(parent or ".", _with_keys(images), Counter())


def by_stem(path: str, option: str, word: str) -> dict[str, str]:
    """The files of a folder of parameters, {relative name without suffix: path}; NAME.WORD.png counts as NAME.

    Raises:
        ConfigError: two files for one name, or none at all.
    """
    found: dict[str, str] = {}
    for folder, files in _Walk(path, option, ()).folders:
        for name in sorted(files):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in (*IMAGE_SUFFIXES, ARRAY_SUFFIX):
                continue
            stem = _normal(os.path.join(folder, stem.removesuffix(f".{word}")))
            if stem in found:
                raise ConfigError(f"{option}: {found[stem]} and {name} are both the {word} of {stem}")
            found[stem] = os.path.join(path, folder, name)
    if not found:
        raise ConfigError(f"{option}: {path} holds no picture and no .npy")
    return found


def stems(file: str) -> list[str]:
    """What a parameter of an image may be called, the closest first: by its whole name, by its name without suffix."""
    return [_normal(file), _normal(os.path.splitext(file)[0])]


def _normal(name: str) -> str:
    """One form of Unicode: macOS writes umlauts as two characters."""
    return unicodedata.normalize("NFC", name)


class _Walk:
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


@dataclass
class _SortedOut:
    images: list[FolderImage] = field(default_factory=list)
    attached: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def _sort_out(folder: str, files: Mapping[str, About], kind: Kind) -> _SortedOut:
    """One folder's files: images with what belongs to them, failures, and the rest counted."""
    out = _SortedOut()
    pictures: dict[str, str] = {}  # file name -> what its companions' names begin with
    beside: list[tuple[str, str, str]] = []  # file name, what it begins with, member
    maybe: list[tuple[str, str, str]] = []
    for name in sorted(files):
        stem, suffix = os.path.splitext(name)
        suffix = suffix.lower()
        inner = re.fullmatch(r"(.+)\.([A-Za-z]\w*)", stem, re.ASCII)
        word = inner[2].lower() if inner else ""
        readable = suffix in IMAGE_SUFFIXES or suffix == ARRAY_SUFFIX
        if suffix == ".json":
            beside.append((name, stem, "json"))
        elif readable and inner and re.sub(r"(_\d+)+$", "", word) in WORDS:
            beside.append((name, inner[1], f"{word}{suffix}"))
        elif readable and inner and word == "y":
            pictures[name] = inner[1]
        elif suffix == ARRAY_SUFFIX and inner:
            maybe.append((name, inner[1], f"{word}{suffix}"))
        elif suffix in IMAGE_SUFFIXES or suffix in UNREADABLE or suffix == ARRAY_SUFFIX:
            pictures[name] = stem
        elif name != "physics.yaml":  # `degrade` leaves it beside measurements, and it is read
            out.skipped[suffix or "without a suffix"] += 1
    owners: dict[str, list[str]] = defaultdict(list)
    for name, stem in pictures.items():
        owners[_normal(stem)].append(name)
    for name in pictures:  # `same.jpg.mask.png` is of same.jpg alone
        owners.setdefault(_normal(name), [name])
    for (
        name,
        stem,
        member,
    ) in maybe:  # an array is a parameter where there is an image of the name, else an image
        if _normal(stem) in owners:
            beside.append((name, stem, member))
        else:
            pictures[name] = os.path.splitext(name)[0]
    members: dict[str, dict[str, str]] = {name: {} for name in pictures}
    for name, stem, member in sorted(
        beside, key=lambda item: len(item[1])
    ):  # the closest name comes last, and wins
        if own := owners.get(_normal(stem)):
            for picture in own:
                members[picture][member] = os.path.join(folder, name)
            out.attached += [os.path.join(folder, name)] if member != "json" else []
        elif member == "json" or kind == "measured":
            out.skipped[f".{member} beside no image" if member != "json" else ".json"] += 1
        else:
            pictures[name], members[name] = os.path.splitext(name)[0], {}
    for name, stem in pictures.items():
        suffix, size, error = os.path.splitext(name)[1].lower(), files[name].size, None
        if suffix in UNREADABLE:
            error = unreadable(suffix)
        elif size < 0:
            error = "no regular file"
        member = f"y{suffix}" if kind == "measured" else suffix[1:]
        path = os.path.join(folder, name)
        key = os.path.join(folder, stem)
        whole = {member: path, **members[name]}
        changed = max(files[os.path.basename(file)].changed for file in whole.values())
        out.images.append(FolderImage(key, path, whole, max(size, 0), error, changed))
    return out


def _refuse_measurements(path: str, images: Sequence[FolderImage], attached: Sequence[str]) -> None:
    made = [image.file for image in images if re.search(r"(?i)\.y\.\w+$", image.file)]
    if attached or made:
        name = (attached or made)[0]
        what = "belongs to a damaged photo" if attached else "is named as a measurement"
        raise ConfigError(
            f"--data.images: {path} holds {name}, which {what}, and --data.images are clean images, to be degraded; "
            "did you mean --data.measured?"
        )
    pattern = rf"(?i)\.({'|'.join(sorted(WORDS))})(_\d+)*\.\w+$"
    if images and all(re.search(pattern, image.file) for image in images):
        raise ConfigError(
            f"--data.images: {path} holds only files such as {images[0].file}: parameters, no images; give them as "
            "--data.params.NAME, and the damaged photos as --data.measured"
        )


def _refuse_empty(path: str, option: str, skipped: Mapping[str, int]) -> None:
    if any(kind in (".tar", ".tgz") for kind in skipped):
        raise ConfigError(
            f"{option}: {path} holds tars, no images; did you mean --data.shards '{path}/*.tar'?"
        )
    if any(kind.endswith("beside no image") for kind in skipped):
        raise ConfigError(
            f"{option}: {path} holds only what belongs to measurements ({not_looked_at(skipped)}); give such a folder "
            "as --data.params.NAME, and that of the measurements as --data.measured"
        )
    rest = f"; {line}" if (line := not_looked_at(skipped)) else ""
    raise ConfigError(f"{option}: {path} holds no image ({', '.join(IMAGE_SUFFIXES)}){rest}")


def _with_keys(images: Sequence[FolderImage]) -> list[FolderImage]:
    """Keys that a tar can hold, no two alike.

    A dot would split a key when the output is read. The image whose name needs no change keeps it; of others that
    would be called the same each gets its suffix, then a number.
    """
    wanted = [_plain_key(image.key or image.file) for image in images]
    taken: dict[str, int] = {}
    for exact in (True, False):
        for i, key in enumerate(wanted):
            if key not in taken and (not exact or key == images[i].key):
                taken[key] = i
    keys = {i: key for key, i in taken.items()}
    for i, image in enumerate(images):
        if i in keys:
            continue
        key = base = f"{wanted[i]}_{os.path.splitext(image.file)[1][1:].lower() or 'folder'}"
        number = 2
        while key in taken:
            key, number = f"{base}_{number}", number + 1
        taken[key], keys[i] = i, key
    return [replace(image, key=keys[i]) for i, image in enumerate(images)]


def _plain_key(name: str) -> str:
    path = Path(name)
    key = (path.parent / path.name.replace(".", "_")).as_posix()
    key = key.encode("utf-8", "backslashreplace").decode()  # a name that is no UTF-8 can still be shown
    return "".join(letter if letter.isprintable() else "_" for letter in key)
