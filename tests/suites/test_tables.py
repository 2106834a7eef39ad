"""`reddiff tables`: suites, their cells, and the table beside what was published."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml
from helpers import CONFIGS, VAL_SHARD, blur_network, read_json

from reddiff_pl.errors import ConfigError
from reddiff_pl.evaluation import tables
from reddiff_pl.restoring.options import RestoreCLI
from reddiff_pl.suites.cells import rows, scaled, side_of
from reddiff_pl.suites.suite import load

SUITES = ["paper", "daps"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def base(tmp_path):
    """A prior without a network, of 16x16 pixels, three val photos, two evaluations."""
    prior = tmp_path / "prior.yaml"
    prior.write_text(
        "model: {prior: {class_path: reddiff_pl.priors.Gaussian, init_args: {shape: [3, 16, 16]}}}"
    )
    more = ["--limit", "3", "--evaluations", "2", "--trainer.accelerator", "cpu"]
    return ["--prior", prior, "--data", VAL_SHARD, *more]


def of_markdown(text: str) -> list[dict[str, list[str]]]:
    """The rows of the table, {heading: cells}: `published` stands beside every metric."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    head, rule, *body = [[cell.strip() for cell in line] for line in lines]
    assert all(re.fullmatch("---:?", cell) for cell in rule) and all(len(row) == len(head) for row in body)
    found = []
    for row in body:
        entry: dict[str, list[str]] = {}
        for name, cell in zip(head, row, strict=True):
            entry.setdefault(name, []).append(cell)
        found.append(entry)
    return found


def of_tex(text: str) -> list[list[str]]:
    """The rows of the tabular, undone from LaTeX as far as numbers go."""
    spec, inner = re.search(r"\\begin\{tabular\}\{(\w+)\}(.*)\\end\{tabular\}", text, re.DOTALL).groups()
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    lines = [line for line in inner.splitlines() if line.endswith(r"\\")]
    found = [re.split(r"(?<!\\)&", line.removesuffix(r"\\")) for line in lines]
    assert all(len(row) == len(spec) for row in found)
    return [[cell.strip() for cell in row] for row in found]


def test_the_tables_by_one_command(reddiff, base, tmp_path):
    out = tmp_path / "out"
    some = ["--tasks", "box_inpainting,phase_retrieval,nonlinear_deblurring", "--samplers", "reddiff,ddrm"]
    command = ["tables", "--suite", "daps", "--out", out, *base, *some, "--metrics", "psnr,ssim"]
    code, printed = reddiff(*command)
    assert code == 0, printed
    cells = ["box_inpainting-reddiff", "box_inpainting-ddrm", "phase_retrieval-reddiff"]
    assert sorted(path.parent.name for path in out.glob("*/shards")) == sorted(cells)
    config = yaml.safe_load((out / cells[0] / "config.yaml").read_text())
    assert config["model"]["noise"]["init_args"]["sigma_y"] == 0.05
    best = yaml.safe_load((out / cells[2] / "config.yaml").read_text())["model"]
    assert (best["num_samples"], best["samples"]) == (4, "best")
    mask = config["model"]["physics"]["init_args"]["mask"]["init_args"]
    assert mask == {"size": 8, "centered": False}, "half of the side, whatever the side"

    text = (out / "tables.md").read_text()
    found = of_markdown(text)
    names = [(row["task"][0].split(",")[0], row["sampler"][0]) for row in found]
    titles = ("inpainting", "phase retrieval", "nonlinear deblurring")
    assert names == [(title, sampler) for title in titles for sampler in ("reddiff", "ddrm")]
    for row, cell in zip(found, cells, strict=False):
        for metric in ("psnr", "ssim"):
            entry, shown = read_json(out / cell / "summary.json")["metrics"][metric], tables.metric(metric)
            ends = [shown.text(entry[key]) for key in ("mean", "low", "high")]
            assert row[shown.heading()] == ["{} [{}, {}]".format(*ends)]
        assert row["images"] == ["3"]
    # what was published is beside it, with its source; what is not there has its reason
    there = [f for f in load("daps").published if (f.task, f.method) == ("box_inpainting", "ddrm")]
    assert found[1]["published"][0] == "22.26 [1], 18.63 [2]" and found[0]["published"][0] == "-"
    assert all(f"[{i}] ddrm on {f.data}; {f.source}" in text for i, f in enumerate(there, 1))
    assert found[3]["PSNR [dB] ↑"] == ["-"] and "decomposable operators only" in text
    assert found[4]["PSNR [dB] ↑"] == ["-"] and "--set nonlinear_deblurring.model.physics" in text
    assert "nothing published, reddiff: this package's own settings" in text
    assert (
        found[2]["PSNR [dB] ↑"][0] in printed and "nonlinear_deblurring, reddiff: left out; needs" in printed
    )

    latex = of_tex((out / "tables.tex").read_text())
    assert len(latex) == 1 + len(found) and latex[3][2] == found[2]["PSNR [dB] ↑"][0]
    assert latex[2][3] == "22.26 [1], 18.63 [2]"
    content = read_json(out / "tables.json")
    assert content["rows"][2]["metrics"] == read_json(out / cells[2] / "summary.json")["metrics"]
    assert content["rows"][1]["published"][0]["figures"]["psnr"] == 22.26

    # again: nothing is done; a cell that is gone comes again, the same
    files = {path: path.stat().st_mtime_ns for path in out.glob("*/*/*.tar")}
    tar = next(path for path in files if path.parts[-3] == cells[1])
    kept = tar.read_bytes()
    shutil.rmtree(out / cells[1])
    code, printed = reddiff(*command, "--dry-run")
    assert code == 0 and sum(line.endswith("to do") for line in printed.splitlines()) == 1
    assert reddiff(*command)[0] == 0
    again = {path: path.stat().st_mtime_ns for path in out.glob("*/*/*.tar")}
    assert {path for path in files if files[path] != again[path]} == {tar} and tar.read_bytes() == kept
    assert (out / "tables.md").read_text() == text


def test_a_suite_of_ones_own_with_figures_of_ones_own(reddiff, base, tmp_path):
    suite, figures, out = tmp_path / "mine.yaml", tmp_path / "figures.yaml", tmp_path / "out"
    suite.write_text(
        "{title: Mine, side: 16, limit: 2, samplers: [reddiff], metrics: [psnr, lpips, msssim, top],\n"
        " tasks: {blur: {task: nonlinear_blur, needs: {model.physics.init_args.path: a network},\n"
        "  samplers: {reddiff: {model.sampler.init_args.r_max: 0.7}}}}}"
    )
    figures.write_text("[{task: blur, method: reddiff, data: X, figures: {psnr: 20}, source: Title | url}]")
    needed = ["--set", f"blur.model.physics.init_args.path={blur_network(tmp_path / 'blur.pt')}"]
    needed += ["--set", "blur.model.physics.init_args.trust=true", "--weights", tmp_path]
    command = ["tables", "--suite", suite, "--published", figures, "--out", out, *base]
    code, printed = reddiff(*command, *needed)
    assert code == 0, printed
    [row] = of_markdown((out / "tables.md").read_text())
    assert row["published"][:2] == ["20.00 [1]", "-"] and row["images"] == ["3"], "--limit wins"
    assert not any(name.startswith("FD") for name in row) and "msssim: no image could be judged" in printed
    assert re.fullmatch(r"[\d.]+ \[.*\] of 1", row["top-1 [%] (efficientnet-lite0) ↑"][0]), "one has a label"
    assert row["LPIPS ↓"] == ["-"] and "lpips: left out; no alexnet" in printed
    config = yaml.safe_load((out / "blur-reddiff" / "config.yaml").read_text())
    assert config["model"]["sampler"]["init_args"]["r_max"] == 0.7

    code, printed = reddiff(*command)
    assert code == 2 and "nothing is left to do; needs a network: --set blur." in printed


@pytest.mark.parametrize("name", SUITES)
def test_the_suites_that_ship(name, tmp_path):
    suite = load(name)
    shipped = {path.stem for path in (CONFIGS / "samplers").glob("*.yaml")}
    methods = {method for task in suite.tasks.values() for method in (*task.samplers, *task.without)}
    methods |= {figure.method for figure in suite.published} | set(suite.samplers)
    assert methods <= shipped
    for figure in suite.published:
        assert re.fullmatch(r".+ \| https://\S+", figure.source), figure
        assert set(figure.figures) <= set(tables.ORDER)
    # every option is one of its class
    planned = rows(suite, None, sorted(methods), {}, [], 64, tmp_path, ["--data.shards", str(VAL_SHARD)])
    for row in planned:
        if row.sampler in row.task.samplers and row.options:
            RestoreCLI("restore", list(row.options))
    assert {row.task.name for row in planned} == set(suite.tasks)


def test_pixels_are_scaled_and_stay_what_they_are():
    assert [scaled(61, side, 256) for side in (256, 128, 64, 16)] == [61, 31, 15, 3]
    assert [scaled(128, side, 256) for side in (512, 256, 64)] == [256, 128, 32]
    assert scaled(3.0, 64, 256) == 0.75 and scaled(2, 16, 256) == 1


def test_the_side_is_the_priors(tmp_path):
    assert side_of(None, []) == 64 == side_of("bundled", []) == side_of("gaussian", [])
    assert side_of(None, ["--data.size", "128"]) == 128
    (tmp_path / "config.json").write_text('{"sample_size": 256}')
    assert side_of(str(tmp_path), []) == 256
    with pytest.raises(ConfigError, match=r"--data\.size: give the side"):
        side_of("flow", [])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "{side: 64, limit: 1, tasks: {a: {task: jpeg}}, sampler: [x]}",
            "no key sampler; did you mean samplers",
        ),
        ("{side: 64, limit: 1, tasks: {a: {pixels: {}}}}", r"tasks\.a: expected a mapping with `task`"),
        ("{side: 64, limit: 0, tasks: {a: {task: jpeg}}}", "limit: expected a positive whole number, got 0"),
        (
            "{side: 64, limit: 1, tasks: {a: {task: jpeg, pixels: {b: x}}}}",
            r"tasks\.a\.pixels\.b: expected a len",
        ),
        ("{side: 64, limit: 1, tasks: {}}", "tasks: there is none"),
        (
            "{side: 64, limit: 1, tasks: {a: {task: jpeg}},"
            " published: [{task: a, method: m, data: d, figures: {psnr: 1}}]}",
            r"published\[0\]: source: a figure needs it",
        ),
        (
            "{side: 64, limit: 1, tasks: {a: {task: jpeg}}, published: [{task: b}]}",
            r"published\[0\]: task: no b in the suite",
        ),
        ("[1", "is not YAML"),
    ],
)
def test_a_bad_suite_is_one_line(tmp_path, text, says):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as error:
        load(str(path))
    assert str(error.value).startswith(f"--suite: {path}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--suite", "dap"], "no suite dap ships; did you mean daps"),
        (["--suite", "daps", "--tasks", "hrd"], "--tasks: no hrd in daps; did you mean hdr"),
        (["--suite", "daps", "--task", "hdr"], "--task: did you mean --tasks"),
        (["--suite", "daps", "--set", "hdr"], "--set: expects TASK.OPTION=VALUE"),
        (["--suite", "daps", "--data.images", "x"], "--data.images: the suite says it"),
        (["--suite", "daps", "--samplers", "dpz"], "--sampler: no sampler dpz ships; did you mean dps"),
    ],
)
def test_a_bad_option_is_one_line(reddiff, tmp_path, more, says):
    code, printed = reddiff("tables", "--out", tmp_path / "out", *more)
    assert code == 2 and says in printed and printed.count("\n") == 1, printed
    assert not (tmp_path / "out").exists()
