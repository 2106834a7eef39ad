"""Annotations of other packages that say less than they mean."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection
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


def hide(module: ModuleType, names: Collection[str]) -> None:
    """Keep arguments of a module's classes from the parser, for which their types have no form in YAML.

    Of deepinv's generators of parameters: the dtype, the device and the random numbers, all of which are the loader's.
    """
    for _, found in inspect.getmembers(module, inspect.isclass):
        if "__init__" in vars(found):
            signature = inspect.signature(found.__init__)
            kept = [one for name, one in signature.parameters.items() if name not in names]
            vars(found)["__init__"].__signature__ = signature.replace(parameters=kept)
