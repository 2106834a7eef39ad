"""`reddiff sweep`: a run for every combination, their means, and what becomes of bad ones."""

from __future__ import annotations

import csv
import io
import itertools
import json
import signal

import numpy as np
import pytest
import yaml
from helpers import CONFIGS, read_json, read_tar
from PIL import Image
from run_tasks import TINY, tiny_shards, wait_until

from reddiff_pl.errors import ConfigError
from reddiff_pl.sweep.cells import cells, options, varied

SAMPLER = "model.sampler.init_args."
WEIGHTINGS = ["linear", "sqrt", "square", "log", "trunc_linear", "power2over3", "const", "inverse"]
ORDERS = ["descending", "ascending", "random", "random_without_replacement"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def base(tmp_path):
    """Options of restore: RED-diff on two shards of three tiny images, a Gaussian prior."""
    pattern = tiny_shards(tmp_path / "in", 2, 3)
    paper = str(CONFIGS / "samplers" / "reddiff_paper.yaml")
    return [*TINY, "--config", paper, f"--{SAMPLER}steps=5", "--data.shards", str(pattern)]


def images(run) -> dict[str, bytes]:
    members = (member for tar in sorted((run / "shards").glob("*.tar")) for member in read_tar(tar).items())
    return {name: content for name, content in members if name.endswith(".png")}


def read_csv(out) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "sweep.csv").read_text())))


def test_a_sweep_is_the_separate_runs_and_their_means(reddiff, base, tmp_path):
    out = tmp_path / "out"
    grid = ["--vary", f"{SAMPLER}lam=0.05,1", "--vary", f"{SAMPLER}lr=[0.1, 2e-1]"]
    command = ["sweep", "--out", out, *grid, "--", *base]
    code, printed = reddiff(*command)
    assert code == 0, printed

    pairs = list(itertools.product(("0.05", "1"), ("0.1", "2e-1")))
    rows = read_csv(out)
    assert [(row[f"{SAMPLER}lam"], row[f"{SAMPLER}lr"]) for row in rows] == pairs, "in the order given"
    psnr = []
    for (lam, lr), row in zip(pairs, rows, strict=True):
        tars = [read_tar(tar) for tar in (out / row["cell"] / "shards").glob("*.tar")]
        records = [
            json.loads(content)
            for tar in tars
            for name, content in tar.items()
            if name.endswith("reddiff.json")
        ]
        if (lam, lr) in (pairs[0], pairs[-1]):
            alone = tmp_path / "alone" / row["cell"]
            both = [f"--{SAMPLER}lam={lam}", f"--{SAMPLER}lr={lr}"]
            assert reddiff("restore", *base, *both, "--out", alone)[0] == 0
            assert images(out / row["cell"]) == images(alone) and len(images(alone)) == 6
        for metric in ("psnr", "ssim", "misfit"):
            mean = sum(record[metric] for record in records) / 6
            assert float(row[metric]) == pytest.approx(mean, rel=1e-5)
        psnr.append(float(row["psnr"]))
        sidecars = [read_json(path) for path in (out / row["cell"] / "accounts").glob("*.json")]
        seconds = sum(sidecar["seconds"] for sidecar in sidecars) / 6
        assert float(row["seconds_per_image"]) == pytest.approx(seconds, rel=1e-5)
        assert (row["images"], row["failed"], row["exit_code"], row["note"]) == ("6", "0", "0", "")
    assert len(set(psnr)) == 4
    lines = [line for line in (out / "sweep.md").read_text().splitlines() if line.startswith("|")][2:]
    for (lam, lr), value, line in zip(pairs, psnr, lines, strict=True):
        text = f"**{value:.2f}**" if value == max(psnr) else f"{value:.2f}"
        assert line.startswith(f"| {lam} | {lr} | {text} |"), "the best is marked"
    assert f"* {max(psnr):.2f}" in printed
    with Image.open(out / "sweep.png") as picture:
        assert picture.format == "PNG" and 500 <= picture.width <= 3000 and 300 <= picture.height <= 3000
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20

    files = {path: path.stat().st_mtime_ns for path in out.glob("*/shards/*")}
    table = (out / "sweep.csv").read_bytes()
    code, printed = reddiff(*command)
    assert code == 0 and {path: path.stat().st_mtime_ns for path in out.glob("*/shards/*")} == files
    assert (out / "sweep.csv").read_bytes() == table


def test_a_preview_is_left_alone_and_goes_on_with_a_larger_limit(reddiff, base, tmp_path):
    out = tmp_path / "out"
    command = ["sweep", "--out", out, "--vary", "seed=3", "--", *base, "--limit"]
    assert reddiff(*command, 4)[0] == 0
    files = {path: path.stat().st_mtime_ns for path in out.glob("*/*/*.*")}
    assert len(list(out.glob("*/shards/*.tar"))) == 2 == len(list(out.glob("*/accounts/*.json")))
    assert [row["images"] for row in read_csv(out)] == ["4"]
    assert reddiff(*command, 4)[0] == 0
    again = {path: path.stat().st_mtime_ns for path in out.glob("*/*/*.*")}
    assert {path for path in files if files[path] != again[path]} == set(out.glob("*/logs/*"))
    assert reddiff(*command, 5)[0] == 0
    assert [row["images"] for row in read_csv(out)] == ["5"]


def test_a_bad_cell_is_listed_with_its_reason_and_the_others_go_on(reddiff, base, tmp_path):
    out = tmp_path / "out"
    files = [tmp_path / "deblur.yaml", tmp_path / "nowhere.yaml"]
    task = yaml.safe_load((CONFIGS / "tasks" / "deblur_motion.yaml").read_text())
    del task["model"]["sampler"]  # whose settings are for the shipped one
    files[0].write_text(yaml.safe_dump(task))
    grid = ["--vary", f"config={files[0]},{files[1]}", "--vary", f"{SAMPLER}lam=-1,many,1"]
    code, printed = reddiff("sweep", "--out", out, *grid, "--", *base)
    assert code == 2
    rows = read_csv(out)
    assert [row["exit_code"] for row in rows] == ["2", "2", "0", "2", "2", "2"]
    assert "lam: must be at least 0" in rows[0]["note"] and "many" in rows[1]["note"]
    assert all("nowhere.yaml" in row["note"] for row in rows[3:])
    assert rows[2]["cell"] == "config=deblur,lam=1" and rows[2]["images"] == "6"
    assert rows[0]["psnr"] == "" and float(rows[2]["psnr"]) > 5
    table = printed[printed.index("config  ") :]
    assert "lam: must be at least 0" in table and "nowhere.yaml" in table
    assert "KernelDeblurring" in (out / rows[2]["cell"] / "config.yaml").read_text(), (
        "it comes behind the other files"
    )


def test_a_stopped_sweep_goes_on_and_two_processes_share_one(tasks, base, tmp_path):
    out = tmp_path / "out"
    command = ["sweep", "--out", out, "--vary", "seed=0,1,2", "--", *base, f"--{SAMPLER}steps=500"]
    pid = tasks.start(*command)
    wait_until(lambda: list(out.glob("*/accounts/*.json")))
    tasks.kill(pid, signal.SIGUSR1)
    assert tasks.wait(pid) == 85
    done = {path: path.stat().st_mtime_ns for path in out.glob("*/accounts/*.json")}
    assert 1 <= len(done) < 6
    both = [tasks.start(*command, "--rank", rank, "--world", 2) for rank in range(2)]
    assert [tasks.wait(pid) for pid in both] == [0, 0]
    files = {path: path.stat().st_mtime_ns for path in out.glob("*/accounts/*.json")}
    assert len(files) == 6 and files.items() >= done.items()
    assert all(read_json(path)["restored"] == 3 for path in files)
    rows = read_csv(out)
    assert [row["note"] for row in rows] == [""] * 3 and not list(out.glob("[!.]*.lock"))


@pytest.mark.parametrize(
    ("option", "values"),
    [("weighting", WEIGHTINGS), ("order", ORDERS), ("timesteps_per_step", ["1", "4"])],
)
def test_the_papers_ablations_run_by_one_command(reddiff, base, tmp_path, option, values):
    out = tmp_path / "out"
    more = [f"--{SAMPLER}steps=8", f"--{SAMPLER}lam=0.3", "--limit", "1"]
    code, printed = reddiff(
        "sweep", "--out", out, "--vary", f"{SAMPLER}{option}={','.join(values)}", "--", *base, *more
    )
    assert code == 0, printed
    rows = read_csv(out)
    assert [row[f"{SAMPLER}{option}"] for row in rows] == values
    restored = [images(out / row["cell"]) for row in rows]
    assert all(len(one) == 1 for one in restored)
    assert len({next(iter(one.values())) for one in restored}) == len(values), "each does something else"
    assert all(np.isfinite([float(row[m]) for m in ("psnr", "ssim", "misfit")]).all() for row in rows)
    assert (out / "sweep.png").stat().st_size > 5000


def test_values_are_yaml_and_stay_as_they_are_written():
    grid = varied(
        [
            "a.b=1e-3, null,true",
            "--c.b=[[0.9, 0.99], [0.5, 0.9]]",
            'shards=["x/{0..3}.tar", "y, z"]',
            "model.sampler=reddiff_pl.samplers.DPS,reddiff_pl.samplers.DDIM",
            "config=a/x.yaml,b/x.yaml",
        ]
    )
    assert [one.values for one in grid] == [
        ["1e-3", "null", "true"],
        ["[0.9, 0.99]", "[0.5, 0.9]"],
        ["x/{0..3}.tar", "y, z"],
        ["reddiff_pl.samplers.DPS", "reddiff_pl.samplers.DDIM"],
        ["a/x.yaml", "b/x.yaml"],
    ]
    assert [one.label for one in grid] == ["a.b", "c.b", "shards", "model.sampler", "config"]
    assert grid[3].labels == ["DPS", "DDIM"] and grid[4].labels == ["a/x.yaml", "b/x.yaml"]
    names = [cell.name for cell in cells(grid)]
    assert len(set(names)) == 3 * 2**4
    assert not any(set(name) - set("abcdefghijklmnopqrstuvwxyzDPSIM0123456789_.+=,-") for name in names)


def test_a_varied_file_comes_behind_the_files_and_before_single_options(tmp_path):
    grid = varied(["steps=1,2", "config=a.yaml,b.yaml"])
    base = ["--config", "x.yaml", "-c=y.yaml", "--lr=1"]
    given = options(cells(grid)[1], grid, base, tmp_path)
    assert given[:6] == ["--config", "x.yaml", "-c=y.yaml", "--config=b.yaml", "--lr=1", "--steps=1"]


@pytest.mark.parametrize(
    "spec", ["lam", "lam=", "lam=1,1", "lam=[1", "lam=a: b: c", "out=a,b", "trainer.devices=1,2", "=1"]
)
def test_what_cannot_be_varied_is_said_in_one_line(reddiff, spec, tmp_path):
    with pytest.raises(ConfigError, match="--vary"):
        varied([spec])
    code, printed = reddiff("sweep", "--out", tmp_path / "out", "--vary", spec, "--", "--limit", "1")
    assert code == 2 and printed.startswith("reddiff sweep: error: --vary") and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "named"), [([], "--"), (["--", "--publish", "s3://bucket/x", "--limit=1"], "--publish")]
)
def test_what_a_sweep_cannot_do_is_said_in_one_line(reddiff, more, named, tmp_path):
    code, printed = reddiff("sweep", "--out", tmp_path / "out", "--vary", "seed=0,1", *more)
    assert code == 2 and named in printed.split("error:")[1] and printed.count("\n") == 1
