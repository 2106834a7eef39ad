"""Cells of a sweep: what is varied, every combination of it, and the name and options of each. No torch."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from reddiff_pl.errors import ConfigError

# each cell has its own output, and one process at a time does the whole of it
_OWN = ("out", "overwrite", "publish", "rank", "world", "trainer.devices")


@dataclass(frozen=True)
class Varied:
    """An option and its values.

    Attributes:
        option: its name, such as model.sampler.init_args.lam; config stands for one more --config.
        label: its name in tables.
        values: as texts of the command line.
        labels: their names in tables.
    """

    option: str
    label: str
    values: list[str]
    labels: list[str]


@dataclass(frozen=True)
class Cell:
    """One combination of values: a run in OUT/name.

    Attributes:
        name: made of the labels alone, so that a grid can grow.
        values: a value an option.
        labels: their names in tables.
    """

    name: str
    values: tuple[str, ...]
    labels: tuple[str, ...]


def varied(specs: Sequence[str]) -> list[Varied]:
    """What several --vary say.

    Args:
        specs: `OPTION=VALUE,VALUE` or `OPTION=[VALUE, VALUE]`; a value is YAML: a number, a "quoted, text", a [list].

    Raises:
        ConfigError: one is not of this form, or an option or a value comes twice.
    """
    found: dict[str, list[str]] = {}
    for spec in specs:
        option, equals, text = spec.lstrip("-").partition("=")
        if not equals or not re.fullmatch(r"\w[\w.+-]*", option):
            raise ConfigError(f"--vary: expects OPTION=VALUE,VALUE,..., got {spec}")
        if option.replace("-", "_") in _OWN:
            raise ConfigError(f"--vary: {option} cannot be varied")
        if option in found:
            raise ConfigError(f"--vary: {option} comes twice; give all its values at once")
        found[option] = _values(option, text)
    last = {option: option.rpartition(".")[2] for option in found}
    unique = len(set(last.values())) == len(last)
    return [
        Varied(option, last[option] if unique else option, values, _labels(values))
        for option, values in found.items()
    ]


def _values(option: str, text: str) -> list[str]:
    """The values as they are written: 1e-3 stays 1e-3."""
    source = f"[{text}]"
    try:
        whole = yaml.compose(source, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--vary: {option}: {text} is not a list of YAML values; put values with commas, braces or colons in "
            f"double quotes ({' '.join(str(error).split())[:120]})"
        ) from error
    nodes = whole.value if whole is not None else []
    if len(nodes) == 1 and isinstance(nodes[0], yaml.SequenceNode):
        nodes = nodes[0].value
    values = [
        node.value
        if isinstance(node, yaml.ScalarNode)
        else source[node.start_mark.index : node.end_mark.index]
        for node in nodes
    ]
    if not values:
        raise ConfigError(f"--vary: {option} has no values")
    if len(set(values)) < len(values):
        raise ConfigError(f"--vary: {option} has the same value twice: {text}")
    return values


def _labels(values: Sequence[str]) -> list[str]:
    """Files by their stem, classes by their own name; values in full where two would be called the same."""

    def short(value: str) -> str:
        if re.fullmatch(r"\S+\.ya?ml", value):
            return Path(value).stem
        return value.rpartition(".")[2] if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", value) else value

    labels = [short(value) for value in values]
    return labels if len(set(labels)) == len(labels) else list(values)


def cells(grid: Sequence[Varied]) -> list[Cell]:
    """All combinations; the last option changes fastest."""
    places = itertools.product(*(range(len(one.values)) for one in grid))
    return [
        Cell(
            _directory([f"{one.label}={one.labels[i]}" for one, i in zip(grid, place, strict=True)]),
            tuple(one.values[i] for one, i in zip(grid, place, strict=True)),
            tuple(one.labels[i] for one, i in zip(grid, place, strict=True)),
        )
        for place in places
    ]


def _directory(parts: Sequence[str]) -> str:
    whole = ",".join(parts)
    name = re.sub(r"[^\w.+=,-]", "_", whole, flags=re.ASCII)
    if name == whole and len(name) <= 120:
        return name
    return f"{name[:110]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"  # two must not be called the same


def options(cell: Cell, grid: Sequence[Varied], base: Sequence[str], out: Path) -> list[str]:
    """The options of a cell's run.

    A varied --config comes behind the --config that are there, so that single options win over it, as they do over
    any --config before them.
    """
    configs: list[str] = []
    others: list[str] = []
    for one, value in zip(grid, cell.values, strict=True):
        (configs if one.option == "config" else others).append(f"--{one.option}={value}")
    behind = 0
    for i, item in enumerate(base):
        if item in ("--config", "-c"):
            behind = i + 2
        elif item.startswith(("--config=", "-c=")):
            behind = i + 1
    return [
        *base[:behind],
        *configs,
        *base[behind:],
        *others,
        f"--out={out / cell.name}",
        "--rank=0",
        "--world=1",
    ]
