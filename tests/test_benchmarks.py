"""The quality table's machinery: jobs done once, evaluations counted, a table and a picture written."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from helpers import VAL_SHARD

from benchmarks import coverage, curves, families, latents, methods, objectives, precision, quality, table
from benchmarks import jobs as j
from benchmarks.plug_and_play import plug_and_play
from reddiff_pl.physics import Denoising
from reddiff_pl.priors import FFDNet
from reddiff_pl.training.photos import PhotoCrops

TEMPLATE = Path(quality.__file__).with_name("quality.md.in").read_text()
TASK = "superresolution_4x"


def test_jobs_are_done_once_and_shown(tmp_path):
    out = tmp_path / "runs"
    arguments = argparse.Namespace(
        photos=[str(VAL_SHARD)],
        modulus=1,
        count=2,
        prior=None,
        bf16=False,
        ffdnet=str(tmp_path / "ffdnet.pth"),
        processes=1,
        seconds=600,
        out=str(out),
    )
    torch.save(FFDNet().state_dict(), arguments.ffdnet)
    first = methods.METHODS["DDRM"][1][0]
    jobs = [
        j.job("table", TASK, "A_dagger", {}),
        j.job("tune", TASK, "classical", {"weight": 0.01}),
        j.job("table", TASK, "classical", {"weight": 0.01}),
        j.job("table", TASK, "ProximalREDDiff", {"steps": 2, "antithetic": True}),
        j.job("tune", TASK, "DDRM", {**first, "steps": 4}),
        j.job("table", "hdr", "DDRM", {**first, "steps": 4}),
        j.job("table", TASK, "plug_and_play", {"steps": 3, "lam": 0.23}),
    ]
    quality.work(jobs, arguments)
    results = [one.result(out) for one in jobs]
    assert [r and r["evaluations"] for r in results] == [0, 0, 0, 4, 4, None, 3]
    assert all(r is None or (len(r["psnr"]) == 2 and min(r["psnr"]) > 10) for r in results)
    assert "DDRM needs" in json.loads(jobs[-2].path(out).read_text())["refused"]

    # whether settings name every option or not, they are one job
    spelled = j.job("table", TASK, "ProximalREDDiff", {"steps": 2, "antithetic": True, "momentum": 0.0})
    assert spelled.path(out) == jobs[3].path(out)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    quality.work([*jobs, spelled], arguments)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.json")} == written

    table.write(out, tmp_path / "quality.md", TEMPLATE)
    text = (tmp_path / "quality.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith(f"| {TASK} |"))
    assert f"{j.mean(results[0]):.2f} / " in row and f"{j.mean(results[2]):.2f} / " in row
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")


class _Shrink(torch.nn.Module):
    """The denoiser of pixels of variance .04 about grey."""

    def forward(self, x, sigma):
        return 0.5 + (x - 0.5) * (0.04 / (0.04 + sigma.square())).reshape(-1, 1, 1, 1)


def test_plug_and_play_in_closed_form():
    """Without noise it fits the measurement; with noise and no weight of the denoiser it denoises it once."""
    y, zeros = torch.rand(2, 3, 8, 8) * 2 - 1, torch.zeros(2, 3, 8, 8)
    exact = plug_and_play(Denoising(), y, torch.zeros(2), zeros, _Shrink())
    assert torch.allclose(exact, y, atol=1e-3)
    noisy = plug_and_play(Denoising(), y, torch.full((2,), 0.2), zeros, _Shrink(), lam=1e-9)
    assert torch.allclose(noisy, y * 0.04 / (0.04 + 0.1**2), atol=1e-5)


def test_every_task_and_candidate_can_be_made():
    """The files are there, and every candidate is one that its sampler takes."""
    jobs = {one.path(Path("nowhere")) for one in j.tuning_jobs()}
    assert len(jobs) > 2000
    for task in methods.TASKS:
        class_name, settings = j.shipped(task)
        assert j.job("table", task, class_name, settings).path(Path("nowhere"))


def test_precisions_are_compared_photo_by_photo(tmp_path):
    """In float32 twice: the same; one photo worse by .3 dB of two: -.15 +- .15. What fails is said in its place."""
    argv = ["--out", str(tmp_path), "--tasks", "deblur_gauss", "--limit=2", "--steps=1", "--seeds=2"]
    assert precision.main([*argv, "--precisions", "32", "32"]) == 0
    assert (tmp_path / "precision.md").read_text().splitlines()[2].endswith("| +0.000 ± 0.000 |")
    assert len(list(tmp_path.glob("deblur_gauss-32-*"))) == 2
    argv[3] = "inpainting_given"  # whose masks the photos do not bring
    assert precision.main([*argv, "--precisions", "32"]) == 1
    assert "| exit code" in (tmp_path / "precision.md").read_text().splitlines()[2]
    inf = float("inf")
    rows = {
        "a": {"32": [20.0, 30.0], "bf16": [20.0, 29.7], "fp8": "exit code 1: why"},
        "exact": {"32": [inf, inf], "bf16": [inf, inf], "fp8": [60.0, 50.0]},
    }
    lines = precision.table(rows, ["32", "bf16", "fp8"]).splitlines()
    assert lines[2] == "| a | 25.000 | -0.150 ± 0.150 | exit code 1: why |"
    assert lines[3] == "| exact | inf | +0.000 ± 0.000 | 55.000 dB |"


def test_networks_of_pipelines_are_timed(tmp_path):
    argv = ["--out", str(tmp_path), "--networks", "tiny", "tiny3", "--seconds", "0.1", "--ways"]
    assert families.main([*argv, "eager", "ours"]) == 0
    lines = (tmp_path / "families.md").read_text().splitlines()
    assert [line.split(" | ")[2] for line in lines[2:]] == ["eager", "ours"] * 2
    rows = json.loads((tmp_path / "families.json").read_text())["rows"]
    assert all(
        row["error"] < 1e-5 and row["tflops"] > 0 for row in rows
    )  # on the CPU both are diffusers' own


def test_latents_come_to_a_fit_as_they_were(tmp_path):
    z = 3 * torch.randn(5, 4, 8, 8)
    latents.write_latents(z, tmp_path / "latents.tar")
    data = PhotoCrops(
        shards=str(tmp_path / "latents.tar"), max_scale=8, levels=1, holdout_modulus=0, shape=(4, 8, 8)
    )
    data.setup("fit")
    crops = data.pyramid.draw(40, 8, torch.Generator().manual_seed(0))
    for crop in crops:  # some of them mirrored
        differences = [(crop - one).abs().max() for one in (*z, *z.flip(3))]
        assert min(differences) < 1e-5


def test_two_objectives_are_compared_photo_by_photo():
    lines = objectives.table([("denoising, dB", [20.0, 22.0], [21.0, 22.5], ".2f")]).splitlines()
    assert lines[2] == "| denoising, dB | 21.00 | 21.75 | +0.75 ± 0.25 |"


def test_coverage_of_draws_like_the_truth():
    """19 more draws of what the truth is a draw of: their range holds it 90 % of the time, measured pixels aside."""
    draw = torch.randn(20, 4, 1, 64, 64, generator=torch.Generator().manual_seed(0)) / 4
    left = torch.zeros(4, 1, 64, 64, dtype=torch.bool)
    left[..., 32:] = True
    truth = torch.where(left, draw[0], 2.0)  # what is measured does not count
    result = coverage.judged(draw[1:], truth, left)
    assert abs(result["coverage"].mean() - 0.9) < 0.01
    assert abs((result["spread"].mean() / result["error"].mean()).sqrt() - 1) < 0.02
    wide = coverage.judged(2 * draw[1:], truth, left)
    assert (wide["coverage"] > 0.97).all() and wide["spread"].mean() > 2 * wide["error"].mean()


def test_coverage_of_photos(capsys):
    """Every sample has its own noise, and the pixels that its own photo's mask left out."""
    arguments = ["--count", "2", "--samples", "3", "--rows", "4", "--tasks", "inpainting_random"]
    methods = ["--method", 'Renoise {"steps": 4}', "--method", 'DDNM {"steps": 4}']
    assert coverage.main([*arguments, *methods]) == 0
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| inp")]
    assert [line[2] for line in lines] == ["4", "4"]
    for *_, spread, sample, mean in lines:
        assert float(spread) > 0.3 and 5 < float(sample) < float(mean.rstrip(" |"))


def test_the_curves_are_the_tables_numbers(tmp_path):
    rows = curves.table((Path(quality.__file__).parents[1] / "docs" / "quality.md").read_text())
    page = """| task | A_dagger | PnP-FFDNet | DDRM 100 | RED-diff 10 | **RED-diff 20** | 20 - best other |
|---|---|---|---|---|---|---|
| one | 9.00 | 28.71 (24) | 28.09 / 0.859 | 28.63 / 0.861, before | **28.94 / 0.880** | -0.08 ± 0.02 (DDNM 20) |
| two | - | - | - | 20.00 / 0.1 | 21.00 / 0.2 | +1.00 ± 0.30 (DDRM 100) |

text"""
    assert curves.table(page) == [
        (
            "one",
            {
                ("PnP-FFDNet", 24): 28.71,
                ("DDRM", 100): 28.09,
                ("RED-diff", 10): 28.63,
                ("RED-diff", 20): 28.94,
                ("DDNM+", 20): pytest.approx(29.02),
            },
        ),
        ("two", {("RED-diff", 10): 20.0, ("RED-diff", 20): 21.0, ("DDRM", 100): 20.0}),
    ]
    assert all({10, 20, 50, 100} <= {n for method, n in found if method == "RED-diff"} for _, found in rows)
    curves.draw(rows[:2], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
