"""Intervals against closed forms, distances between sets against torchmetrics."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from reddiff_pl.evaluation.statistics import Moments, frechet, interval, kernel


class Pass(nn.Module):
    """Features that are the images."""

    num_features = 16

    def forward(self, images):
        return images


def features(n, shift=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(16, 16, generator=torch.Generator().manual_seed(9))
    return torch.randn(n, 16, generator=generator) @ mixing + shift


def test_the_bootstrap_is_the_normal_interval_of_a_mean():
    values = np.random.default_rng(0).exponential(2.0, 400)
    found = interval(values, "psnr")
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert found.mean == pytest.approx(values.mean(), abs=1e-12) and found.method == "bootstrap"
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert interval(values, "psnr") == found != interval(values, "psnr", seed=1)
    many = np.tile(values, 100)
    assert interval(many, "psnr").method == "normal"
    assert interval(many, "psnr").high - many.mean() == pytest.approx(half / 10, rel=0.01)


def test_the_interval_covers_the_truth_nineteen_times_of_twenty():
    generator = np.random.default_rng(1)
    found = [interval(generator.normal(3, 1, 60), f"{i}") for i in range(300)]
    covered = sum(one.low <= 3 <= one.high for one in found) / 300
    assert 0.90 <= covered <= 0.98, covered


def test_shares_of_few_images_are_never_certain():
    """Wilson: all of n right leaves n / (n + z^2); the ends mirror."""
    z = 1.959963984540054
    all_right = interval(np.ones(16), "top1", share=True)
    assert (all_right.mean, all_right.high) == (1, 1)
    assert all_right.low == pytest.approx(16 / (16 + z * z), abs=1e-12)
    none = interval(np.zeros(16), "top1", share=True)
    assert (none.low, none.high) == pytest.approx((0, 1 - all_right.low), abs=1e-12)


def test_intervals_of_nothing_and_of_one():
    nothing, one = interval(np.empty(0), "x"), interval(np.array([2.0]), "x")
    assert nothing.n == 0 and math.isnan(nothing.mean)
    assert one.mean == 2 and math.isnan(one.low)


def test_moments_add_up_in_any_order():
    x = features(500)
    whole = Moments(x)
    generator = np.random.default_rng(0)
    for parts in (2, 5, 17):
        cut = [x[i::parts] for i in generator.permutation(parts)]
        total = Moments(cut[0])
        for part in cut[1:]:
            total += Moments(part)
        assert total.n == 500
        torch.testing.assert_close(total.mean(), whole.mean(), rtol=0, atol=1e-9)
        torch.testing.assert_close(total.covariance(), whole.covariance(), rtol=0, atol=1e-9)
    torch.testing.assert_close(whole.covariance(), x.double().T.cov(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("n", "m"), [(200, 200), (300, 120)])
def test_frechet_against_torchmetrics(n, m):
    x, y = features(n, 0.3), features(m, seed=1)
    theirs = FrechetInceptionDistance(feature=Pass())
    theirs.update(y, real=True)
    theirs.update(x, real=False)
    assert frechet(Moments(x), Moments(y)) == pytest.approx(theirs.compute().item(), rel=1e-4)
    assert frechet(Moments(x), Moments(x)) == pytest.approx(0, abs=1e-8)


def test_frechet_of_fewer_images_than_features():
    """Against the trace of the principal square root, by eigenvalues of the product."""
    x, y = features(9, 0.3), features(11, seed=1)
    a, b = x.double().T.cov(), y.double().T.cov()
    roots = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()
    means = (x.double().mean(0) - y.double().mean(0)).square().sum()
    expected = (means + a.trace() + b.trace() - 2 * roots).item()
    assert frechet(Moments(x), Moments(y)) == pytest.approx(expected, rel=1e-4)
    assert math.isnan(frechet(Moments(x[:1]), Moments(y)))


@pytest.mark.parametrize("n", [40, 150])
def test_kernel_against_torchmetrics(n):
    """One subset of all images: no chance in it."""
    x, y = features(n, 0.3), features(n, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = KernelInceptionDistance(feature=Pass(), subsets=2, subset_size=n)
    theirs.update(y.double(), real=True)
    theirs.update(x.double(), real=False)
    expected, std = theirs.compute()
    found = kernel(x, y)
    assert found.value == pytest.approx(expected.item(), rel=1e-4) and std < 1e-6 * abs(expected)
    assert (found.subsets, found.size) == (1, n) and math.isnan(found.std)


def test_kernel_of_many_images_takes_subsets_of_the_same_mean():
    x, y = features(700, 0.3), features(600, seed=1)
    whole = kernel(x, y, size=1000)
    drawn = kernel(x, y, size=100, subsets=200)
    assert (drawn.subsets, drawn.size) == (200, 100)
    assert drawn.value == pytest.approx(whole.value, abs=4 * drawn.std / math.sqrt(200))
    assert kernel(x, y, size=100) == kernel(x, y, size=100) != kernel(x, y, seed=1, size=100)


def test_the_kernel_distance_is_unbiased():
    """Of small samples of one distribution it is zero on average; its sign is either."""
    found = [kernel(features(40, seed=2 * i) / 5, features(40, seed=2 * i + 1) / 5).value for i in range(200)]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(200)
    assert min(found) < 0 < max(found)
