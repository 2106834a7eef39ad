"""Which files of a folder are images, and which belong to one: references, operators' parameters, metadata. No torch.

Names and sizes are read, contents are not.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from reddiff_pl.shards.folder import FolderImage, Kind
from reddiff_pl.shards.names import nfc
from reddiff_pl.shards.suffixes import ARRAY_SUFFIX, READABLE, UNREADABLE, unreadable
from reddiff_pl.shards.walk import About

# what a picture beside another is called when it belongs to that: a reference, or an operator's parameter
WORDS = frozenset(
    ["x", "mask", "kernel", "filter", "filters", "psf", "tables", "coil_maps", "multipliers", "flip"]
)


@dataclass
class SortedOut:
    """Files of one folder.

    Attributes:
        images: the images, with what belongs to them.
        attached: the pictures and arrays that belong to one, paths relative to the top.
        skipped: what is neither, {kind of file: how many}.
    """

    images: list[FolderImage] = field(default_factory=list)
    attached: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


class _Companion(NamedTuple):
    """A file named as what belongs to the image whose name is `stem`, with or without suffix."""

    file: str
    stem: str
    member: str


def sort_out(folder: str, files: Mapping[str, About], kind: Kind) -> SortedOut:
    """One folder's files: images with what belongs to them, failures, and the rest counted."""
    out = SortedOut()
    stems, companions, arrays = _by_name(files, out.skipped)
    owners: dict[str, list[str]] = defaultdict(list)
    for name, stem in stems.items():
        owners[nfc(stem)].append(name)
    for name in stems:  # `same.jpg.mask.png` is of same.jpg alone
        owners.setdefault(nfc(name), [name])
    for array in arrays:  # a parameter where there is an image of the name, else an image
        if nfc(array.stem) in owners:
            companions.append(array)
        else:
            stems[array.file] = os.path.splitext(array.file)[0]
    members: dict[str, dict[str, str]] = {name: {} for name in stems}
    companions.sort(key=lambda companion: len(companion.stem))  # the closest name comes last, and wins
    for name, stem, member in companions:
        if own := owners.get(nfc(stem)):
            for image in own:
                members[image][member] = os.path.join(folder, name)
            out.attached += [os.path.join(folder, name)] if member != "json" else []
        elif member == "json" or kind == "measured":
            out.skipped[f".{member} beside no image" if member != "json" else ".json"] += 1
        else:
            stems[name], members[name] = os.path.splitext(name)[0], {}
    out.images = [_image(folder, name, stem, members[name], files, kind) for name, stem in stems.items()]
    return out


def _by_name(
    files: Mapping[str, About], skipped: Counter[str]
) -> tuple[dict[str, str], list[_Companion], list[_Companion]]:
    """Images, {name: what their companions' names begin with}; companions; and arrays that may be either."""
    stems: dict[str, str] = {}
    companions: list[_Companion] = []
    arrays: list[_Companion] = []
    for name in sorted(files):
        stem, suffix = os.path.splitext(name)
        suffix = suffix.lower()
        inner = re.fullmatch(r"(.+)\.([A-Za-z]\w*)", stem, re.ASCII)
        word = inner[2].lower() if inner else ""
        readable = suffix in READABLE
        if suffix == ".json":
            companions.append(_Companion(name, stem, "json"))
        elif readable and inner and re.sub(r"(_\d+)+$", "", word) in WORDS:
            companions.append(_Companion(name, inner[1], f"{word}{suffix}"))
        elif readable and inner and word == "y":
            stems[name] = inner[1]
        elif suffix == ARRAY_SUFFIX and inner:
            arrays.append(_Companion(name, inner[1], f"{word}{suffix}"))
        elif readable or suffix in UNREADABLE:
            stems[name] = stem
        elif name != "physics.yaml":  # `degrade` leaves it beside measurements, and it is read
            skipped[suffix or "without a suffix"] += 1
    return stems, companions, arrays


def _image(
    folder: str, name: str, stem: str, members: Mapping[str, str], files: Mapping[str, About], kind: Kind
) -> FolderImage:
    suffix, size, error = os.path.splitext(name)[1].lower(), files[name].size, None
    if suffix in UNREADABLE:
        error = unreadable(suffix)
    elif size < 0:
        error = "no regular file"
    path = os.path.join(folder, name)
    whole = {f"y{suffix}" if kind == "measured" else suffix[1:]: path, **members}
    changed = max(files[os.path.basename(file)].changed for file in whole.values())
    return FolderImage(os.path.join(folder, stem), path, whole, max(size, 0), error, changed)
