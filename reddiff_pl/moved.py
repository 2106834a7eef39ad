"""Modules under the names that they had before, for class paths and imports that users have written."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

MOVED = {
    "batch": "restoring.batch",
    "config": "restoring.config",
    "datamodule": "restoring.datamodule",
    "evolution": "restoring.evolution",
    "output": "restoring.output",
    "restoration": "restoring.restoration",
    "importing": "priors.importing",
    "averaging": "priors.averaging",
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self) -> None:
        self._own: dict[str, importlib.machinery.ModuleSpec | None] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, old = name.rpartition(".")
        if package != "reddiff_pl" or old not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"reddiff_pl.{MOVED[spec.name.rpartition('.')[2]]}")
        self._own[module.__name__] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It was executed under its own name, which is also its spec's."""
        module.__spec__ = self._own[module.__name__]


def keep_old_names() -> None:
    """Let `reddiff_pl.datamodule` and its like be imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
