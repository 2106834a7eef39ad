"""What evaluation leaves of each shard.

Sums over shards are made from these files in the order of the shards' names, so it does not matter which task made
which, or in what order. OUT/evaluation/NAME.json has the metrics of each image; NAME.safetensors the features of
networks, which take less room than their covariance would.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reddiff_pl.evaluation.pairs import Results
from reddiff_pl.shards.layout import Run


def sidecar_path(run: Run, name: str) -> Path:
    """The metrics of a shard's images; written last."""
    return run.evaluation / f"{name}.json"


def features_path(run: Run, name: str) -> Path:
    """The features of a shard's images: {NETWORK/restored: (n, d), NETWORK/reference: (m, d)}."""
    return run.evaluation / f"{name}.safetensors"


def read(results: Results, name: str) -> dict[str, Any] | None:
    """A shard's metrics; None when they are not there, damaged, or those of another tar."""
    try:
        record = json.loads(sidecar_path(results.run, name).read_bytes())
        whole = all(len(column) == record["images"] for column in record["columns"].values())
        if not whole or record["tar"] != results.digest(name) or not isinstance(record["families"], dict):
            return None
        if record["features"] and not features_path(results.run, name).is_file():
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record


def could_have_more_references(there: Mapping[str, Any], results: Results, name: str) -> bool:
    """Whether references that could not be found are now where the inputs are."""
    source = results.source(name)
    return there["references"] < there["images"] and source is not None and source != there["source"]
