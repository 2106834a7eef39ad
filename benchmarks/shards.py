"""Shards of clean images for measurements of speed, and the keys in them."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from reddiff_pl.bench import disk


def make(path: Path, count: int, size: int, seed: int, photos: list[str]) -> None:
    """One shard of clean images: crops of photos, or random ones where there are none."""
    random = np.random.default_rng([seed, int(path.stem)])
    found = crops(photos, size, random) if photos else None
    images = (next(found) if found else disk.random_image(random, size) for _ in range(count))
    making = path.parent / "making" / path.name  # a cut one must not be taken for whole
    disk.write_shard(making, images)
    making.replace(path)


def crops(photos: list[str], size: int, random: np.random.Generator) -> Iterator[Image.Image]:
    """Endless random squares of the photos in tars; photos too small are enlarged to fit."""
    while True:
        used = 0
        for index in random.permutation(len(photos)):
            with tarfile.open(photos[index]) as archive:
                for member in archive:
                    if not member.name.lower().endswith((".jpg", ".jpeg", ".png", ".webp")):
                        continue
                    image = Image.open(archive.extractfile(member)).convert("RGB")
                    scale = size / min(image.size)
                    if scale > 1:
                        image = image.resize([max(size, round(side * scale)) for side in image.size])
                    left, top = (int(random.integers(0, side - size + 1)) for side in image.size)
                    used += 1
                    yield image.crop((left, top, left + size, top + size))
        if not used:
            raise SystemExit(f"scaling: no photos in {', '.join(photos)}")


def keys(folder: Path) -> Counter[str]:
    """How often each key's image lies in the shards of a folder."""
    found: Counter[str] = Counter()
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            names = (name.split(".", 1) for name in archive.getnames())
            found.update(key for key, suffix in names if suffix == "png")
    return found
