"""Annotations of other packages that say less than they mean."""

from __future__ import annotations

import inspect
import re
from types import ModuleType


def widen_tuples(module: ModuleType) -> None:
    """Let what a module's classes annotate as `tuple[int]`, a tuple of one, have any length.

    deepinv writes so of image sizes, and the parser then refuses (3, 64, 64).
    """
    for _, found in inspect.getmembers(module, inspect.isclass):
        annotations = getattr(found.__init__, "__annotations__", {})
        for name, annotation in annotations.items():
            if isinstance(annotation, str):
                annotations[name] = re.sub(r"\b([Tt]uple)\[(\w+)\]", r"\1[\2, ...]", annotation)
