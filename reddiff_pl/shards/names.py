"""Names of files: compared in one form of Unicode, and turned into keys that a tar can hold. No torch."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reddiff_pl.shards.folder import FolderImage


def nfc(name: str) -> str:
    """One form of Unicode: macOS writes umlauts as two characters."""
    return unicodedata.normalize("NFC", name)


def with_keys(images: Sequence[FolderImage]) -> list[FolderImage]:
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
