"""Distances between the set of restored images and the set of references, from the features that shards left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from reddiff_pl.evaluation.patches import PATCHES, ROWS
from reddiff_pl.evaluation.resampling import (
    Distance,
    around,
    drawn,
    feature_distance,
    gaussian_distance,
    kernel_distance,
    kernel_means,
    split,
)
from reddiff_pl.evaluation.statistics import Moments, finite, frechet, kernel

POOL = 20_000  # images of each set that a kernel distance draws its subsets from
FEW = 128  # photos up to which a network's distances are resampled
KERNEL_PHOTOS = 200  # of which patches are compared, each with each

Entry = dict[str, Any]


def of_network(paths: Sequence[Path], network: str, seed: int) -> dict[str, Entry]:
    """Frechet and kernel distance of restored images to references, in a network's features.

    Args:
        paths: files of features, in the order of their shards' names.
        network: its name.
        seed: of subsets and of the bootstrap.
    """
    sets = [Features(paths, f"{network}/{which}") for which in ("restored", "reference")]
    if any(one.n < 2 for one in sets):
        return {}
    moments, pools = zip(*(one.gather(seed) for one in sets), strict=True)
    counts = {"n": sets[0].n, "n_reference": sets[1].n}
    dim = int(moments[0].sum.numel())
    few = (
        {"note": f"fewer images than features ({dim}): biased upward"} if min(counts.values()) <= dim else {}
    )
    mmd = kernel(pools[0], pools[1], seed)
    names = ("fid", "kid") if network == "inception" else (f"fd-{network}", f"kd-{network}")
    found: dict[str, Entry] = {
        names[0]: {**counts, "value": finite(frechet(*moments)), **few},
        names[1]: {
            **counts,
            "value": finite(mmd.value),
            "std": finite(mmd.std),
            "subsets": mmd.subsets,
            "subset_size": mmd.size,
        },
    }
    x, y = pools
    if max(len(x), len(y)) <= FEW:
        paired = len(x) == len(y)
        xx, yy, xy = (kernel_means(a[:, None], b[:, None]) for a, b in ((x, x), (y, y), (x, y)))
        ways: list[tuple[str, Distance, Distance]] = [
            (names[0], lambda a, b: feature_distance(x, y, a, b), lambda a, b: feature_distance(y, y, a, b)),
            (
                names[1],
                lambda a, b: kernel_distance(xx, yy, xy, a, b, False),
                lambda a, b: kernel_distance(yy, yy, yy, a, b, False),
            ),
        ]
        for name, distance, own in ways:
            found[name] |= _trust(found[name]["value"], name, seed, distance, own, (len(x), len(y)), paired)
    return found


@dataclass
class PhotoPatches:
    """What is known of the patches of a run's photos and of their references, in the same order.

    Attributes:
        moments: restored and reference, (n, d + d^2) each.
        some: restored and reference, (n, p, d) each.
    """

    moments: tuple[Tensor, Tensor]
    some: tuple[Tensor, Tensor]

    @staticmethod
    def read(paths: Sequence[Path], seed: int) -> PhotoPatches | None:
        """Of all photos, or of `POOL` drawn of them; None of fewer than two."""
        kinds = {
            (which, kind): Features(paths, f"{PATCHES}/{which}-{kind}")
            for which in ("restored", "reference")
            for kind in ("moments", "some")
        }
        if any(one.n < 2 for one in kinds.values()):
            return None
        pools = {key: one.pool(seed) for key, one in kinds.items()}
        return PhotoPatches(
            (pools["restored", "moments"], pools["reference", "moments"]),
            (pools["restored", "some"], pools["reference", "some"]),
        )

    def __len__(self) -> int:
        return len(self.moments[0])

    def frechet(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Distances of weighted photos to weighted references, (R,)."""
        return gaussian_distance(*self.moments, ours, theirs, ROWS**2)

    def frechet_of_references(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Of weighted references to others."""
        return gaussian_distance(self.moments[1], self.moments[1], ours, theirs, ROWS**2)


def of_patches(paths: Sequence[Path], seed: int) -> dict[str, Entry]:
    """Frechet and kernel distance of the patches of restored photos to those of their references."""
    photos = PhotoPatches.read(paths, seed)
    if photos is None:
        return {}
    n = len(photos)
    whole = torch.ones(1, n, dtype=torch.float64)
    places = torch.linspace(0, n - 1, min(n, KERNEL_PHOTOS)).round().long()
    x, y = (some[places] for some in photos.some)
    xx, yy, xy = (kernel_means(a, b) for a, b in ((x, x), (y, y), (x, y)))

    def kernels(ours: Tensor, theirs: Tensor) -> Tensor:
        return kernel_distance(xx, yy, xy, ours, theirs, True)

    def kernels_of_references(ours: Tensor, theirs: Tensor) -> Tensor:
        return kernel_distance(yy, yy, yy, ours, theirs, False)

    found: dict[str, Entry] = {}
    for name, distance, own, count, each in (
        ("patch-fd", photos.frechet, photos.frechet_of_references, n, ROWS**2),
        ("patch-kd", kernels, kernels_of_references, len(places), x.shape[1]),
    ):
        value = distance(whole[:, :count], whole[:, :count]).item()
        found[name] = {"n": count, "n_reference": count, "patches": count * each, "value": finite(value)}
        found[name] |= _trust(value, name, seed, distance, own, (count, count), True)
    return found


def _trust(
    value: float | None,
    name: str,
    seed: int,
    distance: Distance,
    own: Distance,
    counts: tuple[int, int],
    paired: bool,
) -> Entry:
    """The interval of a distance, and how far halves of the references are from each other."""
    entry: Entry = {}
    if value is not None and math.isfinite(value):
        ours = drawn(counts[0], name, seed)
        theirs = ours if paired else drawn(counts[1], f"{name} reference", seed)
        low, high = around(value, distance(ours, theirs))
        entry |= {"low": finite(low), "high": finite(high), "interval": "bootstrap"}
    if counts[1] >= 4:
        # an unbiased distance of two halves is as often below zero as above
        entry["halves"] = finite(own(*split(counts[1], name, seed)).abs().mean().item())
    return entry


class Features:
    """Features of one kind over all shards, read shard by shard.

    Args:
        paths: files of features; those without this kind are passed over.
        tensor: which.

    Attributes:
        n: images.
    """

    def __init__(self, paths: Sequence[Path], tensor: str) -> None:
        self.tensor = tensor
        self.files: list[str] = []
        self.n = 0
        for path in map(str, paths):
            with safe_open(path, "pt") as file:
                if tensor in set(file.keys()):
                    self.files.append(path)
                    self.n += file.get_slice(tensor).get_shape()[0]

    def _wanted(self, seed: int) -> Tensor:
        if self.n <= POOL:
            return torch.arange(self.n)
        return torch.randperm(self.n, generator=torch.Generator().manual_seed(seed))[:POOL].sort().values

    def pool(self, seed: int) -> Tensor:
        """The features of all images, or of `POOL` drawn where there are more."""
        return self._read(seed, None)

    def gather(self, seed: int) -> tuple[Moments, Tensor]:
        """The moments of all, and the pool."""
        total: list[Moments] = []
        pool = self._read(seed, total)
        return total[0], pool

    def _read(self, seed: int, total: list[Moments] | None) -> Tensor:
        wanted = self._wanted(seed)
        pool, start = [], 0
        for path in self.files:
            with safe_open(path, "pt") as file:
                features = file.get_tensor(self.tensor)
            if total is not None:
                part = Moments(features)
                if total:
                    total[0] += part
                else:
                    total.append(part)
            inside = wanted[(wanted >= start) & (wanted < start + len(features))]
            pool.append(features[inside - start])
            start += len(features)
        return torch.cat(pool)
