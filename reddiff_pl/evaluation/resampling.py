"""Bootstrap over photos, and halves of them: how far a distance between two sets can be trusted.

Every function takes weights, how often each photo counts, so that one drawing serves several sets and several runs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from reddiff_pl.evaluation.statistics import frechet_gaussians

DRAWS = 400
SPLITS = 20

Distance = Callable[[Tensor, Tensor], Tensor]


def drawn(n: int, name: str, seed: int, draws: int = DRAWS) -> Tensor:
    """How often each of n photos comes in each bootstrap sample, float64 (draws, n)."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return torch.from_numpy(generator.multinomial(n, np.full(n, 1 / n), draws)).double()


def split(n: int, name: str, seed: int, splits: int = SPLITS) -> tuple[Tensor, Tensor]:
    """Two halves of n photos, of equal size, as weights, float64 (splits, n) each."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode()), 1])
    one, other = torch.zeros(splits, n, dtype=torch.float64), torch.zeros(splits, n, dtype=torch.float64)
    for row in range(splits):
        order = torch.from_numpy(generator.permutation(n))
        one[row, order[: n // 2]] = 1
        other[row, order[n // 2 : 2 * (n // 2)]] = 1
    return one, other


def around(value: float, draws: Tensor) -> tuple[float, float]:
    """A 95 % interval of a distance: percentiles of its bootstrap, moved so that their mean is the value.

    A sample of few photos has a larger distance than all photos would have, and a sample of that sample a larger one
    again: unmoved, the interval could lie beside the value. A distance is not negative where the value is not.
    """
    low, high = (
        (draws - draws.mean() + value).quantile(torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    )
    return (max(low, 0.0), high) if value >= 0 else (low, high)


def gaussian_distance(x: Tensor, y: Tensor, ours: Tensor, theirs: Tensor, places: int) -> Tensor:
    """Frechet distance of weighted photos, (R,), each photo with the same number of samples.

    Args:
        x: moments of photos, (n, d + d^2): the mean of a sample, and of a product of two features.
        y: the same of the other set, (m, d + d^2).
        ours: weights of x, (R, n).
        theirs: weights of y, (R, m).
        places: samples of a photo.
    """
    return frechet_gaussians(*_gaussian(x, ours, places), *_gaussian(y, theirs, places))


def _gaussian(moments: Tensor, weights: Tensor, places: int) -> tuple[Tensor, Tensor]:
    total = weights.sum(1, keepdim=True)
    means = weights @ moments / total
    d = round(((1 + 4 * moments.shape[1]) ** 0.5 - 1) / 2)
    mean, second = means[:, :d], means[:, d:].unflatten(1, (d, d))
    samples = (total * places)[..., None]
    return mean, (second - mean[:, :, None] * mean[:, None, :]) * (samples / (samples - 1))


def feature_distance(x: Tensor, y: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
    """Frechet distance of weighted features, (R,), by products of photos: for fewer photos than features.

    The trace of (C1 C2)^1/2 is the sum of the singular values of the product of the two centred sets.

    Args:
        x: features, (n, d).
        y: features of the other set, (m, d).
        ours: weights of x, (R, n).
        theirs: weights of y, (R, m).
    """
    rooted = []
    for values, weights in ((x.double(), ours), (y.double(), theirs)):
        total = weights.sum(1, keepdim=True)
        mean = weights @ values / total
        # (values - mean) weighted: its Gram matrices follow from that of the values
        rooted.append((values, weights, total, mean))
    (a, wa, na, ma), (b, wb, nb, mb) = rooted
    cross = a @ b.T - (ma @ b.T)[:, None, :] - (a @ mb.T).T[:, :, None] + (ma * mb).sum(1)[:, None, None]
    cross = wa.sqrt()[:, :, None] * cross * wb.sqrt()[:, None, :]
    root = torch.linalg.svdvals(cross).sum(1) / ((na - 1) * (nb - 1)).sqrt()[:, 0]
    traces = [
        ((w * v.square().sum(1)).sum(1) - n[:, 0] * m.square().sum(1)) / (n[:, 0] - 1)
        for v, w, n, m in rooted
    ]
    return (ma - mb).square().sum(1) + traces[0] + traces[1] - 2 * root


def kernel_means(x: Tensor, y: Tensor) -> Tensor:
    """Mean of KID's kernel (a.b / d + 1)^3 over the samples of each pair of photos, (n, m).

    Args:
        x: samples of photos, (n, p, d).
        y: those of the other set, (m, q, d).
    """
    x, y = x.double(), y.double()
    flat = y.flatten(0, 1)
    rows = [
        ((part.flatten(0, 1) @ flat.T / x.shape[2] + 1) ** 3)
        .unflatten(0, (len(part), x.shape[1]))
        .unflatten(2, (len(y), y.shape[1]))
        .mean((1, 3))
        for part in x.split(8)
    ]
    return torch.cat(rows)


def kernel_distance(xx: Tensor, yy: Tensor, xy: Tensor, ours: Tensor, theirs: Tensor, paired: bool) -> Tensor:
    """Squared maximum mean discrepancy of weighted photos, (R,), over pairs of different photos.

    Args:
        xx: `kernel_means` of the first set with itself, (n, n).
        yy: of the second, (m, m).
        xy: of the two, (n, m).
        ours: weights of the first, (R, n).
        theirs: weights of the second, (R, m).
        paired: the photos of both sets are the same, one by one; a photo is not compared with itself.
    """

    def mean(k: Tensor, a: Tensor, b: Tensor, same: bool) -> Tensor:
        whole, pairs = ((a @ k) * b).sum(1), a.sum(1) * b.sum(1)
        if same:
            whole, pairs = whole - (a * b * k.diagonal()).sum(1), pairs - (a * b).sum(1)
        return whole / pairs

    return mean(xx, ours, ours, True) + mean(yy, theirs, theirs, True) - 2 * mean(xy, ours, theirs, paired)
