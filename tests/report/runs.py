"""Runs made up for the report's tests: real shards and sidecars, without a restoration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from helpers import png, write_shard

from reddiff_pl.files import write_atomically
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.metadata import METRICS
from reddiff_pl.shards.reader import Failure
from reddiff_pl.shards.writer import ShardWriter

SIDE = 16


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def write(
    run: Run,
    name: str,
    samples: list[tuple[str, list[tuple[str, bytes]], dict[str, Any]]],
    failed: list[tuple[str, str]] = [],  # noqa: B006
    commit: bool = True,
    **fields: Any,
) -> None:
    """A shard of (key, further files, record and metadata) and failures; `fields` go into its sidecar."""
    writer = ShardWriter(run, name)
    run.tar(name).parent.mkdir(parents=True, exist_ok=True)
    assert writer.open()
    for i, (key, files, record) in enumerate(samples):
        meta = {name: value for name, value in record.items() if name not in METRICS}
        writer.write(key, [("png", png(picture(i))), *files], record, json.dumps(meta).encode())
    for i, (key, reason) in enumerate(failed):
        writer.fail(Failure(len(samples) + i, key, reason))
    if not commit:
        writer.close()
        return
    writer.commit(True, {})
    sidecar = json.loads(run.sidecar(name).read_text())
    write_atomically(run.sidecar(name), json.dumps(sidecar | fields).encode())


def configure(run: Run, **data: Any) -> None:
    run.out.mkdir(parents=True, exist_ok=True)
    run.config.write_text(json.dumps({"seed": 0, "data": data}))  # JSON is YAML


def inputs(folder: Path, names: list[str], keys: list[str]) -> str:
    """Clean shards with the references of `keys`; returns the wildcard that names them."""
    for name in names:
        write_shard(folder / f"{name}.tar", [(key, {"png": png(picture(i))}) for i, key in enumerate(keys)])
    return f"{folder}/*.tar"
