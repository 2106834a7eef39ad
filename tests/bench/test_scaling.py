"""The scaling measurement's own arithmetic: what it counts, adds and divides."""

from __future__ import annotations

import argparse
import itertools

import numpy as np
from helpers import VAL_SHARD, write_shard

from benchmarks import scaling, shards
from reddiff_pl.bench.disk import random_image


def test_keys_are_counted_in_and_across_shards(tmp_path):
    files = {"png": b"", "json": b"{}"}
    write_shard(tmp_path / "0.tar", [("a", files), ("b", files), ("b", files)])
    write_shard(tmp_path / "1.tar", [("a", files), ("c", {"steps.png": b""})])
    assert shards.keys(tmp_path) == {"a": 2, "b": 2}


def test_crops_are_squares_of_the_photos():
    found = shards.crops([str(VAL_SHARD)], 40, np.random.default_rng(0))
    crops = [np.asarray(crop) for crop in itertools.islice(found, 60)]  # more than there are photos
    assert {crop.shape for crop in crops} == {(40, 40, 3)}
    assert len({crop.tobytes() for crop in crops}) == 60
    larger = next(shards.crops([str(VAL_SHARD)], 100, np.random.default_rng(0)))
    assert larger.size == (100, 100)


def test_shards_are_the_same_again_and_differ(tmp_path):
    (tmp_path / "making").mkdir()
    contents = []
    for seed in (0, 0, 1):
        path = tmp_path / "000001.tar"
        shards.make(path, 2, 16, seed, [])
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] != contents[2]
    assert shards.keys(tmp_path) == {"000001000000": 1, "000001000001": 1}
    assert np.asarray(random_image(np.random.default_rng(0), 16)).std() > 10


def test_rates_are_added_over_tasks(tmp_path):
    """Two tasks of three shards of eight images: only what follows a task's first commit counts."""
    found = {
        f"{task}{i}": {"task": task, "restored": 8, "finished": 100 + 4 * i + task, "seconds": 4.0}
        for task in (0, 1)
        for i in range(3)
    }
    usage = scaling.Usage(0)
    usage.samples = {0: [(99, 0.0), (101, 5.0), (105, 11.0), (120, 12.0)]}
    options = argparse.Namespace(out=str(tmp_path), photos=[], network="bundled", batch_size=2, batches=4)
    made = scaling.Scaling(options)
    row = made.rates(found, usage, began=90)
    assert row["each_images_per_s"] == [2, 2] and row["images_per_s"] == 4
    assert row["start_seconds"] == 7 and row["images_per_s_with_ends"] == 48 / 13
    assert row["cores_a_task"] == 1.5
    made.record["runs"] = [
        {**row, "tasks": tasks, "images_per_s": rate, "whole_seconds": 1.0, "bytes_in": 0, "bytes_out": 0}
        for tasks, rate in ((1, 2.0), (2, 3.94))
    ]
    last = scaling.table(made.record).splitlines()[-1]
    assert last.startswith("| 2 | 3.940 | 1.970 | 0.985 |")
