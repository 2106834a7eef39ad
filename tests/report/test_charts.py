"""Charts: what they say of the time, and that they take nothing from outside."""

from __future__ import annotations

import re

import numpy as np
import pytest

from reddiff_pl.report.charts import histogram, images_per_second, merged, timeline
from reddiff_pl.report.collect import Stretch, Task
from reddiff_pl.report.rows import Metric


def stretch(start, end, images, task="task 0"):
    return Stretch(task, "host", "a", start, end, images, 0, 1)


def test_the_rate_integrates_to_the_images():
    work = [stretch(0, 10, 100), stretch(5, 25, 40, "task 1"), stretch(30, 31, 7)]
    edges, rates = images_per_second(work)
    assert (rates * np.diff(edges)).sum() == pytest.approx(147)
    assert (edges[0], edges[-1]) == (0, 31)
    middle = (edges[:-1] + edges[1:]) / 2
    assert rates[(middle > 6) & (middle < 9)] == pytest.approx(12)
    assert rates[(middle > 27) & (middle < 29)] == pytest.approx(0)


def test_short_stretches_are_drawn_as_one_and_pauses_are_kept():
    spans = [(i, i + 0.9) for i in range(100)] + [(200, 201)]
    assert merged(spans, gap=1.0) == [(0, 99.9), (200, 201)]
    assert merged([(0, 50), (50.5, 100)], gap=1.0) == [(0, 50), (50.5, 100)], "long ones stay apart"


@pytest.mark.parametrize(
    "values", [[1.0], [2.0] * 5, [1.0, 2.0], [np.inf, 1.0, np.nan], np.linspace(0, 1e6, 100_000)]
)
def test_histograms_of_any_values(values):
    svg = histogram(np.asarray(values, float), Metric("m", "m"), "h0")
    assert svg.startswith("<svg ") and svg.endswith("</svg>")


def test_many_shards_make_a_small_chart_in_the_pages_own_colours():
    work = [stretch(i, i + 0.99, 5, f"<script>{i % 40}") for i in range(20_000)]
    names = list(dict.fromkeys(one.task for one in work))
    svg = timeline(work, [Task(name) for name in names], 10.0, "t0")
    assert len(svg) < 400_000
    assert "<script" not in svg and "<style" not in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg), "colours are those of the theme"
    assert all(value.startswith("t0-") for value in re.findall(r'\bid="([^"]*)"', svg))
