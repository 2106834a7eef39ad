"""--data.batch_size auto: doubled as long as it pays, one number for a run."""

from __future__ import annotations

import pytest
import torch
import yaml
from run_tasks import TINY, tiny_shards

from reddiff_pl.restoring.batch_size import WITHOUT_GPU, largest_that_pays, milliseconds
from reddiff_pl.restoring.command import parse_restore

AUTO = [*TINY, "--data.batch_size=auto", "--model.sampler.init_args.steps=2"]


def machine(launch: float, image: float, room: int, memory: int = 10**6):
    """A step takes `launch` ms and `image` more an image; there is memory for so many, and room for more to fail."""
    tried = []

    def time(size: int) -> float:
        if size > memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        tried.append(size)
        return (launch + image * size) / size

    return time, lambda: tried[-1] / room


@pytest.mark.parametrize(
    ("launch", "room", "memory", "size", "why"),
    [
        (0, 10**6, 10**6, 1, "less than 3%"),
        (1, 10**6, 10**6, 16, "less than 3%"),  # 1/16 + 1 = 1.0625, 1/32 + 1 = 1.03125: 2.9 %
        (1, 10**6, 7, 4, "no memory for 8"),
        (1, 9, 10**6, 8, "16 would take 178% of the memory"),
        (1, 8, 10**6, 4, "8 would take 100% of the memory"),
        (10**6, 10**6, 10**6, 256, "not tried"),
    ],
)
def test_it_is_doubled_as_long_as_it_pays(launch, room, memory, size, why):
    chosen, reason = largest_that_pays(*machine(launch, 1, room, memory))
    assert chosen == size and why in reason


@pytest.mark.parametrize("task", ["inpainting_random", "inpainting_given"])
@pytest.mark.parametrize("steps", [1, 9])
def test_a_step_is_timed(tmp_path, task, steps):
    """With the sampler, however few steps it has, or the prior alone where samples must bring the masks."""
    from helpers import CONFIGS

    options = [
        "--config",
        str(CONFIGS / "tasks" / f"{task}.yaml"),
        f"--model.sampler.init_args.steps={steps}",
    ]
    shards = str(tiny_shards(tmp_path / "in", 1, 1))
    cli = parse_restore([*AUTO, *options, "--data.shards", shards, "--out", str(tmp_path / "out")])
    cli.make()
    assert 0 < milliseconds(cli.model, cli.datamodule, torch.device("cpu"), 3) < 60_000


def test_a_run_has_one_size(reddiff, tmp_path):
    """The first task's choice stands in config.yaml, and the others take it."""
    command = [
        "restore",
        *AUTO,
        "--data.shards",
        tiny_shards(tmp_path / "in", 2, 9),
        "--out",
        tmp_path / "out",
    ]
    code, printed = reddiff(*command, "--limit=2")
    assert code == 0 and f"batch size {WITHOUT_GPU}: " in printed
    path = tmp_path / "out" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    assert config["data"]["batch_size"] == WITHOUT_GPU
    path.write_text(path.read_text().replace(f"batch_size: {WITHOUT_GPU}", "batch_size: 5"))
    code, printed = reddiff(*command)
    assert code == 0 and "batch size" not in printed and "batch_size" not in printed
    assert "batch_size: 5" in path.read_text()
    code, printed = reddiff(*command, "--data.batch_size=4", "--overwrite=true")
    assert code == 0 and yaml.safe_load(path.read_text())["data"]["batch_size"] == 4


def test_degrade_takes_it_too(reddiff, tmp_path):
    command = [
        "degrade",
        *AUTO,
        "--data.shards",
        tiny_shards(tmp_path / "in", 1, 2),
        "--out",
        tmp_path / "out",
    ]
    assert reddiff(*command)[0] == 0
