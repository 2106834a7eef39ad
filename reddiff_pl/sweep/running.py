"""Cells, each an ordinary run of `restore`: done by any number of processes, a whole one at a time."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reddiff_pl import stop
from reddiff_pl.cluster.launch import option
from reddiff_pl.errors import ConfigError, OutputError, Stopped, TooManyFailed
from reddiff_pl.exit_codes import (
    ALL_RESTORED,
    BAD_CONFIGURATION,
    CRASHED,
    SOME_FAILED,
    TOO_MANY_FAILED,
    joint,
)
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import finished, total
from reddiff_pl.shards.lock import ShardLock
from reddiff_pl.shards.survey import planned_shards
from reddiff_pl.sweep.table import Outcome, outcome

_HELD = "being restored by another process"
_PATIENCE = 10.0  # seconds

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        out: the cells' runs are in OUT/name.
        cells: {name: options of its `restore`, --out=OUT/name, --rank=0 and --world=1 among them}.
        judged: options of `reddiff evaluate`, which each cell is judged by, too; None: by what `restore` measures.
        write: writes down what has come of the cells so far.
        end: the same under a lock, when this process is through: the last one to end has all.
    """

    out: Path
    cells: Mapping[str, Sequence[str]]
    judged: Sequence[str] | None
    write: Callable[[Mapping[str, Outcome]], None]
    end: Callable[[Mapping[str, Outcome]], None]


def run(work: Work, rank: int, world: int) -> int:
    """The cells, one after another in this process, and what came of them.

    Returns:
        the exit code: 0 when all cells are restored, else the first that occurs of 2, 4, 1, 3.
    """
    names = list(work.cells)
    # processes start apart, and meet where the work of another began
    first = rank * len(names) // world
    outcomes: dict[str, Outcome] = {}
    for number, name in enumerate(names[first:] + names[:first], 1):
        stop.check()
        print(f"cell {number} of {len(names)}: {name}", flush=True)
        done = outcomes[name] = _restore(work, name)
        if done.code:
            print(f"cell {name}: {done.note}", file=sys.stderr, flush=True)
        work.write(outcomes)
    _look_again(work, outcomes)
    lock = ShardLock(work.out / ".sweep.lock")
    while not lock.acquire():
        stop.check()
        time.sleep(0.2)
    try:
        # under the lock, so that the last process to end writes what all have done
        outcomes |= {name: seen for name in _held(outcomes) if (seen := there(work, name))}
        stop.check()
        work.end(outcomes)
    finally:
        lock.release(remove=False)  # removed, it could be held by two
    return joint([done.code for done in outcomes.values()])


def _held(outcomes: Mapping[str, Outcome]) -> list[str]:
    return [name for name, done in outcomes.items() if done.note == _HELD]


def _look_again(work: Work, outcomes: dict[str, Outcome]) -> None:
    """Take up what another process held and left, and wait a little for one that only looks whether all is there."""
    until = time.monotonic() + _PATIENCE
    while held := _held(outcomes):
        for name in held:
            stop.check()
            outcomes[name] = there(work, name) or _restore(work, name)
        if time.monotonic() > until:
            return
        time.sleep(0.2)


def there(work: Work, name: str) -> Outcome | None:
    """A cell as its files have it, whoever wrote them; None while something is left to do."""
    run = Run(work.out / name)
    try:
        shards = list(planned_shards(run))
    except ConfigError:
        return None
    limit = option(work.cells[name], "limit")
    totals = total(run, shards)
    if not all(finished(run, shard) for shard in shards) and (
        limit is None or totals.restored + totals.failed < limit
    ):
        return None
    return outcome(run, shards, SOME_FAILED if totals.failed else ALL_RESTORED)


def _restore(work: Work, name: str) -> Outcome:
    """One cell. Only what would meet all the others too is raised."""
    import torch

    from reddiff_pl.restoring.command import restore_with

    gc.collect()  # the cell before, whose objects know each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    lock = ShardLock(work.out / f"{name}.lock")
    try:
        free = lock.acquire()
    except OSError as error:
        raise ConfigError(f"--out: {work.out} cannot be used as a directory: {error.strerror}") from error
    if not free:
        return Outcome(note=_HELD)
    try:
        cli = _parsed(list(work.cells[name]))
        code = restore_with(cli)
        if work.judged is not None:
            from reddiff_pl.evaluation.command import evaluate

            evaluate([str(work.out / name), *work.judged, "--rank=0", "--world=1"])
        return outcome(Run(work.out / name), [s.name for s in cli.datamodule.todo.all], code)
    except ConfigError as error:
        return Outcome(BAD_CONFIGURATION, str(error))
    except TooManyFailed as error:
        return Outcome(TOO_MANY_FAILED, str(error))
    except (Stopped, OutputError):
        raise
    except Exception as error:
        log.exception("cell %s crashed", name)
        return Outcome(CRASHED, f"{type(error).__name__}: {error}")
    finally:
        lock.release(remove=True)


def _parsed(argv: list[str]) -> Any:
    """The parser of a run; what jsonargparse says of bad options before it exits is the ConfigError's."""
    from reddiff_pl.restoring.command import parse_restore

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse_restore(argv)
    except SystemExit as error:
        if not error.code:
            raise
        found = re.search(r"error: (.*)", said.getvalue(), re.DOTALL)
        raise ConfigError(" ".join((found[1] if found else said.getvalue()).split())) from error
