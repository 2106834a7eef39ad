"""Files that ship with the package."""

from __future__ import annotations

from pathlib import Path

from reddiff_pl.errors import ConfigError


def shipped(name: str, kind: str = "configs") -> str:
    """Path of a file of configs/ or slurm/: beside the package in a clone, inside it once installed."""
    package = Path(__file__).parents[1]
    for folder in (package.parent / kind, package / kind):
        if (folder / name).is_file():
            return str(folder / name)
    raise ConfigError(f"no {kind}/{name} ships with this package")
