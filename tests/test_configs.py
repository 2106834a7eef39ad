"""Every configuration that ships is parsed, instantiated, and says what each key does."""

from __future__ import annotations

import inspect
import itertools
from pathlib import Path

import pytest
import yaml
from helpers import CONFIGS, VAL_SHARD, task_options

import reddiff_pl.samplers
from reddiff_pl.restoring.options import RestoreCLI

# suites are no options, and are what tests/suites is about
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "suites")
TRAININGS = [path for path in FILES if path.parent.name == "fit"]
RESTORATIONS = [path for path in FILES if path not in TRAININGS]


@pytest.mark.parametrize("path", RESTORATIONS, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_it_makes_a_restoration(path: Path, tmp_path):
    options = ["--config", str(path), "--data.shards", str(VAL_SHARD), "--out", str(tmp_path)]
    options += task_options(path, tmp_path)
    if path.parent.name != "tasks" and path.name != "demo.yaml":
        options = ["--config", str(CONFIGS / "tasks" / "superresolution_2x.yaml"), *options]
    cli = RestoreCLI("restore", options)
    cli.make()
    cli.model.check(cli.model.prior.shape)
    # what it says is what the objects were made of
    wanted = yaml.safe_load(path.read_text())["model"]
    resolved = yaml.safe_load(cli.resolved())["model"]
    for part, spec in wanted.items():
        for name, value in (spec.get("init_args") or {}).items():
            if value is not None and not isinstance(value, dict):
                assert resolved[part]["init_args"][name] == value
    assert RestoreCLI("restore", ["--config", str(_write(tmp_path, cli))]).config.model == cli.config.model


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_it_makes_a_training(path: Path, tmp_path):
    from reddiff_pl.training.cli import FitCLI

    cli = FitCLI(["--config", str(path), "--data.shards", str(VAL_SHARD), "--out", str(tmp_path)])
    cli.make()
    weights = sum(p.numel() for p in cli.model.network.parameters())
    assert 2 * weights < 16 * 2**20 - 2**16, "the folder's weights are one file of at most 16 MiB"
    wanted = yaml.safe_load(path.read_text())
    for part in ("model", "data", "trainer"):
        for name, value in wanted[part].items():
            if name != "network":
                made = cli.config[part][name]
                assert (list(made) if isinstance(made, tuple) else made) == value, name


def _write(folder: Path, cli: RestoreCLI) -> Path:
    path = folder / "resolved.yaml"
    path.write_text(cli.resolved())
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_every_key_is_commented(path: Path):
    """A comment stands above each key, but for the ones that only open a group."""
    lines = path.read_text().splitlines()
    assert lines[0].startswith("#"), "the first line says what the file is"
    groups = ("model", "data", "trainer", "prior", "sampler", "physics", "init_args")
    for above, line in itertools.pairwise(lines):
        key = line.strip().split(":")[0]
        if line.strip().startswith("#") or key in groups:
            continue
        shares = key in ("adam_eps", "beta_end") or (
            key == "class_path" and above.strip() in ("noise:", "mask:")
        )
        assert above.strip().startswith("#") or shares, f"{path.name}: {line}"


def test_the_demo_is_the_shipped_files_together():
    """configs/demo.yaml repeats three files, so that it can be read alone; it must not drift from them."""
    demo = yaml.safe_load((CONFIGS / "demo.yaml").read_text())["model"]
    parts: dict = {}
    for name in ("priors/bundled", "samplers/reddiff", "tasks/inpainting_random"):
        for part, value in yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"].items():
            old = parts.get(part, {})
            parts[part] = {
                **old,
                **value,
                "init_args": {**old.get("init_args", {}), **value.get("init_args", {})},
            }
    parts["noise"].pop("init_args")
    assert demo == parts


@pytest.mark.parametrize("path", sorted((CONFIGS / "samplers").glob("*.yaml")), ids=lambda path: path.name)
def test_a_sampler_file_names_every_option(path: Path):
    """It replaces another sampler's file, and must not inherit an option that both happen to have."""
    sampler = yaml.safe_load(path.read_text())["model"]["sampler"]
    made = getattr(reddiff_pl.samplers, sampler["class_path"].rpartition(".")[2])
    assert set(sampler["init_args"]) == set(inspect.signature(made).parameters)


def test_the_shipped_sampler_takes_twenty_evaluations():
    sampler = yaml.safe_load((CONFIGS / "samplers" / "reddiff.yaml").read_text())["model"]["sampler"][
        "init_args"
    ]
    assert sampler["antithetic"] and 2 * sampler["steps"] * sampler["draws"] == 20
