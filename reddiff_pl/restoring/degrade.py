"""`degrade`: clean images become shards of measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from tqdm import tqdm

from reddiff_pl import stop
from reddiff_pl.errors import ConfigError
from reddiff_pl.files import write_atomically
from reddiff_pl.physics import NoNoise
from reddiff_pl.restoring.batch_size import WITHOUT_GPU
from reddiff_pl.restoring.command import check_output, prepare_output, summary, tell_inputs
from reddiff_pl.restoring.config import guard
from reddiff_pl.restoring.options import RestoreCLI
from reddiff_pl.restoring.output import Members, write_batch
from reddiff_pl.shards.degraded import members_of
from reddiff_pl.shards.metadata import with_field
from reddiff_pl.shards.plan import folder_mark
from reddiff_pl.shards.samples import Sample


def degrade(argv: list[str]) -> int:
    """Write the measurements of clean shards or folders as shards, with their operator beside them."""
    cli = RestoreCLI("degrade", argv)
    if cli.config.publish is not None:
        raise ConfigError("--publish: degrade does not upload; copy the shards and physics.yaml yourself")
    if cli.config.to is not None:
        raise ConfigError("--to: degrade writes measurements, which stay in their shards")
    if cli.config.data.measured is not None:
        raise ConfigError(
            "--data.measured: degrade makes measurements of clean images; give these as --data.images"
        )
    check_output(cli)
    cli.make()
    run = prepare_output(cli)
    guard(run, cli.resolved(), "none", folder=folder_mark(cli.datamodule.todo.all))
    tell_inputs(cli.datamodule)
    data, degradation = cli.datamodule, cli.datamodule.degradation
    batching = data.batching
    batching.should_stop, batching.stack = stop.requested, False
    batching.size = batching.size or WITHOUT_GPU  # the bytes do not depend on it
    batching.prepare.classes, batching.prepare.words = 0, False  # measurements are made without the prior
    # restored later they are told the same level
    level = degradation.noise.sigma_y if degradation.sigma_y is None else degradation.sigma_y

    def members(sample: Sample, row: int) -> Members:
        files = members_of(sample, isinstance(degradation.noise, NoNoise), degradation.scale)
        told = level if isinstance(level, float) and level else None
        if told is None and files[0][0] == "y.png":
            told = 0.0  # it holds the measurement exactly, and a picture read from elsewhere would be rounded
        meta = sample.meta_json
        if told is not None and sample.meta.get("sigma_y") != told:
            meta = with_field(meta, "sigma_y", told)
        return files, {"seed": cli.config.seed}, meta

    for batch in tqdm(data.batches(), unit="batch", mininterval=1):
        write_batch(batch, members, {})
    write_atomically(run.shards / "physics.yaml", _physics_yaml(cli).encode())
    return summary(run, data, "measured")


def _physics_yaml(cli: RestoreCLI) -> str:
    """What `restore` needs to know of the measurements, as a configuration."""
    model = yaml.safe_load(cli.resolved())["model"]
    degradation = cli.datamodule.degradation
    content: Mapping[str, Any] = {
        "model": {key: model[key] for key in ("physics", "noise") if model.get(key) is not None},
        "data": {"fit": "whole"} if degradation.fit == "whole" else {"size": _size(degradation.shape)},
    }
    return yaml.safe_dump(content, sort_keys=False)


def _size(shape: tuple[int, int, int]) -> int | list[int]:
    """As `--data.size` says it."""
    return shape[2] if shape[1] == shape[2] else list(shape[1:])
