"""`reddiff fit` on the val photos with a tiny network: it learns, stops, goes on, leaves a prior."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS, VAL_SHARD, read_json, read_tar
from PIL import Image
from run_tasks import wait_until
from tiny import FIT, NETWORK, records

from reddiff_pl.priors import Flow, UNet
from reddiff_pl.training.validation import noise_of


@pytest.fixture(scope="module")
def trained(zygote, tmp_path_factory) -> Path:
    from run_tasks import Tasks

    folder = tmp_path_factory.mktemp("fit")
    tasks = Tasks(zygote, folder)
    assert tasks.run("fit", *FIT, "--out", folder / "out") == 0, tasks.printed.read_text()
    return folder / "out"


def test_it_learns(trained):
    first, *_, last = records(trained)
    assert (first["step"], last["step"], last["images"], last["skipped_steps"]) == (0, 20, 160, 0)
    for t in ("10", "100", "400", "800"):
        assert last["eps_mse"]["0.998"][t] < first["eps_mse"]["0.998"][t]
    assert 0 < last["train_loss"] < 2
    assert last["lr"] == 0
    with Image.open(trained / "samples" / "step-0000020.png") as picture:
        assert picture.size == (32, 32), "four samples in a square"


def test_its_folder_is_a_prior_to_restore_with(trained, reddiff, tmp_path):
    assert UNet(str(trained / "prior")).shape == (3, 16, 16)
    config = CONFIGS / "tasks" / "inpainting_random.yaml"
    options = [
        "--data.shards",
        VAL_SHARD,
        "--limit=2",
        "--data.batch_size=2",
        "--model.sampler.init_args.steps=2",
    ]
    path = f"--model.prior.init_args.path={trained / 'prior'}"
    code, printed = reddiff("restore", "--config", config, *options, path, "--out", tmp_path / "restored")
    assert code == 0, printed
    assert sum(name.endswith(".png") for name in read_tar(next((tmp_path / "restored").rglob("*.tar")))) == 2


def test_the_folder_says_what_it_was_trained_with(trained):
    schedule = read_json(trained / "prior" / "scheduler_config.json")
    assert (schedule["beta_start"], schedule["beta_end"]) == (1e-4, 0.02)
    assert (schedule["num_train_timesteps"], schedule["prediction_type"]) == (1000, "epsilon")
    config = read_json(trained / "prior" / "config.json")
    assert NETWORK.items() <= config.items()


def test_a_flow_learns_and_restores(reddiff, tasks, tmp_path):
    """Its held-out error is that of the noise at the same levels, and its folder is a `priors.Flow`."""
    assert tasks.run("fit", *FIT, "--model.objective=flow", "--out", tmp_path / "out") == 0
    first, *_, last = records(tmp_path / "out")
    assert 0 < last["train_loss"] < 3
    for t in ("100", "400", "800"):
        assert last["eps_mse"]["0.998"][t] < first["eps_mse"]["0.998"][t]
    schedule = read_json(tmp_path / "out" / "prior" / "scheduler_config.json")
    assert schedule["_class_name"] == "FlowMatchEulerDiscreteScheduler"
    prior = Flow(str(tmp_path / "out" / "prior"), precision="32")
    assert prior.time_scale == 1000
    x, t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 800])

    def network(x, t):
        return prior.network(x, t).sample

    # the log's errors are those of the prior that restores
    torch.testing.assert_close(noise_of(network, prior.abar)(x, t), prior.eps(x, t))
    assert tasks.run("fit", *FIT, "--out", tmp_path / "out") == 2
    assert "objective" in tasks.printed.read_text()
    options = ["--data.shards", VAL_SHARD, "--limit=2", "--data.batch_size=2"]
    options += ["--model.prior=reddiff_pl.priors.Flow", "--model.sampler.init_args.steps=2"]
    config = CONFIGS / "tasks" / "inpainting_random.yaml"
    path = f"--model.prior.init_args.path={tmp_path / 'out' / 'prior'}"
    code, printed = reddiff("restore", "--config", config, *options, path, "--out", tmp_path / "restored")
    assert code == 0, printed


def test_a_finished_training_is_left_alone(trained, tasks):
    before = {
        path: path.read_bytes() for path in trained.rglob("*") if path.suffix in (".safetensors", ".pt")
    }
    assert len(before) == 2
    assert tasks.run("fit", *FIT, "--out", trained) == 0
    assert "nothing left to do" in tasks.printed.read_text()
    assert before == {path: path.read_bytes() for path in before}


def test_stopped_and_resumed_it_ends_with_the_same_weights(tasks, tmp_path):
    options = [*FIT, "--model.decay=constant", "--model.network.init_args.dropout=0.1"]
    options += ["--data.color_jitter=0.3", "--data.turn_share=0.25"]
    out, calm = tmp_path / "out", tmp_path / "calm"
    for number, code, steps in ((signal.SIGUSR2, 85, 0), (signal.SIGTERM, 143, 10)):
        pid = tasks.start("fit", *options, "--model.max_steps=1000000", "--out", out)
        wait_until(lambda: (out / "log.jsonl").exists() and records(out)[-1]["step"] >= steps)  # noqa: B023
        tasks.kill(pid, number)
        assert tasks.wait(pid) == code
    steps = torch.load(out / "state.pt", weights_only=True)["step"] + 5
    for folder in (out, calm):
        assert tasks.run("fit", *options, f"--model.max_steps={steps}", "--out", folder) == 0
    assert tasks.printed.read_text().count("going on at step") == 2
    for mine, other in zip(records(out), records(calm), strict=True):
        for key in ("step", "lr", "eps_mse", "train_loss"):
            assert mine[key] == other[key]
    weights = "prior/diffusion_pytorch_model.safetensors"
    assert (out / weights).read_bytes() == (calm / weights).read_bytes()


def test_a_prior_is_trained_on_with_dropout(trained, tasks, tmp_path):
    """From a prior's weights, with another dropout than it had; the prior that comes out has none."""
    options = [*FIT, f"--model.init_from={trained / 'prior'}", "--model.network.init_args.dropout=0.5"]
    out = tmp_path / "out"
    assert tasks.run("fit", *options, "--model.max_steps=2", "--model.lr=0.0001", "--out", out) == 0
    before, (begin, end) = records(trained)[-1], records(out)
    for t, loss in begin["eps_mse"]["0.998"].items():
        assert loss == pytest.approx(before["eps_mse"]["0.998"][t], rel=2e-3), "its own, in float16"
    # dropout acts in the steps, not in the validations
    assert end["train_loss"] > 1.1 * before["train_loss"]
    assert end["eps_mse"]["0.998"]["100"] < 1.1 * begin["eps_mse"]["0.998"]["100"]
    assert read_json(out / "prior" / "config.json")["dropout"] == 0


def test_two_processes_average_their_gradients(tmp_path):
    command = [
        sys.executable,
        "-m",
        "reddiff_pl",
        "fit",
        *FIT,
        "--out",
        tmp_path / "out",
        "--model.max_steps=3",
    ]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp", "--model.sample_images=0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert records(tmp_path / "out")[-1]["images"] == 3 * 2 * 8
    state = torch.load(tmp_path / "out" / "state.pt", weights_only=True)
    for name, weight in _two_by_hand(tmp_path).items():
        if not name.endswith("to_k.bias"):  # has no effect: its gradient is rounding, which Adam makes large
            torch.testing.assert_close(state["weights"][name], weight, rtol=1e-3, atol=2e-5)


def _two_by_hand(tmp_path: Path) -> dict[str, torch.Tensor]:
    """Three steps of one process on the crops that the two would draw."""
    from reddiff_pl.seeding import stream_seed
    from reddiff_pl.training.cli import FitCLI

    torch.manual_seed(0)
    cli = FitCLI([*FIT, "--out", str(tmp_path / "hand"), "--model.max_steps=3"])
    cli.make()
    model, data = cli.model, cli.datamodule
    data.setup("fit")
    adam = torch.optim.AdamW(model.network.parameters(), betas=model.betas, weight_decay=0)
    for step in range(3):
        loss = torch.zeros(())
        for process in range(2):
            generator = torch.Generator().manual_seed(stream_seed(0, f"process {process}", "crops", step))
            x = data.pyramid.draw(8, 16, generator)
            t = ((torch.arange(8) + torch.rand(8, generator=generator)) * 125).long()
            z = torch.randn(8, 16, 16, 3, generator=generator).permute(0, 3, 1, 2)
            x_t = (
                model.abar[t].sqrt().view(-1, 1, 1, 1) * x + (1 - model.abar[t]).sqrt().view(-1, 1, 1, 1) * z
            )
            loss = loss + (model.network(x_t.float(), t).sample - z).square().mean() / 2
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.network.parameters(), model.clip)
        for group in adam.param_groups:
            group["lr"] = 0.01 * min(1, (step + 1) / 2) * (1 + math.cos(math.pi * step / 3)) / 2
        adam.step()
    return model.network.state_dict()


WRONG = {
    "--model.max_steps": ["--model.max_steps=null"],
    "--model.ema_decays": ["--model.ema_decays=[1.5]"],
    "--model.validate_t": ["--model.validate_t=[1000]"],
    "--data.min_scale": ["--data.min_scale=8"],
    "--data.max_scale": ["--data.max_scale=15"],
    "--data.turn_share": ["--data.turn_share=1.5"],
    "--data.color_jitter": ["--data.color_jitter=-1"],
    "--data.shards": ["--data.shards=nowhere.tar"],
    "--model.init_from": [f"--model.init_from={Path(__file__).parents[2] / 'reddiff_pl/assets/prior64'}"],
    "block_out_chanels": ["--model.network.init_args.block_out_chanels=[8]"],
    "norm_num_groups": ["--model.network.init_args.norm_num_groups=3"],
}


@pytest.mark.parametrize("option", WRONG)
def test_a_bad_option_is_one_line(option, reddiff, tmp_path):
    code, printed = reddiff("fit", *FIT, *WRONG[option], "--out", tmp_path / "out")
    assert code == 2
    assert printed.count("error:") == 1 and "Traceback" not in printed
    if option != "norm_num_groups":  # diffusers has its own words
        assert option in printed.partition("error:")[2]


def test_a_state_of_another_network_is_refused(trained, tasks):
    assert (
        tasks.run("fit", *FIT, "--model.network.init_args.block_out_channels=[8,12]", "--out", trained) == 2
    )
    assert "holds a training of another network" in tasks.printed.read_text()
