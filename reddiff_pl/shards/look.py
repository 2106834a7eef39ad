"""Folders of files as people keep them: which file is an image, which belongs to one, and what is neither.

Names and sizes are read, contents are not. Nothing that lies there vanishes: it is an image, belongs to one, fails
with a reason, or is counted. `walk` finds the files, `companions` sorts them out, `names` makes their keys. No torch.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from reddiff_pl.errors import ConfigError
from reddiff_pl.shards.companions import WORDS, sort_out
from reddiff_pl.shards.folder import Folder, FolderImage, Kind, not_looked_at
from reddiff_pl.shards.names import nfc, with_keys
from reddiff_pl.shards.suffixes import IMAGE_SUFFIXES
from reddiff_pl.shards.walk import About, Walk


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
    found, skipped = Walk(path, option, leave_out), Counter[str]()
    images: list[FolderImage] = list(found.errors)
    attached: list[str] = []
    for folder, files in found.folders:
        sorted_out = sort_out(folder, files, kind)
        images += sorted_out.images
        attached += sorted_out.attached
        skipped.update(sorted_out.skipped)
    skipped.update(found.skipped)
    if kind == "images":
        _refuse_measurements(path, images, attached)
    if not images:
        _refuse_empty(path, option, skipped)
    images.sort(key=lambda image: image.file)
    return Folder(path, with_keys(images), skipped)


def _one(path: str, kind: Kind) -> Folder:
    """A single picture, with what belongs to it beside it."""
    parent, file = os.path.split(path)
    stem = os.path.splitext(file)[0].removesuffix(".y")
    with os.scandir(parent or ".") as entries:
        files = {
            entry.name: About()
            for entry in entries
            if entry.is_file() and nfc(entry.name).startswith(f"{nfc(stem)}.")
        }
    images = [image for image in sort_out("", files, kind).images if image.file == file]
    if not images and "." in stem and stem.rpartition(".")[2].lower() in WORDS:
        raise ConfigError(
            f"--data.{kind}: {path} is named as what belongs to {stem.rpartition('.')[0]}.*; give that picture"
        )
    if not images:
        raise ConfigError(
            f"--data.{kind}: {path}: expected a folder or a picture ({', '.join(IMAGE_SUFFIXES)})"
        )
    return Folder(parent or ".", with_keys(images), Counter())


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
