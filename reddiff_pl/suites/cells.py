"""The cells of a suite: a run of `restore` for each task and sampler. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reddiff_pl.cluster.launch import option
from reddiff_pl.errors import ConfigError
from reddiff_pl.files import plain_yaml
from reddiff_pl.options.shipped import near, shipped_of
from reddiff_pl.restoring.short import expand
from reddiff_pl.suites.suite import Suite, Task

DEFAULT = "reddiff"  # the sampler of `restore`, with what the task's own file says of it
_OWN = ("out", "to", "publish", "task", "sampler", "data.shards", "data.images", "data.measured")


@dataclass(frozen=True)
class Row:
    """A task and a sampler.

    Attributes:
        task: the task.
        sampler: its name.
        options: of its `restore`; empty where there is no cell.
        why: there is none.
    """

    task: Task
    sampler: str
    options: Sequence[str] = ()
    why: str = ""

    @property
    def cell(self) -> str:
        """The name of its run's folder."""
        return f"{self.task.name}-{self.sampler}"


def rows(
    suite: Suite,
    tasks: Sequence[str] | None,
    samplers: Sequence[str] | None,
    given: Mapping[str, Mapping[str, str]],
    shared: Sequence[str],
    side: int,
    out: Path,
    first: Sequence[str],
) -> list[Row]:
    """The rows of the table, tasks first.

    Args:
        suite: the suite.
        tasks: some of its tasks; None: all.
        samplers: names that `restore --sampler` takes, or files; None: the suite's.
        given: {task: {option: value}}, of the user.
        shared: options of all runs, of the user, which win.
        side: of the images in pixels.
        out: a cell's run is OUT/name.
        first: options that come before all others: the prior, the photos.

    Raises:
        ConfigError: there is no such task or sampler, or an option that is the suite's.
    """
    for name in _OWN:
        if option(shared, name) is not None:
            raise ConfigError(f"--{name}: the suite says it; photos are given by --data")
    wanted = list(tasks or suite.tasks)
    for name in [*wanted, *given]:
        if name not in suite.tasks:
            raise ConfigError(
                f"--tasks: no {name} in {suite.name}{near(name, suite.tasks)}; have {', '.join(suite.tasks)}"
            )
    chosen = {Path(name).stem: name for name in samplers or suite.samplers}
    return [
        _row(suite, suite.tasks[name], label, sampler, given.get(name, {}), shared, side, out, first)
        for name in wanted
        for label, sampler in chosen.items()
    ]


def _row(
    suite: Suite,
    task: Task,
    label: str,
    sampler: str,
    given: Mapping[str, str],
    shared: Sequence[str],
    side: int,
    out: Path,
    first: Sequence[str],
) -> Row:
    why = task.without.get(label, "")
    for name, what in task.needs.items():
        if name not in given:
            why = why or f"needs {what}: --set {task.name}.{name}=..."
    if why:
        return Row(task, label, why=why)
    pixels = {name: scaled(value, side, suite.side) for name, value in task.pixels.items()}
    settings = {**suite.options, **task.options, **pixels, **task.samplers.get(label, {}), **given}
    options = [
        *first,
        *("--task", task.task),
        *(() if sampler == DEFAULT else ("--sampler", sampler)),
        *(f"--data.size={side}", f"--limit={suite.limit}"),
        *(f"--{name}={_text(value)}" for name, value in settings.items()),
        *shared,
    ]
    row = Row(task, label)
    return replace(row, options=[*expand(options), f"--out={out / row.cell}", "--rank=0", "--world=1"])


def scaled(length: float, side: int, of: int) -> float:
    """A length in pixels of images of one side, for another: whole numbers stay whole, odd ones odd."""
    if not isinstance(length, int):
        return round(length * side / of, 4)
    if length % 2:
        return max(2 * round((length * side / of - 1) / 2) + 1, 3)
    return max(round(length * side / of), 1)


def _text(value: Any) -> str:
    """As the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def parse_set(specs: Sequence[str]) -> dict[str, dict[str, str]]:
    """What several --set say: {task: {option: value}}.

    Args:
        specs: `TASK.OPTION=VALUE`.

    Raises:
        ConfigError: one is not of this form.
    """
    found: dict[str, dict[str, str]] = {}
    for spec in specs:
        match = re.fullmatch(r"(\w+)\.([\w.-]+)=(.*)", spec, re.DOTALL)
        if match is None:
            raise ConfigError(f"--set: expects TASK.OPTION=VALUE, got {spec}")
        found.setdefault(match[1], {})[match[2]] = match[3]
    return found


def side_of(prior: str | None, shared: Sequence[str]) -> int:
    """The side of the images: --data.size, else what the prior says.

    Args:
        prior: as `restore --prior` takes it; None: the bundled one.
        shared: options of all runs.

    Raises:
        ConfigError: neither says it.
    """
    size = option(shared, "data.size")
    if size is None:
        size = _side(prior)
    if type(size) is not int or size < 1:
        raise ConfigError(
            "--data.size: give the side of the images in pixels; the prior's files do not say it"
        )
    return size


def _side(prior: str | None) -> Any:
    if prior is None:
        prior = "bundled"
    if Path(prior).is_dir():
        for name in ("config.json", "unet/config.json"):
            if (file := Path(prior) / name).is_file():
                return _loaded(file).get("sample_size")
        return None
    path = shipped_of("priors").get(prior, Path(prior))
    model = (_loaded(path).get("model") or {}) if path.is_file() else {}
    given = model.get("prior") or {}
    arguments = given.get("init_args") or {}
    if isinstance(shape := arguments.get("shape"), list) and len(shape) == 3:
        return shape[1]
    folder = arguments.get("path")
    if folder is None and given.get("class_path") == "reddiff_pl.priors.UNet":
        folder = Path(__file__).parents[1] / "assets" / "prior64"
    return _side(str(folder)) if folder is not None and Path(folder).is_dir() else None


def _loaded(path: Path) -> dict[str, Any]:
    try:
        content = plain_yaml(path.read_bytes())
    except (OSError, ValueError):
        return {}  # the run itself will say so
    return content if isinstance(content, dict) else {}
