"""`reddiff sweep`: one run of `restore` for every combination of some options, a table and a picture of them."""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import logging
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reddiff_pl import stop
from reddiff_pl.cluster.launch import devices, launch, option
from reddiff_pl.errors import ConfigError, OutputError, Stopped, TooManyFailed
from reddiff_pl.exit_codes import (
    ALL_RESTORED,
    BAD_CONFIGURATION,
    CRASHED,
    SOME_FAILED,
    TOO_MANY_FAILED,
    joint,
)
from reddiff_pl.options.parser import Parser
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import finished, total
from reddiff_pl.shards.lock import ShardLock
from reddiff_pl.shards.placement import place
from reddiff_pl.shards.survey import planned_shards
from reddiff_pl.sweep.cells import Cell, Varied, cells, options, varied
from reddiff_pl.sweep.table import Outcome, outcome, render, write

_HELD = "being restored by another process"
_PATIENCE = 10.0  # seconds

log = logging.getLogger(__name__)

_EPILOG = """example:
  reddiff sweep --out sweep/ \\
    --vary model.sampler.init_args.lam=0.05,0.25,1 --vary model.sampler.init_args.lr=0.05,0.1 \\
    -- --config configs/tasks/superresolution_4x.yaml --config configs/samplers/reddiff_paper.yaml \\
    --data.images photos/ --limit 8
"""


@dataclass
class _Request:
    """What is to be done: the cells of `grid` in `out`, each with the options `base`, and judged by `metrics`."""

    out: Path
    grid: list[Varied]
    cells: list[Cell]
    base: list[str]
    metrics: str | None


def sweep(argv: list[str]) -> int:
    """Restore once for every combination, each an ordinary run in OUT/NAME; then OUT/sweep.md, .csv and .png.

    A finished cell is left alone, a cut one is taken up. Several processes (--trainer.devices, SLURM, --rank) share the
    cells, a whole one at a time; the last to end has the whole table.

    Returns:
        0 when all cells are restored; else the first that occurs of 2 (a cell's configuration is bad), 4, 1, 3; 85,
        143 or 130 after a signal.

    Raises:
        ConfigError: the sweep itself cannot be done.
    """
    request = _request(argv)
    gpus = devices(option(request.base, "trainer.devices"))
    if gpus is not None:
        return launch("sweep", argv, gpus)
    return run_cells(argv)


def _request(argv: list[str]) -> _Request:
    split = argv.index("--") if "--" in argv else len(argv)
    parser = Parser(
        "reddiff sweep",
        usage="reddiff sweep --out OUT --vary OPTION=VALUES [--vary ...] -- OPTIONS OF RESTORE",
        description="One run of restore for every combination of some options, a table and a picture of them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out", required=True, help="output directory, a run for each cell in it; run again to go on"
    )
    parser.add_argument(
        "--vary",
        action="append",
        required=True,
        metavar="OPTION=VALUES",
        help="an option of restore and its values: a,b or [a, b], in YAML; config=a.yaml,b.yaml varies a whole file. "
        "May be given several times",
    )
    parser.add_argument(
        "--metrics",
        help="judge each cell by reddiff evaluate, too: its --metrics, comma-separated, or all",
    )
    given, base = parser.parse_args(argv[:split]), argv[split + 1 :]
    if not base:
        raise ConfigError("give the options of restore behind --, as in: --vary seed=0,1 -- --config ...")
    if option(base, "to") is not None:
        raise ConfigError("--to: a sweep exports nothing; run reddiff export on the cell that you want")
    if option(base, "publish") is not None:
        raise ConfigError("--publish: a sweep does not upload; its cells would replace each other")
    if option(base, "overwrite") and place(option(base, "rank"), option(base, "world"))[1] > 1:
        raise ConfigError("--overwrite: one of several processes cannot; delete OUT before they start")
    grid = varied(given.vary)
    return _Request(Path(given.out), grid, cells(grid), base, given.metrics)


def run_cells(argv: list[str]) -> int:
    """The cells, one after another in this process, and what came of them."""
    request = _request(argv)
    rank, world = place(option(request.base, "rank"), option(request.base, "world"))
    # processes start apart, and meet where the work of another began
    first = rank * len(request.cells) // world
    outcomes: dict[str, Outcome] = {}
    for number, cell in enumerate(request.cells[first:] + request.cells[:first], 1):
        stop.check()
        print(f"cell {number} of {len(request.cells)}: {cell.name}", flush=True)
        done = outcomes[cell.name] = _restore(request, cell)
        if done.code:
            print(f"cell {cell.name}: {done.note}", file=sys.stderr, flush=True)
        _write(request, outcomes)
    _look_again(request, outcomes)
    lock = ShardLock(request.out / ".sweep.lock")
    while not lock.acquire():
        stop.check()
        time.sleep(0.2)
    try:
        # under the lock, so that the last process to end writes what all have done
        outcomes |= {
            cell.name: there for cell in _held(request, outcomes) if (there := _there(request, cell))
        }
        stop.check()
        _write(request, outcomes)
        print(f"\n{render(request.grid, request.cells, outcomes)}")
        from reddiff_pl.sweep.picture import draw  # matplotlib

        if draw(request.out / "sweep.png", request.grid, request.cells, outcomes):
            print(f"look at {request.out / 'sweep.png'}")
    finally:
        lock.release(remove=False)  # removed, it could be held by two
    return joint([done.code for done in outcomes.values()])


def _write(request: _Request, outcomes: Mapping[str, Outcome]) -> None:
    added = ("--trainer.devices=1", "--rank=", "--world=")  # by `launch`, to each of its processes
    base = [item for item in request.base if not item.startswith(added)]
    write(request.out, request.grid, request.cells, outcomes, base)


def _held(request: _Request, outcomes: Mapping[str, Outcome]) -> list[Cell]:
    return [cell for cell in request.cells if outcomes[cell.name].note == _HELD]


def _look_again(request: _Request, outcomes: dict[str, Outcome]) -> None:
    """Take up what another process held and left, and wait a little for one that only looks whether all is there."""
    until = time.monotonic() + _PATIENCE
    while held := _held(request, outcomes):
        for cell in held:
            stop.check()
            outcomes[cell.name] = _there(request, cell) or _restore(request, cell)
        if time.monotonic() > until:
            return
        time.sleep(0.2)


def _there(request: _Request, cell: Cell) -> Outcome | None:
    """A cell that another process holds, as its files have it; None while something is left to do."""
    run = Run(request.out / cell.name)
    try:
        names = list(planned_shards(run))
    except ConfigError:
        return None
    limit = option(options(cell, request.grid, request.base, request.out), "limit")
    totals = total(run, names)
    if not all(finished(run, name) for name in names) and (
        limit is None or totals.restored + totals.failed < limit
    ):
        return None
    return outcome(run, names, SOME_FAILED if totals.failed else ALL_RESTORED)


def _restore(request: _Request, cell: Cell) -> Outcome:
    """One cell. Only what would meet all the others too is raised."""
    import torch

    from reddiff_pl.restoring.command import restore_with

    gc.collect()  # the cell before, whose objects know each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    lock = ShardLock(request.out / f"{cell.name}.lock")
    try:
        free = lock.acquire()
    except OSError as error:
        raise ConfigError(f"--out: {request.out} cannot be used as a directory: {error.strerror}") from error
    if not free:
        return Outcome(note=_HELD)
    try:
        cli = _parsed(options(cell, request.grid, request.base, request.out))
        code = restore_with(cli)
        if request.metrics is not None:
            from reddiff_pl.evaluation.command import evaluate

            metrics = [] if request.metrics == "all" else ["--metrics", request.metrics]
            evaluate([str(request.out / cell.name), *metrics, "--rank=0", "--world=1"])
        return outcome(Run(request.out / cell.name), [s.name for s in cli.datamodule.all_shards], code)
    except ConfigError as error:
        return Outcome(BAD_CONFIGURATION, str(error))
    except TooManyFailed as error:
        return Outcome(TOO_MANY_FAILED, str(error))
    except (Stopped, OutputError):
        raise
    except Exception as error:
        log.exception("cell %s crashed", cell.name)
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
