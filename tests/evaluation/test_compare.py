"""`reddiff compare`: runs on the same images, and what may be said of their difference."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as parquet
import pytest
from helpers import CONFIGS, QUICK, read_json, write_shard
from PIL import Image

from reddiff_pl.evaluation.statistics import interval
from reddiff_pl.evaluation.tables import markdown, metric, plain, tex

TASK = ["--config", str(CONFIGS / "tasks" / "inpainting_random.yaml")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, photos):
    """One shard restored with two and with eight steps, and its first six images with eight."""
    from reddiff_pl.__main__ import main

    folder = tmp_path_factory.mktemp("runs")
    shard = write_shard(folder / "in" / "a.tar", [(key, {"jpg": v}) for key, v in list(photos.items())[:8]])
    for name, steps, more in (("two", 2, ()), ("eight", 8, ()), ("six", 8, ("--limit", "6"))):
        options = [*QUICK, *TASK, f"--model.sampler.init_args.steps={steps}", *more]
        assert (
            main(["restore", *map(str, options), "--data.shards", str(shard), "--out", str(folder / name)])
            == 0
        )
        network = ["--metrics", "psnr,ssim,misfit,fd,kd", "--network", "judges.Small"]
        assert main(["evaluate", str(folder / name), *network]) == 0
    return folder


def column(out, name):
    return np.array(parquet.read_table(out / "metrics.parquet")[name].to_pylist())


def test_differences_are_paired(reddiff, runs, tmp_path):
    code, printed = reddiff("compare", runs / "two", f"Eight={runs / 'eight'}", "--out", tmp_path / "c")
    assert code == 0, printed
    result = read_json(tmp_path / "c" / "comparison.json")
    difference = column(runs / "eight", "psnr") - column(runs / "two", "psnr")
    expected = interval(difference, "psnr")
    found = result["differences"]["Eight"]["psnr"]
    assert (found["mean"], found["low"], found["high"]) == (expected.mean, expected.low, expected.high)
    one, other = (result["means"][name]["psnr"] for name in ("two", "Eight"))
    assert other["mean"] - one["mean"] == pytest.approx(found["mean"], abs=1e-9)
    widths = [entry["high"] - entry["low"] for entry in (one, other)]
    unpaired = sum(width**2 for width in widths) ** 0.5
    assert found["high"] - found["low"] < 0.8 * unpaired, "pairing takes out what the images have in common"
    fd = read_json(runs / "two" / "summary.json")["metrics"]["fd-small"]["value"]
    assert result["means"]["two"]["fd-small"]["value"] == fd
    assert result["images"] == 8 and result["notes"] == []
    text = (tmp_path / "c" / "comparison.md").read_text()
    assert f"| two | {one['mean']:.2f} |" in text and "Eight - two" in text and "Eight - two" in printed
    better = "Eight" if other["mean"] > one["mean"] else "two"
    best = max(one["mean"], other["mean"])
    rows = (tmp_path / "c" / "comparison.tex").read_text().splitlines()
    assert any(row.startswith(better) and f"\\textbf{{{best:.2f}}}" in row for row in rows)


def test_the_picture_has_a_row_an_image_and_a_column_a_run(reddiff, runs, tmp_path):
    command = ["compare", runs / "two", runs / "eight", "--out", tmp_path / "c"]
    assert reddiff(*command, "--images", "2")[0] == 0
    small = Image.open(tmp_path / "c" / "grid.png")
    assert reddiff(*command, "--images", "6")[0] == 0
    large = Image.open(tmp_path / "c" / "grid.png")
    assert small.width == large.width and large.height > 2 * small.height
    # reference and two runs of 64 pixels, three times enlarged, two images beside each other
    assert small.width >= 2 * 3 * 3 * 64
    reference = next(iter(_pairs(runs / "two"))).reference.permute(1, 2, 0).numpy()
    enlarged = np.asarray(large)[44 : 44 + 192 : 3, 16 : 16 + 192 : 3]
    assert np.array_equal(enlarged, reference)


def _pairs(out):
    from reddiff_pl.evaluation.pairs import Results

    return Results(out).pairs("a")


def test_runs_with_other_images_are_compared_on_those_in_common(reddiff, runs, tmp_path):
    code, printed = reddiff("compare", runs / "eight", runs / "six", "--out", tmp_path / "c")
    result = read_json(tmp_path / "c" / "comparison.json")
    assert code == 0 and result["images"] == 6
    assert "eight has 2 images that others lack; only the 6 in common count" in printed
    assert "FD-small is left out: the runs do not have the same images" in printed
    assert result["means"]["eight"] == result["means"]["six"]
    assert result["differences"]["six"]["psnr"] == {
        "n": 6,
        "mean": 0,
        "low": 0,
        "high": 0,
        "interval": "bootstrap",
    }


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["two"], "RUN: give two runs or more"),
        (["two", "in"], "not evaluated; run: reddiff evaluate"),
        (["two", "two"], "give them names of their own"),
        (["two", "eight", "--keys", "nobody"], "--keys: nobody"),
        (["two", "eight", "--images", "0"], "--images: must be at least 1"),
    ],
)
def test_bad_options_are_one_line(reddiff, runs, tmp_path, options, line):
    paths = [runs / option if (runs / option).exists() else option for option in options]
    code, printed = reddiff("compare", *paths, "--out", tmp_path / "c")
    assert code == 2 and line in printed and len(printed.splitlines()) == 1


def test_names_cannot_break_a_table():
    """They come with the data, and end in a terminal, in Markdown and in LaTeX."""
    head, rows = ["run", "PSNR"], [["a|b\x1b[2J<script>\n_&%$#{}~^\\", "1"]]
    assert "\x1b" not in plain(head, rows) and plain(head, rows).count("\n") == 3
    assert "<script>" not in markdown(head, rows) and markdown(head, rows).splitlines()[2].count("|") == 3
    escaped = tex(head, rows).splitlines()[5]
    assert (
        escaped.count(" & ") == 1
        and r"\_\&\%\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in escaped
    )


def test_metrics_are_named_for_what_they_are():
    labels = {
        name: metric(name).label
        for name in ("fid", "kid", "fd-x", "kd-x", "top1-x", "top5-x-start", "lpips-y")
    }
    assert labels["fid"] == "FID" and labels["kid"] == "KID x1000" and metric("kid").text(0.0074) == "7.400"
    assert labels["fd-x"] == "FD-x" and labels["kd-x"] == "KD-x x1000"
    assert labels["top1-x"] == "top-1 [%] (x)" and labels["top5-x-start"] == "top-5 [%] (x) of start"
    assert labels["lpips-y"] == "LPIPS (y)" and metric("top1-x").text(0.9375) == "93.8"
    assert metric("psnr").text(None) == metric("psnr").text(float("inf")) == "-"
