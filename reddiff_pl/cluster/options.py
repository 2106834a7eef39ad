"""The options of `reddiff submit`, and those of `restore` that it must know."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from reddiff_pl.errors import ConfigError
from reddiff_pl.options.parser import Parser, refuse_misspelt
from reddiff_pl.restoring.short import expand

DESCRIPTION = """Submit a restoration to SLURM: an array of independent one-GPU tasks, or one job with many of them.

The options below are submit's; all others go to `reddiff restore` unchanged. After a --, all do:
  reddiff submit --tasks 16 --throttle 8 --time 04:00:00 --partition gpu \\
    --config configs/tasks/inpainting_random.yaml --data.shards 'shards/*.tar' --out out/
After `-- tables`, they are those of `reddiff tables`, whose cells the tasks share.
Submit again, with any number of tasks, to go on with what is left. The scripts go to OUT/slurm, to be read, edited
and submitted with sbatch; with them what SLURM and the tasks print. slurm/README.md says more."""


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(
        "reddiff submit",
        usage="reddiff submit (--tasks N | --multinode NODES TASKS) [options] [--] [options of reddiff restore]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--tasks", type=_positive, metavar="N", help="an array of so many tasks")
    size.add_argument(
        "--multinode",
        type=_positive,
        nargs=2,
        metavar=("NODES", "TASKS"),
        help="one job instead, with so many tasks on each of so many nodes",
    )
    parser.add_argument("--throttle", type=_positive, metavar="N", help="tasks of the array at a time")
    parser.add_argument("--partition", metavar="NAME", help="where to run")
    parser.add_argument("--account", metavar="NAME", help="on whose budget")
    parser.add_argument("--time", metavar="LIMIT", help="time limit, such as 04:00:00 or 1-00:00:00")
    parser.add_argument(
        "--gres",
        help="resources of a task, with --multinode of a node; 'none' for none "
        "(default: gpu:1, with --multinode gpu:TASKS)",
    )
    parser.add_argument("--cpus-per-task", type=_positive, metavar="N", help="cores of a task")
    parser.add_argument("--mem", metavar="SIZE", help="memory of a task, with --multinode of a node")
    parser.add_argument(
        "--setup", metavar="LINES", help="shell lines before: 'module load ...; . .venv/bin/activate'"
    )
    parser.add_argument(
        "--command",
        metavar="COMMAND",
        help="how `reddiff` is called in the job, such as 'apptainer exec --nv reddiff.sif reddiff' "
        "(default: this Python's; with --setup, reddiff)",
    )
    parser.add_argument(
        "--sbatch-arg", action="append", default=[], metavar="ARG", help="any other: --sbatch-arg=--qos=long"
    )
    parser.add_argument(
        "--max-array-size", type=_positive, metavar="N", help="tasks in one array (default: asks scontrol)"
    )
    parser.add_argument("--follow-up", action="store_true", help="a job after all: evaluate, report, status")
    parser.add_argument("--dry-run", action="store_true", help="print plan and scripts, submit nothing")
    if "--" in argv:
        cut = argv.index("--")
        options, restore = parser.parse_args(argv[:cut]), argv[cut + 1 :]
    else:
        options, restore = parser.parse_known_args(argv)
        # --tasks and --partition are others
        refuse_misspelt(restore, parser, ("--task", "--perception"))
    if options.multinode and (options.throttle or options.max_array_size):
        raise ConfigError("--throttle, --max-array-size: an array's; leave them out with --multinode")
    return options, restore


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def restore_options(restore: Sequence[str]) -> dict[str, Any]:
    """The options of `restore` that matter here, by their dotted names; --config files are read, the last wins."""
    restore = expand(restore)
    found: dict[str, Any] = {}
    for item, following in zip(restore, [*restore[1:], ""], strict=True):
        name, equals, value = item.partition("=")
        value = value if equals else following
        name = name.replace("_", "-")
        if name in ("--config", "-c"):
            found.update(_config_file(value))
        elif name in ("--data.shards", "--data.images", "--data.measured", "--out"):
            found[name[2:]] = yaml.safe_load(value) if value.startswith("[") else value
        elif name.startswith("--data.params."):
            parameter = item.partition("=")[0].removeprefix("--data.params.")
            found["data.params"] = {**found.get("data.params", {}), parameter: value}
        elif name in ("--overwrite", "--retry-failed", "--rank", "--world"):
            found[name[2:]] = yaml.safe_load(value)
    return found


def _config_file(path: str) -> Iterator[tuple[str, Any]]:
    try:
        content = yaml.safe_load(Path(path).read_text()) or {}
        data = content.get("data") or {}
        for name in ("out", "overwrite", "retry_failed", "rank", "world"):
            if content.get(name) is not None:
                yield name.replace("_", "-"), content[name]
        for name in ("shards", "images", "measured", "params"):
            if data.get(name) is not None:
                yield f"data.{name}", data[name]
    except OSError as error:
        raise ConfigError(f"--config: {path}: {error.strerror}") from error
    except (yaml.YAMLError, AttributeError) as error:
        raise ConfigError(
            f"--config: {path} is not a configuration: {' '.join(str(error).split())}"
        ) from error
