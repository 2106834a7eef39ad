"""Means with intervals, and distances between sets of features."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RESAMPLES = 2000
BOOTSTRAP_MOST = 20_000  # values; above it the bootstrap's interval is the normal one to three digits
_Z = 1.959963984540054  # 97.5 % of the normal distribution lie below


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval over images.

    Attributes:
        n: values.
        mean: their mean; NaN of none.
        low: lower end; NaN of fewer than two values.
        high: upper end.
        method: bootstrap (percentiles of resampled means), normal (many values), or wilson (shares).
    """

    n: int
    mean: float
    low: float
    high: float
    method: str


def interval(values: np.ndarray, name: str, seed: int = 0, share: bool = False) -> Interval:
    """Mean and 95 % interval.

    Args:
        values: (n,), finite.
        name: what they are; with the seed it names the resampling, so that each metric has its own.
        seed: of the bootstrap.
        share: the values are 0 or 1: a bootstrap of sixteen ones would claim certainty, Wilson's score does not.

    References:
        Probable Inference, the Law of Succession, and Statistical Inference
        | https://doi.org/10.1080/01621459.1927.10502953
    """
    n = len(values)
    method = "wilson" if share else "bootstrap" if n <= BOOTSTRAP_MOST else "normal"
    if n == 0:
        return Interval(0, math.nan, math.nan, math.nan, method)
    mean = float(values.mean())
    if share:
        centre, spread = mean + _Z**2 / (2 * n), _Z * math.sqrt(mean * (1 - mean) / n + (_Z / (2 * n)) ** 2)
        # rounding must not move the ends past the mean
        low, high = (min((centre - spread) / (1 + _Z**2 / n), mean), (centre + spread) / (1 + _Z**2 / n))
        return Interval(n, mean, max(low, 0.0), min(max(high, mean), 1.0), method)
    if n == 1:
        return Interval(n, mean, math.nan, math.nan, method)
    if method == "normal":
        half = _Z * float(values.std(ddof=1)) / math.sqrt(n)
        return Interval(n, mean, mean - half, mean + half, method)
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    chunk = max(1, 4_000_000 // n)
    means = [
        values[generator.integers(0, n, (min(chunk, RESAMPLES - start), n))].mean(1)
        for start in range(0, RESAMPLES, chunk)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Interval(n, mean, float(low), float(high), method)


class Moments:
    """Sums from which the mean and covariance of features follow; those of parts add up.

    Args:
        features: (n, d).
    """

    def __init__(self, features: Tensor) -> None:
        values = features.double()
        self.n, self.sum, self.outer = len(values), values.sum(0), values.T @ values

    def __iadd__(self, other: Moments) -> Moments:
        self.n += other.n
        self.sum = self.sum + other.sum
        self.outer = self.outer + other.outer
        return self

    def mean(self) -> Tensor:
        return self.sum / self.n

    def covariance(self) -> Tensor:
        mean = self.mean()
        return (self.outer - self.n * torch.outer(mean, mean)) / (self.n - 1)


def frechet(one: Moments, other: Moments) -> float:
    """Squared Frechet distance of two Gaussians; NaN of fewer than two images.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), in symmetric form, which rank-deficient covariances
    (fewer images than features) do not upset.

    References:
        GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
        | https://arxiv.org/abs/1706.08500
    """
    if min(one.n, other.n) < 2:
        return math.nan
    return frechet_gaussians(one.mean(), one.covariance(), other.mean(), other.covariance()).item()


def frechet_gaussians(
    mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor
) -> Tensor:
    """The same of means (..., d) and covariances (..., d, d), (...)."""
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()[..., None, :]) @ vectors.mT
    cross = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0).sqrt().sum(-1)
    traces = sum(c.diagonal(dim1=-2, dim2=-1).sum(-1) for c in (covariance, other_covariance))
    return (mean - other_mean).square().sum(-1) + traces - 2 * cross


@dataclass(frozen=True)
class Kernel:
    """A kernel distance: its mean over subsets, and their standard deviation (NaN of one)."""

    value: float
    std: float
    subsets: int
    size: int


def kernel(x: Tensor, y: Tensor, seed: int = 0, subsets: int = 100, size: int = 1000) -> Kernel:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3.

    Up to `size` images a set are taken whole, once; of more, random subsets.

    Args:
        x: features, (n, d).
        y: features, (m, d).
        seed: of the subsets.
        subsets: how many.
        size: images of each set in one.

    References:
        Demystifying MMD GANs | https://arxiv.org/abs/1801.01401
    """
    if min(len(x), len(y)) < 2:
        return Kernel(math.nan, math.nan, 0, min(len(x), len(y)))
    x, y = x.double(), y.double()
    if max(len(x), len(y)) <= size:
        return Kernel(_mmd(x, y), math.nan, 1, min(len(x), len(y)))
    size = min(len(x), len(y), size)
    generator = torch.Generator().manual_seed(seed)
    draws = [
        _mmd(*(v[torch.randperm(len(v), generator=generator)[:size]] for v in (x, y))) for _ in range(subsets)
    ]
    return Kernel(float(np.mean(draws)), float(np.std(draws)), subsets, size)


def _mmd(x: Tensor, y: Tensor) -> float:
    def k(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    xx, yy, xy = k(x, x), k(y, y), k(x, y)
    n, m = len(x), len(y)
    inside = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return (inside - 2 * xy.mean()).item()


def finite(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return value if math.isfinite(value) else None
