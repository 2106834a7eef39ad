"""Which images a report shows, of few and of a million."""

from __future__ import annotations

import numpy as np
import pytest

from reddiff_pl.report.rows import Rows, _metric, choose, drawn, from_records

PSNR, MISFIT = _metric("psnr"), _metric("misfit")


def rows_of(values, shards: int = 1, metric: str = "psnr") -> Rows:
    values = np.asarray(values, float)
    shard = np.arange(len(values)) * shards // max(len(values), 1)
    names = [f"{i:04d}" for i in range(shards)]
    return Rows(names, shard, [f"k{i}" for i in range(len(values))], {metric: values}, len(values), "restore")


@pytest.fixture(scope="module")
def million() -> Rows:
    """A million images in a thousand shards; their PSNR has nothing to do with their place."""
    values = np.random.default_rng(0).normal(25, 3, 1_000_000).round(4)
    values[::1000] = np.nan
    return rows_of(values, shards=1000)


def test_of_a_million_the_extremes_are_the_true_ones_and_the_sample_has_their_distribution(million):
    values = million.metrics["psnr"]
    choice = choose(million, PSNR, 1000)
    ranked = np.sort(values[~np.isnan(values)])
    assert sorted(values[choice.best], reverse=True) == list(values[choice.best]) == list(ranked[:-4:-1])
    assert list(values[choice.worst]) == list(ranked[:3])
    assert np.abs(values[choice.median] - np.median(ranked)).max() < 1e-3
    assert 1000 <= len(choice.sample) <= 1009 and len(set(choice.sample)) == len(choice.sample)
    assert {*choice.best, *choice.median, *choice.worst} <= set(choice.sample)
    shown = values[choice.sample]
    for share in (5, 25, 50, 75, 95):
        assert np.nanpercentile(shown, share) == pytest.approx(np.percentile(ranked, share), abs=0.25)
    assert len(set(million.shard[choice.sample])) <= 64 + 9, "each shard costs reading it"


def test_the_choice_is_the_same_every_time(million):
    assert choose(million, PSNR, 100) == choose(million, PSNR, 100)


def test_of_few_all_are_shown_best_first():
    rows = rows_of([3.0, 1.0, np.nan, 2.0, np.inf])
    choice = choose(rows, PSNR, 10)
    assert choice.sample == [4, 0, 3, 1, 2]
    assert (choice.best, choice.median, choice.worst) == ([4], [3], [1])
    assert choose(rows_of([3.0, 1.0, 2.0], metric="misfit"), MISFIT, 10).sample == [1, 2, 0]


@pytest.mark.parametrize("count", range(12))
def test_best_median_and_worst_never_overlap(count):
    values = np.random.default_rng(count).permutation(count).astype(float)
    choice = choose(rows_of(values), PSNR, 100)
    shown = [*choice.best, *choice.median, *choice.worst]
    assert len(shown) == len(set(shown)) == (0 if not count else 1 if count < 3 else 3 * min(count // 3, 3))
    if count >= 3:
        assert values[choice.best].min() > values[choice.median].max()
        assert values[choice.median].min() > values[choice.worst].max()


def test_without_any_metric_images_are_shown_in_their_order():
    rows = rows_of([np.nan] * 5)
    choice = choose(rows, None, 3)
    assert choice.sample == [0, 2, 4] and choice.best == choice.worst == []


def test_a_million_samples_are_read_until_there_are_enough():
    """Whole shards, not the first ones; what is not opened costs nothing."""
    opened = []

    def records(name):
        opened.append(name)
        for i in range(1000):
            yield f"{name}_{i}", {"psnr": float(i), "misfit": 0.1, "ssim": "<b>", "n": 5}

    names = [f"{i:04d}" for i in range(1000)]
    rows = from_records(drawn(names), records, 1_000_000, 20_000)
    assert len(rows) == 20_000 and rows.total == 1_000_000 and len(opened) == 20
    assert opened != names[:20] and opened == drawn(reversed(names))[:20]
    assert [metric.name for metric in rows.shown] == ["psnr", "misfit"], "only what is a number is a metric"
    spread = np.sort([int(name) for name in opened])
    assert spread[0] < 250 and spread[-1] > 750


def test_a_psnr_of_null_is_infinite_and_a_missing_one_is_not():
    rows = from_records(
        ["a"], lambda name: iter([("k", {"psnr": None}), ("l", {}), ("m", {"psnr": 1e999})]), 3, 9
    )
    assert rows.metrics["psnr"][0] == np.inf and np.isnan(rows.metrics["psnr"][1:]).all()
