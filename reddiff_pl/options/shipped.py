"""Files that ship with the package."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection
from pathlib import Path

from reddiff_pl.errors import ConfigError


def shipped(name: str, kind: str = "configs") -> str:
    """Path of a file of configs/ or slurm/: beside the package in a clone, inside it once installed."""
    package = Path(__file__).parents[1]
    for folder in (package.parent / kind, package / kind):
        if (folder / name).is_file():
            return str(folder / name)
    raise ConfigError(f"no {kind}/{name} ships with this package")


def shipped_configs() -> dict[str, Path]:
    """The configurations that ship: {name relative to configs/: path}, sorted."""
    package = Path(__file__).parents[1]
    for folder in (package.parent / "configs", package / "configs"):
        if (folder / "tasks").is_dir():
            return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.yaml"))}
    return {}


def shipped_of(kind: str) -> dict[str, Path]:
    """Those of one folder by their short names: {name: path} for "tasks", "samplers", "priors", "suites"."""
    return {Path(name).stem: path for name, path in shipped_configs().items() if name.startswith(f"{kind}/")}


def config_path(name: str) -> str:
    """A configuration's file: as named, or one that ships, named as `tasks/jpeg.yaml` from any folder.

    Raises:
        ConfigError: there is none.
    """
    known = shipped_configs()
    inside = name.removeprefix("configs/")
    if not os.path.exists(name) and inside in known:
        return str(known[inside])
    if not os.path.exists(name) and re.search(r"\.ya?ml$", name):
        raise ConfigError(f"--config: {name}: no such file, and none that ships{near(inside, known)}")
    return name


def near(name: str, known: Collection[str]) -> str:
    """`; did you mean ...?` with the names like this one; empty where there are none."""
    found = difflib.get_close_matches(name, list(known), 3, 0.5)
    found += [one for one in sorted(known) if name and name in one and one not in found][:3]
    return f"; did you mean {' or '.join(found)}?" if found else ""
