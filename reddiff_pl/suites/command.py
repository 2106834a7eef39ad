"""`reddiff tables`: the tables of a paper by one command."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reddiff_pl.cluster.launch import devices, launch, option
from reddiff_pl.errors import ConfigError
from reddiff_pl.options.parser import Parser, refuse_misspelt
from reddiff_pl.restoring.short import expand
from reddiff_pl.shards.placement import place
from reddiff_pl.suites.cells import Row, parse_set, rows, side_of
from reddiff_pl.suites.suite import Suite, load
from reddiff_pl.sweep.running import Work, run, there
from reddiff_pl.sweep.table import Outcome

_PHOTOS = Path(__file__).parents[1] / "assets" / "demo" / "*.tar"
_DESCRIPTION = """The tasks of a paper's tables, by one command, beside what was published: OUT/tables.md, .tex, .json.

A task by a sampler is a cell, an ordinary run in OUT/TASK-SAMPLER. The same command again goes on where it stopped;
several processes (--trainer.devices, SLURM) share the cells. All options that are not below go to `reddiff restore`:
--evaluations, --limit, --data.batch_size, --seed, ..."""
_EPILOG = """examples:
  reddiff tables --suite daps --limit 4 --evaluations 10 --out try/      # twelve photos ship, of which four
  reddiff tables --suite paper --prior adm256/ --data imagenet/val/ --samplers reddiff,reddiff_paper,ddrm --out paper/
  reddiff submit --tasks 8 --time 12:00:00 -- tables --suite daps --prior ffhq256/ --data ffhq/ --out daps/"""


@dataclass(frozen=True)
class _Request:
    out: Path
    suite: Suite
    rows: Sequence[Row]
    side: int
    shared: Sequence[str]
    made_of: Sequence[str]
    judged: Sequence[str]
    dry_run: bool


def tables(argv: list[str]) -> int:
    """Restore a suite's photos in every cell, judge them, and write the tables.

    Returns:
        0 when all cells are restored; else the first that occurs of 2 (a cell's configuration is bad), 4, 1, 3; 85,
        143 or 130 after a signal.

    Raises:
        ConfigError: a bad option, or a suite that is not of the format.
    """
    request = _request(argv)
    if request.dry_run:
        return _show(request)
    gpus = devices(option(request.shared, "trainer.devices"))
    if gpus is not None:
        return launch("tables", argv, gpus)
    return _run(request)


def _parser() -> Parser:
    parser = Parser(
        "reddiff tables",
        usage="reddiff tables --suite NAME --out OUT [options] [options of reddiff restore]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--suite", required=True, metavar="NAME", help="paper, daps, or a file of your own")
    parser.add_argument("--out", required=True, help="output directory, a run for each cell in it")
    parser.add_argument("--prior", help="the diffusion model, a name or a folder (default: bundled)")
    parser.add_argument(
        "--data", metavar="PHOTOS", help="clean photos, a folder or tars (default: twelve that ship)"
    )
    parser.add_argument(
        "--samplers", metavar="NAMES", help="comma-separated names or files (default: the suite's)"
    )
    parser.add_argument(
        "--tasks", metavar="NAMES", help="some of the suite's tasks, comma-separated (default: all)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TASK.OPTION=VALUE",
        help="an option of restore for one task; may be given several times",
    )
    parser.add_argument("--published", metavar="FILE", help="more published figures, in YAML (docs/runs.md)")
    parser.add_argument("--metrics", help="of reddiff evaluate, comma-separated (default: the suite's)")
    parser.add_argument("--weights", metavar="DIR", help="where evaluate's weights are; default: TORCH_HOME")
    parser.add_argument(
        "--download", action="store_true", help="let evaluate download weights that are missing"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the cells and how far they are")
    return parser


def _request(argv: list[str]) -> _Request:
    parser = _parser()
    if "--" in argv:
        cut = argv.index("--")
        given, shared = parser.parse_args(argv[:cut]), argv[cut + 1 :]
    else:
        given, shared = parser.parse_known_args(argv)
        refuse_misspelt(shared, parser, ())
    if option(shared, "overwrite") and place(option(shared, "rank"), option(shared, "world"))[1] > 1:
        raise ConfigError("--overwrite: one of several processes cannot; delete OUT before they start")
    suite = load(given.suite, given.published)
    if given.metrics is not None:
        suite = replace(suite, metrics=_names(given.metrics) or [])
    side = side_of(given.prior, shared)
    # `expand` takes a folder or tars without an option's name as clean photos, as `degrade` does
    photos = expand([given.data or str(_PHOTOS)], "degrade")
    prior = ["--prior", given.prior] if given.prior is not None else []
    out = Path(given.out)
    planned = rows(
        suite,
        _names(given.tasks),
        _names(given.samplers),
        parse_set(given.set),
        shared,
        side,
        out,
        [*prior, *photos],
    )
    judged = ["--metrics", ",".join(suite.metrics)]
    judged += ["--weights", given.weights] if given.weights is not None else []
    judged += ["--download"] if given.download else []
    added = ("--trainer.devices=1", "--rank=", "--world=")  # by `launch`, to each of its processes
    made_of = [*prior, *photos, *(item for item in shared if not item.startswith(added))]
    return _Request(out, suite, planned, side, shared, made_of, judged, given.dry_run)


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"{text}: expects names, comma-separated, each once")
    return names


def _work(request: _Request) -> Work:
    # torch and pyarrow, which --help and --dry-run do without
    from reddiff_pl.suites.table import Table, render, results, write

    def about(outcomes: Mapping[str, Outcome]) -> Table:
        found = results(request.rows, outcomes, request.out)
        return Table(request.suite, found, request.side, request.made_of)

    def save(outcomes: Mapping[str, Outcome]) -> None:
        write(request.out, about(outcomes))

    def end(outcomes: Mapping[str, Outcome]) -> None:
        save(outcomes)
        print(f"\n{render(about(outcomes))}")
        print(f"look at {request.out / 'tables.md'}")

    return Work(request.out, _cells(request), request.judged, save, end)


def _cells(request: _Request) -> dict[str, Sequence[str]]:
    return {row.cell: row.options for row in request.rows if row.options}


def _run(request: _Request) -> int:
    for row in request.rows:
        if row.why:
            print(f"{row.task.name}, {row.sampler}: left out; {row.why}", flush=True)
    if not _cells(request):
        raise ConfigError(f"--tasks: nothing is left to do; {request.rows[0].why}")
    rank, world = place(option(request.shared, "rank"), option(request.shared, "world"))
    return run(_work(request), rank, world)


def _show(request: _Request) -> int:
    """The cells, and how far they are."""
    work = Work(request.out, _cells(request), None, print, print)
    width = max((len(name) for name in work.cells), default=0)
    for row in request.rows:
        if row.why:
            print(f"{row.task.name}, {row.sampler}: left out; {row.why}")
        else:
            print(f"{row.cell:{width}}  {'to do' if there(work, row.cell) is None else 'done'}")
    return 0
