"""Exit code 2 before any work, with a line that names the option."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import CONFIGS, QUICK, VAL_SHARD

TASK = ["--config", str(CONFIGS / "tasks" / "inpainting_random.yaml")]
SHARDS = ["--data.shards", str(VAL_SHARD)]
PAPER = ["--config", str(CONFIGS / "samplers" / "reddiff_paper.yaml")]

BAD = {
    "pattern that matches nothing": ([*TASK, "--data.shards", "/nowhere/*.tar"], "--data.shards"),
    "missing shard": ([*TASK, "--data.shards", "/nowhere/{0..3}.tar"], "/nowhere/0.tar: not found"),
    "no data": (TASK, "--data.shards, --data.images or --data.measured"),
    "both kinds of data": (
        [*TASK, *SHARDS, "--data.images", "/tmp"],
        "--data.shards, --data.images or --data.measured",
    ),
    "no such folder of images": ([*TASK, "--data.images", "/nowhere"], "--data.images"),
    "unknown option": ([*TASK, *SHARDS, "--model.sampelr=1"], "sampelr"),
    "unknown sampler option": ([*TASK, *SHARDS, "--model.sampler.init_args.stps=1"], "stps"),
    "wrong type": ([*TASK, *SHARDS, "--data.batch_size=many"], "batch_size"),
    "batch size": ([*TASK, *SHARDS, "--data.batch_size=0"], "--data.batch_size"),
    "limit": ([*TASK, *SHARDS, "--limit=0"], "limit"),
    "steps": ([*TASK, *SHARDS, "--model.sampler.init_args.steps=0"], "steps"),
    "too many steps": ([*TASK, *SHARDS, *PAPER, "--model.sampler.init_args.steps=1001"], "steps"),
    "inference mode": ([*TASK, *SHARDS, "--trainer.inference_mode=true"], "inference_mode"),
    "prior that is not there": (
        [
            *TASK,
            *SHARDS,
            "--model.prior=reddiff_pl.priors.UNet",
            "--model.prior.init_args.path=/nowhere/prior",
        ],
        "/nowhere/prior",
    ),
    "no size": ([*TASK, *SHARDS, "--data.size=0"], "--data.size"),
    "precision of the trainer": ([*TASK, *SHARDS, "--trainer.precision=bf16-mixed"], "--trainer.precision"),
    "no operator": (SHARDS, "--model.physics"),
    "operator that makes nothing": (
        [*SHARDS, "--model.physics=reddiff_pl.physics.SuperResolution", "--model.physics.init_args.factor=0"],
        "factor",
    ),
    "box too large": (
        [
            *SHARDS,
            "--config",
            str(CONFIGS / "tasks" / "inpainting_box.yaml"),
            "--model.physics.init_args.mask.init_args.size=64",
        ],
        "size",
    ),
    "no restoration": ([*TASK, *SHARDS, "--model.num_samples=0"], "num_samples"),
    "negative noise level": ([*TASK, *SHARDS, "--data.sigma_y=-1.0"], "sigma_y"),
    "momentum of 1": ([*TASK, *SHARDS, "--model.sampler.init_args.momentum=1"], "momentum"),
    "grid upside down": ([*TASK, *SHARDS, "--model.sampler.init_args.r_min=900"], "r_min"),
    "coupling optimiser": (
        [*TASK, *SHARDS, *PAPER, "--model.sampler.init_args.optimizer=torch.optim.LBFGS"],
        "LBFGS",
    ),
    "missing config file": ([*TASK, *SHARDS, "--config", "/nowhere.yaml"], "nowhere.yaml"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_configuration(reddiff, tmp_path, name):
    options, message = BAD[name]
    code, printed = reddiff("restore", *QUICK, *options, "--out", tmp_path / "out")
    assert code == 2, printed
    assert message in printed and "Traceback" not in printed
    assert not list((tmp_path / "out").rglob("*.tar*")), "no work was begun"


def test_out_on_a_file(reddiff, tmp_path):
    (tmp_path / "out").write_text("mine")
    code, printed = reddiff("restore", *QUICK, *TASK, *SHARDS, "--out", tmp_path / "out")
    assert code == 2 and "--out" in printed and (tmp_path / "out").read_text() == "mine"


def test_equal_names(reddiff, tmp_path):
    for name in ("a.tar", "a.tar.gz"):
        (tmp_path / name).write_bytes(VAL_SHARD.read_bytes())
    code, printed = reddiff(
        "restore", *QUICK, *TASK, "--data.shards", tmp_path / "a.{tar,tar.gz}", "--out", tmp_path / "o"
    )
    assert code == 2 and "would both be written" in printed


def test_help_is_light():
    """No torch, no lightning: help must come at once."""
    program = (
        "import sys\nfrom reddiff_pl.__main__ import main\ncode = main(['--help'])\n"
        "heavy = {'torch', 'lightning', 'jsonargparse', 'numpy'} & set(sys.modules)\n"
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("restore", "degrade", "demo"):
        assert command in done.stdout


def test_unknown_commands_and_none(reddiff):
    assert reddiff("restor")[0] == 2
    assert reddiff()[0] == 2
    assert reddiff("--version")[0] == 0
