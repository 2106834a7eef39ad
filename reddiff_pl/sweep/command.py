"""`reddiff sweep`: one run of `restore` for every combination of some options, a table and a picture of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reddiff_pl.cluster.launch import devices, launch, option
from reddiff_pl.errors import ConfigError
from reddiff_pl.options.parser import Parser
from reddiff_pl.shards.placement import place
from reddiff_pl.sweep.cells import Cell, Varied, cells, options, varied
from reddiff_pl.sweep.running import Work, run
from reddiff_pl.sweep.table import Outcome, render, write

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
    """The cells, and what came of them."""
    request = _request(argv)
    base = request.base
    rank, world = place(option(base, "rank"), option(base, "world"))
    added = ("--trainer.devices=1", "--rank=", "--world=")  # by `launch`, to each of its processes
    shared = [item for item in base if not item.startswith(added)]

    def save(outcomes: Mapping[str, Outcome]) -> None:
        write(request.out, request.grid, request.cells, outcomes, shared)

    def end(outcomes: Mapping[str, Outcome]) -> None:
        save(outcomes)
        print(f"\n{render(request.grid, request.cells, outcomes)}")
        from reddiff_pl.sweep.picture import draw  # matplotlib

        if draw(request.out / "sweep.png", request.grid, request.cells, outcomes):
            print(f"look at {request.out / 'sweep.png'}")

    judged = None
    if request.metrics is not None:
        judged = [] if request.metrics == "all" else ["--metrics", request.metrics]
    argvs = {cell.name: options(cell, request.grid, base, request.out) for cell in request.cells}
    return run(Work(request.out, argvs, judged, save, end), rank, world)
