"""`reddiff submit`: the scripts of slurm/, filled in and submitted. No torch: it answers at once."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reddiff_pl.cluster.launch import option
from reddiff_pl.cluster.options import parse, restore_options
from reddiff_pl.cluster.sbatch import fill
from reddiff_pl.errors import ConfigError
from reddiff_pl.import_path import python_command
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import finished
from reddiff_pl.shards.plan import plan

ARRAY, MULTINODE, FOLLOW_UP = "restore.sbatch", "restore_multinode.sbatch", "follow_up.sbatch"
DEFAULT_MAX_ARRAY_SIZE = 1001  # SLURM's own
CELLS = "tables"  # the other command that can be submitted


@dataclass(frozen=True)
class Array:
    """One array of a restoration: `count` tasks from `offset` on, at most `throttle` at a time (None: all)."""

    offset: int
    count: int
    throttle: int | None

    @property
    def indices(self) -> str:
        """As sbatch's --array takes it."""
        return f"0-{self.count - 1}" + (f"%{self.throttle}" if self.throttle else "")


def submit(argv: list[str]) -> int:
    """Plan a restoration, write its scripts and submit them.

    Args:
        argv: submit's options and those of `restore`.

    Returns:
        0: submitted, or nothing is left to do.

    Raises:
        ConfigError: an option is wrong, there is no sbatch, or it refuses.
    """
    options, restore = parse(argv)
    if restore[:1] == [CELLS]:
        return _submit_cells(options, restore[1:])
    given = restore_options(restore)
    if given.get("out") is None:
        raise ConfigError("--out: needed; it may also stand in a --config")
    if {"rank", "world"} & given.keys():
        raise ConfigError("--rank and --world: every task finds its own; leave them out")
    if given.get("overwrite"):
        raise ConfigError(
            "--overwrite: each task would, at each start; delete the directory and leave it out"
        )
    _check_slurm(options)
    run = Run(str(given["out"]))
    tasks = options.multinode[0] * options.multinode[1] if options.multinode else options.tasks
    scripts = _scripts(options, restore, run)
    left = _print_plan(run, given, tasks)
    return _go(options, run, scripts, bool(left or given.get("retry-failed")))


def _submit_cells(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Submit `reddiff tables`, whose tasks share its cells.

    Raises:
        ConfigError: as `submit`; what `tables` says of its options.
    """
    out = option(arguments, "out")
    if out is None:
        raise ConfigError("--out: needed")
    if options.follow_up:
        raise ConfigError(f"--follow-up: the last task of {CELLS} judges and writes them; leave it out")
    _check_slurm(options)
    run = Run(str(out))
    scripts = _scripts(options, arguments, run, CELLS)
    command = [*python_command(), CELLS, "--dry-run", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(done.stderr.strip().rpartition("error: ")[2] or f"{CELLS} --dry-run failed")
    print(done.stdout, end="")
    return _go(options, run, scripts, any(line.endswith("to do") for line in done.stdout.splitlines()))


def _check_slurm(options: argparse.Namespace) -> None:
    if not options.dry_run and shutil.which("sbatch") is None:
        raise ConfigError("sbatch: not found; submit on a machine with SLURM, or look with --dry-run")


def _go(options: argparse.Namespace, run: Run, scripts: Sequence[tuple[Path, str]], anything: bool) -> int:
    """Submit the scripts, or print them, if there is anything to do."""
    if not anything:
        print("nothing is left to do; nothing is submitted")
        return 0
    if options.dry_run:
        for path, text in scripts:
            print(f"\n# {path}\n{text}", end="")
        return 0
    return _submit(run, scripts, options.follow_up)


def _print_plan(run: Run, given: Mapping[str, Any], tasks: int) -> int:
    """Print what is to do; returns the number of shards that are not finished."""
    named = {name: given.get(f"data.{name}") for name in ("shards", "images", "measured", "params")}
    shards = plan(**named, out=run.out)
    left = sum(finished(run, shard.name) is None for shard in shards)
    each = -(-left // tasks)
    print(f"shards    {len(shards)}, {len(shards) - left} finished, {left} to do -> {run.shards}")
    print(f"tasks     {tasks}, about {each} shard{'s' * (each != 1)} a task")
    if tasks > left > 0:
        print(
            f"warning: {tasks} tasks for {left} shards: {tasks - left} will find nothing to do",
            file=sys.stderr,
        )
    return left


def _scripts(
    options: argparse.Namespace, restore: Sequence[str], run: Run, what: str | None = None
) -> list[tuple[Path, str]]:
    """The scripts to submit, in order: (path, text)."""
    folder = run.out.absolute() / "slurm"
    place: dict[str, str | None] = {"chdir": str(Path.cwd())}
    place |= {name: value for name in ("partition", "account") if (value := getattr(options, name))}
    resources = dict(place)
    for name in ("time", "cpus_per_task", "mem"):
        if (value := getattr(options, name)) is not None:
            resources[name.replace("_", "-")] = str(value)
    gres = options.gres or f"gpu:{options.multinode[1] if options.multinode else 1}"
    resources["gres"] = None if gres == "none" else gres
    command = options.command or ("reddiff" if options.setup else shlex.join(python_command()))
    lines = {"setup": options.setup, "command": command}

    if options.multinode:
        nodes, tasks = options.multinode
        resources |= {"nodes": str(nodes), "ntasks-per-node": str(tasks), "output": f"{folder}/%j.out"}
        text = fill(
            MULTINODE,
            resources,
            options.sbatch_arg,
            arguments=restore,
            what=what,
            **lines,
        )
        scripts = [(folder / MULTINODE, text)]
    else:
        scripts = []
        for array in arrays(options.tasks, options.throttle, options.max_array_size or _max_array_size()):
            resources |= {"array": array.indices, "output": f"{folder}/%A_%a.out"}
            whole = f"REDDIFF_ARRAY_OFFSET={array.offset} REDDIFF_WORLD={options.tasks}"
            text = fill(
                ARRAY, resources, options.sbatch_arg, arguments=restore,
                export=None if array.count == options.tasks else whole, what=what, **lines,
            )  # fmt: skip
            name = ARRAY if not array.offset else ARRAY.replace(".", f"-{array.offset}.")
            scripts.append((folder / name, text))
    if options.follow_up:
        place["output"] = f"{folder}/follow-up-%j.out"
        scripts.append(
            (
                folder / FOLLOW_UP,
                fill(FOLLOW_UP, place, arguments=[str(run.out)], **lines),
            )
        )
    return scripts


def arrays(tasks: int, throttle: int | None, largest: int) -> list[Array]:
    """Split tasks into arrays of at most `largest`, which share the throttle.

    Raises:
        ConfigError: the throttle is smaller than the number of arrays.
    """
    count = -(-tasks // largest)
    if throttle is not None and throttle < count:
        raise ConfigError(f"--throttle: {count} arrays cannot share {throttle}; give fewer --tasks")
    return [
        Array(
            offset,
            min(largest, tasks - offset),
            None if throttle is None else throttle // count + (i < throttle % count),
        )
        for i, offset in enumerate(range(0, tasks, largest))
    ]


def _max_array_size() -> int:
    try:
        shown = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return DEFAULT_MAX_ARRAY_SIZE
    size = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown, re.MULTILINE)
    return max(int(size.group(1)), 1) if size else DEFAULT_MAX_ARRAY_SIZE


def _submit(run: Run, scripts: Sequence[tuple[Path, str]], follow_up: bool) -> int:
    jobs: list[str] = []
    for i, (path, text) in enumerate(scripts):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            raise ConfigError(f"--out: {path} cannot be written: {error.strerror}") from error
        last = follow_up and i == len(scripts) - 1
        after = [f"--dependency=afterany:{':'.join(jobs)}"] if last else []
        done = subprocess.run(["sbatch", "--parsable", *after, str(path)], capture_output=True, text=True)
        if done.returncode:
            before = f"; submitted before it: {', '.join(jobs)}" if jobs else ""
            raise ConfigError(f"{path}: {' '.join(done.stderr.split()) or 'sbatch failed'}{before}")
        jobs.append(done.stdout.strip().split(";")[0])
        print(f"submitted {jobs[-1]}  {path}")
    print(f"logs      {scripts[0][0].parent}/*.out and {run.log(0).parent}/")
    return 0
