"""Short ways in: `reddiff restore photos/ --task jpeg --to restored/` as the options that it stands for. No torch."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Sequence

import yaml

from reddiff_pl.errors import ConfigError
from reddiff_pl.options.shipped import config_path, near, shipped_of
from reddiff_pl.shards.plan import is_remote
from reddiff_pl.shards.suffixes import READABLE, UNREADABLE, unreadable

# in the order in which they count: a task has settings for the default sampler, which another one does not know
KINDS = {"prior": "priors", "task": "tasks", "sampler": "samplers"}
DIAL = "--perception"
SHORT = ("--config", *(f"--{kind}" for kind in KINDS), DIAL)
PATHS = ("--data.images", "--data.measured", "--out", "--to")
PARAMS = "--data.params."
ALONE = ("-h", "--help", "--help-all", "--print_config")  # options without a value
TARS = re.compile(r"\.(tar|tgz|tar\.gz)(\?[^/]*)?$")


def expand(argv: Sequence[str], command: str = "restore") -> list[str]:
    """Options with the short ones written out. What is written out stays as it is.

    A folder or a picture is `--data.measured` (of `degrade` `--data.images`), tars and patterns of them are
    `--data.shards`. `--task`, `--prior` and `--sampler` name files that ship, or are files; they come before all other
    options. `--config` takes names of files that ship. `--perception` is the sampler's option. Without `--out`, `--to
    DIR` keeps the run in DIR.run.

    Args:
        argv: the options of restore.
        command: restore or degrade.

    Raises:
        ConfigError: there is no such file or name.
    """
    named: dict[str, list[str]] = {kind: [] for kind in KINDS}
    rest: list[str] = []
    inputs: list[str] = []
    dial: list[str] = []
    items = iter(argv)
    for item in items:
        name, equals, value = item.partition("=")
        if not item.startswith("-") or item == "-" or (item[1:2] != "-" and os.path.exists(item)):
            inputs.append(item)
        elif name in ALONE or (equals and name not in SHORT and not _is_path(name)):
            rest.append(item)
        else:
            if not equals and (value := next(items, "")) == "":
                rest.append(item)  # the parser says what is missing
            elif _is_path(name):
                rest += [name, _literal(value)]
            elif name == "--config":
                rest += [name, config_path(value)]
            elif name == DIAL:
                dial = ["--model.sampler.init_args.perception", value]
            elif name[2:] in KINDS:
                named[name[2:]] += _named(name[2:], value)
            else:
                rest += [item, value]
    rest = _params(rest)
    short = [option for options in named.values() for option in options]
    return [*short, *_inputs(inputs, command), *rest, *dial, *_out(rest)]


def _is_path(name: str) -> bool:
    return name in PATHS or name.startswith(PARAMS)


def _literal(path: str) -> str:
    """A path that options, which are YAML, take for what it is: `null`, `&a` and `- a` are names of files, too."""
    read = isinstance(_of_yaml(path), str | int | float) and not path.startswith("-")
    if read or os.path.isabs(path):
        return path
    return os.path.join(os.curdir, path)


def _params(rest: list[str]) -> list[str]:
    """`--data.params.NAME` as one JSON object where YAML would make a mapping of a path, as of `a: b.png`."""
    places = [i for i, item in enumerate(rest) if item.startswith(PARAMS) and i + 1 < len(rest)]
    if all(isinstance(_of_yaml(rest[i + 1]), str | int | float) for i in places):
        return rest
    given = {rest[i].removeprefix(PARAMS): rest[i + 1] for i in places}
    others = [item for i, item in enumerate(rest) if not {i, i - 1} & set(places)]
    return [*others, PARAMS.rstrip("."), json.dumps(given)]


def _of_yaml(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:  # such as `{a}.png`, which is taken as it is
        return text


def _named(kind: str, value: str) -> list[str]:
    if (
        kind == "prior"
        and (os.path.isdir(value) or os.sep in value)
        and not value.endswith((".yaml", ".yml"))
    ):
        return ["--model.prior.init_args.path", value]
    if re.search(r"\.ya?ml$", value):
        return ["--config", config_path(value)]
    names = shipped_of(KINDS[kind])
    if value not in names:
        raise ConfigError(
            f"--{kind}: no {kind} {value} ships{near(value, names)}; reddiff configs lists them"
        )
    return ["--config", str(names[value])]


def _inputs(paths: Sequence[str], command: str) -> list[str]:
    """What is given without an option's name."""
    if not paths:
        return []
    if all(TARS.search(path) for path in paths):
        return ["--data.shards", paths[0] if len(paths) == 1 else json.dumps(list(paths))]
    if len(paths) > 1:
        raise ConfigError(f"{' '.join(paths[:3])}: give one folder, one picture, or tars")
    [path] = paths
    suffix = os.path.splitext(path)[1].lower()
    if os.path.isdir(path) or (os.path.isfile(path) and suffix in READABLE):
        return ["--data.images" if command == "degrade" else "--data.measured", _literal(path)]
    if suffix in UNREADABLE and os.path.isfile(path):
        raise ConfigError(f"{path}: {unreadable(suffix)}")
    if os.path.isfile(path):
        raise ConfigError(f"{path}: expected a folder, a picture or tars")
    if is_remote(path) or glob.has_magic(path) or "{" in path:
        raise ConfigError(f"{path}: patterns are of tars (*.tar); give pictures as their folder")
    raise ConfigError(f"{path}: no such file or folder")


def _out(rest: Sequence[str]) -> list[str]:
    """`--out` beside `--to`, where it is not said."""
    given: dict[str, str] = {}
    for item, following in zip(rest, [*rest[1:], ""], strict=False):
        name, equals, value = item.partition("=")
        given[name] = value if equals else following
    if "--to" not in given or "--out" in given:
        return []
    return ["--out", f"{given['--to'].rstrip('/')}.run"]
