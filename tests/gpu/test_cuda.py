"""The main path on a CUDA device: the same images as on the CPU, and memory that runs out."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import CONFIGS, VAL_SHARD, read_tar, restored_keys, task_options
from PIL import Image

from reddiff_pl.devices.copies import Pace
from reddiff_pl.priors import UNet, eps_error
from reddiff_pl.priors.unet import BUNDLED

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TASKS = ["inpainting_random", "superresolution_4x", "deblur_gauss"]


def images(tar) -> dict[str, np.ndarray]:
    members = read_tar(tar).items()
    return {n: np.asarray(Image.open(io.BytesIO(c))).astype(float) for n, c in members if n.endswith(".png")}


@pytest.mark.parametrize("task", TASKS)
def test_with_noise_from_the_cpu_the_devices_agree(reddiff, tmp_path, task):
    """float32, one noise: to one grey level but for a few pixels, and the run's own noise to the same quality."""
    command = [
        "restore",
        "--config",
        CONFIGS / "tasks" / f"{task}.yaml",
        "--data.shards",
        VAL_SHARD,
        "--limit=8",
        "--model.prior.init_args.precision=32",
    ]
    for device, options in {
        "cpu": ["--trainer.accelerator=cpu"],
        "gpu": ["--trainer.accelerator=gpu", "--model.noise_device=cpu"],
    }.items():
        code, printed = reddiff(*command, *options, "--out", tmp_path / device)
        assert code == 0, printed
    one, other = (images(tmp_path / device / "shards" / "val-000000.tar") for device in ("cpu", "gpu"))
    difference = np.stack([np.abs(one[name] - other[name]) for name in one])
    print(
        f"{task}: {(difference > 1).mean():.2e} of the bytes differ by more than one, at most {difference.max()}"
    )
    assert (difference > 1).mean() < 1e-3


@pytest.mark.parametrize(
    "config", sorted([*(CONFIGS / "tasks").glob("*.yaml"), *(CONFIGS / "samplers").glob("*.yaml")]), ids=str
)
def test_every_task_and_sampler_runs(reddiff, tmp_path, config):
    if config.stem == "inpainting_given":
        pytest.skip("its masks come with the images")
    task = [] if config.parent.name == "tasks" else ["--config", CONFIGS / "tasks" / "deblur_gauss.yaml"]
    command = ["restore", *task, "--config", config, *task_options(config, tmp_path)]
    command += ["--data.shards", VAL_SHARD, "--limit=2", "--out", tmp_path / "out"]
    code, printed = reddiff(*command, "--model.sampler.init_args.steps=2", "--trainer.accelerator=gpu")
    assert code == 0, printed
    assert len(restored_keys(tmp_path / "out" / "shards" / "val-000000.tar")) == 2


@pytest.mark.parametrize("precision", ["32", "bf16", "fp8"])
def test_bytes_repeat(reddiff, tmp_path, precision):
    command = ["restore", "--config", CONFIGS / "demo.yaml", "--data.shards", VAL_SHARD, "--limit=8"]
    command += ["--trainer.accelerator=gpu", f"--model.prior.init_args.precision={precision}"]
    for name in ("a", "b"):
        assert reddiff(*command, "--out", tmp_path / name)[0] == 0
    one, other = (images(tmp_path / name / "shards" / "val-000000.tar") for name in ("a", "b"))
    assert all((one[name] == other[name]).all() for name in one)


def test_8_bits_where_the_priors_own_table_allows_them(tmp_path):
    """By t: in the table's range as fp8 but for the last blocks, beyond it byte for byte as bf16."""
    folder = shutil.copytree(BUNDLED, tmp_path / "prior")
    (folder / eps_error.NAME).unlink(missing_ok=True)
    plain = UNet(str(folder)).cuda()
    errors = {"32": [1.0, 1.0, 1.0, 1.0], "fp8": [1.01, 1.0, 1.001, 1.01]}
    eps_error.write(folder, eps_error.EpsError([0, 20, 300, 999], errors, 1, 1, "made up"))
    mixed = UNet(str(folder)).cuda()
    x = torch.randn(4, 3, 64, 64, device="cuda")
    for t, name in ((19, "bf16"), (20, "fp8"), (300, "fp8"), (301, "bf16")):
        mixed.forward_pass.evaluations.clear()
        times = torch.full((4,), t, device="cuda")
        with torch.no_grad():
            exact, ours = plain.eps(x, times), mixed.eps(x, times)
        assert mixed.forward_pass.evaluations == {name: 4}
        assert torch.equal(exact, ours) == (name == "bf16")
        assert (ours - exact).norm() < 0.05 * exact.norm()
    assert mixed.precision_on(x.device) == "fp8 from t = 20 to 300, else bf16"


def test_memory_runs_out(tmp_path):
    """A real out-of-memory error of the allocator: the batch is halved until it fits."""
    program = (
        "import sys, torch\n"
        "whole = torch.cuda.get_device_properties(0).total_memory\n"
        "torch.cuda.set_per_process_memory_fraction(0.6 * 2**30 / whole)\n"
        "from reddiff_pl.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [
        "restore",
        "--config",
        CONFIGS / "demo.yaml",
        "--data.shards",
        VAL_SHARD,
        "--out",
        tmp_path / "out",
    ]
    command += ["--data.batch_size=512", "--model.sampler.init_args.steps=5", "--trainer.accelerator=gpu"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("out of memory") == 1
    assert len(restored_keys(tmp_path / "out" / "shards" / "val-000000.tar")) == 49


def test_memory_comes_in_segments_that_grow():
    """What the command sets is what the allocator does, so that a captured graph keeps little more than it uses."""
    program = (
        "import reddiff_pl.__main__, torch\n"
        "kept = torch.zeros(2**22, device='cuda')\n"
        "print(*(segment['is_expandable'] for segment in torch.cuda.memory_snapshot()))"
    )
    env = {k: v for k, v in os.environ.items() if "ALLOC_CONF" not in k}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=env
    )
    assert done.stdout.split() == ["True"], done.stderr


def test_copies_beside_the_computation_change_nothing(tmp_path):
    """Many short batches, in a hurry and with the host waiting for every kernel: the same bytes."""
    command = [sys.executable, "-m", "reddiff_pl", "restore", "--config", CONFIGS / "demo.yaml"]
    command += ["--data.shards", VAL_SHARD, "--data.batch_size=4", "--trainer.accelerator=gpu"]
    command += ["--model.sampler.init_args.steps=2", "--model.keep_steps=2", "--model.num_samples=2"]
    for name, blocking in (("hurried", "0"), ("waiting", "1")):
        done = subprocess.run(
            [*map(str, command), "--out", str(tmp_path / name)],
            env={**os.environ, "CUDA_LAUNCH_BLOCKING": blocking},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    one, other = (read_tar(tmp_path / name / "shards" / "val-000000.tar") for name in ("hurried", "waiting"))
    assert len(restored_keys(tmp_path / "hurried" / "shards" / "val-000000.tar")) == 49
    assert one == other


def test_the_host_stays_a_few_steps_ahead():
    pace = Pace(torch.device("cuda"), ahead=2)
    done = []
    for _ in range(6):
        torch.cuda._sleep(100_000_000)  # some hundredths of a second
        done.append(torch.cuda.Event())
        done[-1].record()
        pace.step()
        assert len(done) < 3 or done[-3].query(), "a step that should be over is not"
    assert not done[-1].query(), "nothing was left for the device to do"
