"""Help: pages that come at once, and say of every option what the classes say."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from reddiff_pl.__main__ import COMMANDS
from reddiff_pl.evaluation.command import COMPARED
from reddiff_pl.evaluation.measures import MEASURES
from reddiff_pl.evaluation.patches import PATCHES
from reddiff_pl.options.evaluate import METRICS
from reddiff_pl.options.pages import PAGES
from reddiff_pl.restoring.options import RestoreCLI
from reddiff_pl.training.cli import FitCLI

# what argv becomes before the parser sees it
SHORT = {"--task", "--sampler", "--prior", "--perception", "--help-all"}
# a page says what comes of it
MEANT = {"sampler": "reddiff", "prior": "bundled", "evaluations": "20", "perception": "0"}


@pytest.fixture(scope="module")
def parsers(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("out"))
    restore = RestoreCLI("restore", ["--config", "tasks/denoising.yaml", "--out", out])
    network = "--model.network={class_path: diffusers.UNet2DModel, init_args: {sample_size: 64}}"
    return {"restore": restore, "degrade": restore, "fit": FitCLI([network, "--out", out])}


@pytest.mark.parametrize("command", PAGES)
def test_every_option_is_there_with_that_default(parsers, command):
    page, parser = PAGES[command], parsers[command].parser
    assert len(page.splitlines()) <= 60 and max(map(len, page.splitlines())) <= 120
    known = {name for action in parser._actions for name in action.option_strings}
    for name in set(re.findall(r"--[\w.-]+", page)) - SHORT - {"--help"}:
        name = "--data.params" if name == "--data.params.NAME" else name
        # an option of a class is one of its init_args
        assert name in known or re.sub(r"\.init_args.*", "", name) in known, name
    defaults = dict(re.findall(r"^  --([\w.-]+) .*\(default: ([^)]+)\)$", page, re.MULTILINE))
    assert len(defaults) >= 4
    of = {action.dest: action.default for action in parser._actions}
    for name, default in defaults.items():
        if name not in MEANT:
            assert of[name.replace("-", "_")] == yaml.safe_load(default), name


def test_the_shipped_sampler_is_what_the_page_says(parsers):
    sampler = parsers["restore"].config.model.sampler
    assert sampler.class_path == "reddiff_pl.samplers.ProximalREDDiff"
    steps, draws = sampler.init_args.steps, sampler.init_args.draws
    assert str(steps * draws * (1 + sampler.init_args.antithetic)) == MEANT["evaluations"]


def test_evaluates_names_are_its_metrics():
    assert set(METRICS) == {*MEASURES, "misfit", *COMPARED, PATCHES, "fid", "kid", "fd", "kd", "top"}
    assert len(set(METRICS)) == len(METRICS)


HEAVY = ("torch", "lightning", "deepinv", "diffusers", "torchmetrics", "scipy", "matplotlib")


def test_no_help_imports_torch():
    """All commands in one process; `prior` has three helps more."""
    code = f"""
import sys
from reddiff_pl.__main__ import main
for argv in {[[name] for name in COMMANDS] + [["prior", "import"], ["prior", "average"], ["prior", "measure"]]}:
    try:
        code = main([*argv, "--help"])
    except SystemExit as exit:
        code = exit.code
    assert code == 0, argv
    there = [name for name in {HEAVY} if name in sys.modules]
    assert not there, (argv, there)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: reddiff ") >= len(COMMANDS)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["restor"], "no command restor; did you mean restore"),
        (["evaluate", "out", "--metrcs", "psnr"], "--metrcs: no such option; did you mean --metrics"),
        (["export", "a", "b", "--format", "pgn"], "--format: no pgn; did you mean png"),
        (["configs", "shw"], "no shw; did you mean show?"),
        (["prior", "imprt"], "no action imprt; did you mean import?"),
        (["prior"], "give an action"),
        (["restore", "x.tar", "--task", "denoisng"], "no task denoisng ships; did you mean denoising"),
    ],
)
def test_unknown_words(reddiff, argv, says):
    code, printed = reddiff(*argv)
    assert code == 2 and says in printed and len(printed.strip().splitlines()) == 1, printed


def test_everything_is_still_to_be_had(reddiff):
    code, printed = reddiff("restore", "--help-all")
    assert code == 0 and "--data.decode_mib" in printed and "--trainer.callbacks" in printed
