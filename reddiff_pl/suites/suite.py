"""A suite: the tasks, noise levels and counts of a paper's tables, and what it published. YAML; no torch.

docs/runs.md explains the format; `configs/suites/` has those that ship.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reddiff_pl.errors import ConfigError
from reddiff_pl.options.shipped import near, shipped_of

_SUITE = (
    *("title", "source", "side", "limit", "samplers", "metrics", "options", "tasks"),
    *("published", "unpublished", "differs"),
)
_TASK = ("title", "task", "options", "pixels", "samplers", "needs")
_FIGURE = ("task", "method", "data", "figures", "source", "differs")


@dataclass(frozen=True)
class Task:
    """A row of tasks.

    Attributes:
        name: in the names of cells and of --tasks.
        title: in tables.
        task: as `restore --task` takes it.
        options: of `restore`, by their names.
        pixels: options that are lengths in pixels of images of the suite's side; they are scaled to other sides.
        samplers: {sampler: options with it}.
        without: {sampler: why it has no cell}.
        needs: {option: what it is}; without it there is no cell.
    """

    name: str
    title: str
    task: str
    options: Mapping[str, Any]
    pixels: Mapping[str, float]
    samplers: Mapping[str, Mapping[str, Any]]
    without: Mapping[str, str]
    needs: Mapping[str, str]


@dataclass(frozen=True)
class Figure:
    """What was published.

    Attributes:
        task: the task's name.
        method: the sampler whose row it stands in.
        data: what it was measured on.
        figures: {metric: value}, in the units of `evaluate`'s tables.
        source: where it was read, "title | url".
        differs: from this table, in a line.
    """

    task: str
    method: str
    data: str
    figures: Mapping[str, float]
    source: str
    differs: str

    def line(self) -> str:
        return "; ".join(filter(None, (f"{self.method} on {self.data}", self.source, self.differs)))


@dataclass(frozen=True)
class Suite:
    """The whole.

    Attributes:
        name: of its file.
        title: of the tables.
        source: of the tasks, "title | url".
        side: of the images that lengths in pixels are given for.
        limit: images.
        samplers: those compared by default.
        metrics: as `evaluate --metrics` takes them.
        options: of all runs.
        tasks: {name: task}.
        published: what is known.
        unpublished: {task or sampler, or "*": why nothing is}.
        differs: from this table, of all that was published.
    """

    name: str
    title: str
    source: str
    side: int
    limit: int
    samplers: Sequence[str]
    metrics: Sequence[str]
    options: Mapping[str, Any]
    tasks: Mapping[str, Task]
    published: Sequence[Figure]
    unpublished: Mapping[str, str]
    differs: str

    def why_not(self, task: str, method: str) -> str:
        """Why there is no published figure."""
        return next((self.unpublished[key] for key in (task, method, "*") if key in self.unpublished), "")


def load(name: str, published: str | None = None) -> Suite:
    """A suite that ships, or a file.

    Args:
        name: daps, paper, or a path ending in .yaml.
        published: a file with more figures: a list, or `published: [...]`.

    Raises:
        ConfigError: there is none, or it is not of the format; the file and the key.
    """
    path = _path(name)
    content = _read(path, "--suite")
    where = f"--suite: {path}"
    _known(content, _SUITE, where)
    tasks = {
        key: _task(key, value, f"{where}: tasks.{key}")
        for key, value in _mapping(content, "tasks", where).items()
    }
    if not tasks:
        raise ConfigError(f"{where}: tasks: there is none")
    listed = content.get("published") or []
    figures = _figures(listed, tasks, where)
    if published is not None:
        more = _read(Path(published), "--published", list)
        figures += _figures(more, tasks, f"--published: {published}")
    side, limit = (_number(content, key, where) for key in ("side", "limit"))
    return Suite(
        Path(path).stem,
        str(content.get("title", Path(path).stem)),
        str(content.get("source", "")),
        side,
        limit,
        [str(one) for one in content.get("samplers") or ["reddiff"]],
        [str(one) for one in content.get("metrics") or ["psnr", "ssim"]],
        _mapping(content, "options", where),
        tasks,
        figures,
        _mapping(content, "unpublished", where),
        str(content.get("differs", "")),
    )


def _path(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    shipped = shipped_of("suites")
    if name not in shipped:
        raise ConfigError(
            f"--suite: no suite {name} ships{near(name, shipped)}; have {', '.join(shipped)}, or a file"
        )
    return shipped[name]


def _read(path: Path, option: str, kind: type = dict) -> Any:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{option}: {path} is not YAML: {' '.join(str(error).split())}") from error
    if kind is list and isinstance(content, dict):
        content = content.get("published")
    if not isinstance(content, kind):
        raise ConfigError(f"{option}: {path}: expected a {'list of figures' if kind is list else 'mapping'}")
    return content


def _known(content: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in content:
        if key not in keys:
            raise ConfigError(f"{where}: no key {key}{near(str(key), keys)}")


def _mapping(content: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {key}: expected a mapping, got {value}")
    return value


def _number(content: Mapping[str, Any], key: str, where: str) -> int:
    value = content.get(key)
    if type(value) is not int or value < 1:
        raise ConfigError(f"{where}: {key}: expected a positive whole number, got {value}")
    return value


def _task(name: str, content: Any, where: str) -> Task:
    if not isinstance(content, dict) or "task" not in content:
        raise ConfigError(f"{where}: expected a mapping with `task`, as restore --task takes it")
    _known(content, _TASK, where)
    samplers = _mapping(content, "samplers", where)
    for sampler, value in samplers.items():
        if not isinstance(value, dict | str):
            raise ConfigError(
                f"{where}.samplers.{sampler}: expected options, or a text why it is left out, got {value}"
            )
    pixels = _mapping(content, "pixels", where)
    for option, value in pixels.items():
        if type(value) not in (int, float) or not value > 0:
            raise ConfigError(f"{where}.pixels.{option}: expected a length in pixels, got {value}")
    return Task(
        name,
        str(content.get("title", name)),
        str(content["task"]),
        _mapping(content, "options", where),
        pixels,
        {sampler: value for sampler, value in samplers.items() if isinstance(value, dict)},
        {sampler: value for sampler, value in samplers.items() if isinstance(value, str)},
        _mapping(content, "needs", where),
    )


def _figures(listed: Any, tasks: Mapping[str, Task], where: str) -> list[Figure]:
    found = []
    for i, entry in enumerate(listed):
        here = f"{where}: published[{i}]"
        if not isinstance(entry, dict):
            raise ConfigError(f"{here}: expected a mapping, got {entry}")
        _known(entry, _FIGURE, here)
        if entry.get("task") not in tasks:
            raise ConfigError(
                f"{here}: task: no {entry.get('task')} in the suite{near(str(entry.get('task')), tasks)}"
            )
        for key in ("method", "data", "source"):
            if not isinstance(entry.get(key), str) or not entry[key].strip():
                raise ConfigError(f"{here}: {key}: a figure needs it; a text is expected")
        figures = _mapping(entry, "figures", here)
        for metric, value in figures.items():
            if type(value) not in (int, float):
                raise ConfigError(f"{here}: figures.{metric}: expected a number, got {value}")
        if not figures:
            raise ConfigError(f"{here}: figures: there is none")
        found.append(
            Figure(
                entry["task"],
                entry["method"],
                entry["data"],
                figures,
                entry["source"],
                str(entry.get("differs", "")),
            )
        )
    return found
