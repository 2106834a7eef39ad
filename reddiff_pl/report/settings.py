"""Texts and settings of a run as the page may show them: plain, short, of printing characters only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

TEXT = 120  # characters of a key or a reason that are shown
CONFIG_BYTES = 100_000


def clean(value: Any, length: int = TEXT) -> str:
    """A text as the page may show it: no control, bidirectional or broken characters, at most `length` characters.

    A longer one is cut in the middle, since names differ at their ends.
    """
    text = str(value)
    if len(text) > length:
        text = f"{text[: length // 2]}…{text[-(length - length // 2 - 1) :]}"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def number(value: Any) -> float | None:
    """A finite number of JSON as such; None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        return float(value) if is_number and math.isfinite(value) else None
    except OverflowError:
        return None


def config_text(path: Path) -> str:
    """The text of config.yaml, cut where it is very long; empty where there is none."""
    try:
        with open(path, "rb") as file:
            content = file.read(CONFIG_BYTES + 1)
    except OSError:
        return ""
    text = content[:CONFIG_BYTES].decode("utf-8", "replace")
    text = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text + ("\n… cut here" if len(content) > CONFIG_BYTES else "")


def settings(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The options that a reader asks for first."""
    rows: list[tuple[str, str]] = []
    for part in ("sampler", "physics", "prior", "noise"):
        if name := class_name(config, part):
            arguments = lookup(config, "model", part, "init_args")
            said = _scalars(arguments) if isinstance(arguments, Mapping) else ""
            rows.append((part, f"{name}({said})"))
    for label, path in (
        ("seed", ("seed",)),
        ("size", ("data", "size")),
        ("batch size", ("data", "batch_size")),
        ("shards", ("data", "shards")),
        ("images", ("data", "images")),
    ):
        value = lookup(config, *path)
        if isinstance(value, list):
            value = f"{clean(value[0]) if value else ''} and {len(value) - 1} more"
        if value is not None and not isinstance(value, Mapping):
            rows.append((label, clean(value)))
    return rows


def _scalars(arguments: Mapping[str, Any]) -> str:
    """Arguments as in a call; of nested objects the class alone."""
    said = []
    for name, value in islice(arguments.items(), 24):
        if isinstance(value, Mapping) and "class_path" in value:
            value = str(value["class_path"]).rpartition(".")[2]
        if isinstance(value, str | int | float | bool):
            said.append(f"{clean(name, 40)}={clean(value, 60)}")
    return ", ".join(said)


def class_name(config: Mapping[str, Any], part: str) -> str:
    """Name of the class of model.PART in a configuration, empty where it has none."""
    value = lookup(config, "model", part)
    value = lookup(value, "class_path") if isinstance(value, Mapping) else value
    return clean(value.rpartition(".")[2], 60) if isinstance(value, str) else ""


def lookup(value: Any, *path: str) -> Any:
    """What lies in nested mappings; None where nothing does."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
