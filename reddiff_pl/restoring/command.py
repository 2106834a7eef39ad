"""`restore`: all batches of all shards, then the account."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from reddiff_pl import stop
from reddiff_pl.errors import ConfigError
from reddiff_pl.exit_codes import ALL_RESTORED, CRASHED, SOME_FAILED
from reddiff_pl.exporting.command import export_to, inputs_of
from reddiff_pl.exporting.target import check
from reddiff_pl.files import clear_leftovers
from reddiff_pl.logs import log_early, log_to
from reddiff_pl.restoring.batch_size import choose
from reddiff_pl.restoring.config import batch_size_there, clear, guard
from reddiff_pl.restoring.datamodule import ShardDataModule
from reddiff_pl.restoring.options import RestoreCLI
from reddiff_pl.restoring.output import Progress, ShardOutput
from reddiff_pl.restoring.physics_yaml import check_parsed, parse_with, physics_beside
from reddiff_pl.shards.folder import not_looked_at
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import total
from reddiff_pl.shards.metadata import far_line
from reddiff_pl.shards.placement import place
from reddiff_pl.shards.plan import folder_mark, is_remote, plan
from reddiff_pl.shards.publishing import publish, publish_missing

log = logging.getLogger(__name__)


def restore(argv: list[str]) -> int:
    """Restore what the options say."""
    return restore_with(parse_restore(argv))


def parse_restore(argv: list[str]) -> RestoreCLI:
    """The options of `restore`, with those of a physics.yaml beside the shards.

    Raises:
        ConfigError: an option does not go with restoring.
    """
    cli = RestoreCLI("restore", argv)
    if cli.config.model.physics is None:
        data = cli.config.data
        shards = plan(data.shards, data.images, data.measured, data.params, cli.config.out)
        trust = cli.config.trust_physics
        if path := physics_beside(shards[0].place, trust):
            given = cli.config.model.noise  # the user's own, which wins
            cli = parse_with(path, trust, lambda first: RestoreCLI("restore", [*first, *argv]))
            model = cli.config.model
            parts = {"model.physics": model.physics} | ({} if given else {"model.noise": model.noise})
            if not trust:
                check_parsed(path, parts)
    return cli


def restore_with(cli: RestoreCLI) -> int:
    """Restore with parsed options: all batches of all shards, then the account."""
    check_to(cli)
    check_output(cli)
    cli.make()
    cli.model.check(cli.datamodule.degradation.shape)
    run = prepare_output(cli)
    tell_inputs(cli.datamodule, ", then restored")
    stop.check()

    fingerprint = cli.model.prior.fingerprint()
    automatic = cli.config.data.batch_size == "auto"
    if automatic:  # once for a run: the tasks that come later take the number of the first
        device = cli.trainer.strategy.root_device
        cli.config.data.batch_size = batch_size_there(run) or choose(cli.model, cli.datamodule, device)
    precision = cli.model.prior.precision_on(cli.trainer.strategy.root_device)
    guard(run, cli.resolved(), fingerprint, automatic, folder_mark(cli.datamodule.todo.all), precision)
    if automatic:
        cli.datamodule.batching.size = batch_size_there(run) or cli.config.data.batch_size
    cli.model.should_stop = cli.datamodule.batching.should_stop = stop.requested
    url, mine = cli.config.publish, [shard.name for shard in cli.datamodule.todo.shards]
    if url is not None:
        publish_missing(run, mine, url)  # what an earlier run finished, and an URL that cannot be written
    output = ShardOutput(
        {"prior_sha256": fingerprint},
        cli.config.max_failed,
        committed=None if url is None else lambda name: publish(run, name, url),
    )
    cli.trainer.callbacks += [output, Progress()]  # type: ignore[attr-defined]
    cli.trainer.predict(cli.model, datamodule=cli.datamodule, return_predictions=False)
    if url is not None:
        publish_missing(
            run, [shard.name for shard in cli.datamodule.todo.all], url
        )  # also those of dead tasks
    code = summary(run, cli.datamodule)
    if cli.config.to is None or code not in (ALL_RESTORED, SOME_FAILED):
        return code
    return max(code, export_to(run, Path(cli.config.to)))


def check_to(cli: RestoreCLI) -> None:
    """Stop where the folder for plain files cannot be one, before any work.

    Raises:
        ConfigError: it is, holds or lies in the inputs or OUT, or this is one task of several.
    """
    if cli.config.to is None:
        return
    if place(cli.config.rank, cli.config.world)[1] > 1:
        raise ConfigError("--to: one task of several cannot; run reddiff export OUT DIR when all are through")
    check(Path(cli.config.to), Path(cli.config.out), inputs_of(vars(cli.config.data)), "--to")


def check_output(cli: RestoreCLI) -> None:
    """Stop where the output directory cannot be one, before anything is made or written.

    Raises:
        ConfigError: why.
    """
    log_early()
    if cli.config.overwrite and place(cli.config.rank, cli.config.world)[1] > 1:
        raise ConfigError(
            "--overwrite: one task of several cannot; delete the directory before the others start"
        )
    out = Path(cli.config.out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out: {out} cannot be used as a directory: it is a file")


def prepare_output(cli: RestoreCLI) -> Run:
    """The run's paths, made once all else has been checked: a start that is refused leaves nothing behind.

    Raises:
        ConfigError: they cannot be made, or lie where the inputs do.
    """
    run = Run(cli.config.out)
    rank, _ = place(cli.config.rank, cli.config.world)
    mine = {os.path.realpath(run.out), os.path.realpath(run.shards)}
    for shard in cli.datamodule.todo.all:
        folder = shard.url if shard.images is not None else os.path.dirname(shard.url)
        if not is_remote(shard.url) and os.path.realpath(folder) in mine:
            raise ConfigError(f"--out: {run.out} holds the inputs ({shard.url}); choose another directory")
    try:
        if cli.config.overwrite:
            clear(run)
        run.shards.mkdir(parents=True, exist_ok=True)
        log_to(run.log(rank))
    except OSError as error:
        raise ConfigError(f"--out: {run.out} cannot be used as a directory: {error.strerror}") from error
    return run


def tell_inputs(data: ShardDataModule, then: str = "") -> None:
    """Say what a folder was taken for, and what of it is not looked at; once for all tasks."""
    if data.todo.rank:
        return
    degradation = data.degradation
    fit = "kept whole" if degradation.fit == "whole" else "cropped to {2}x{1}".format(*degradation.shape)
    if line := data.inputs.line(f"{fit}, degraded by {data.inputs.operator}{then}"):
        log.info("%s", line)
    if line := data.inputs.not_looked_at():
        log.warning("%s", line)


def summary(run: Run, data: ShardDataModule, done: str = "restored") -> int:
    """Say what became of this task's shards. Judged by the shards themselves: a loop may end early in silence."""
    totals = total(run, [shard.name for shard in data.todo.shards])
    if not data.todo.rank:  # what killed tasks left
        cleared = clear_leftovers(run.out, below=False) + sum(
            map(clear_leftovers, (run.shards, run.accounts))
        )
        if cleared:
            log.info("%d files of killed tasks were deleted", cleared)
    log.info("%s -> %s", totals.line(done), run.shards)
    others = total(run, set(data.todo.taken) - {shard.name for shard in data.todo.shards})
    if others.shards:
        log.info("and of other tasks' shards: %s", others.line(done))
    if totals.far:
        log.warning("%s", far_line(totals.far, totals.restored))
    if not data.todo.rank and (line := data.inputs.not_looked_at()):
        log.warning("%s", line)
    if line := not_looked_at(totals.not_looked_at):
        log.info("%s", line)
    if totals.unfinished > len(set(data.todo.held)) and data.limit is None:
        log.error("%d shards are not finished; run the same command again to go on", totals.unfinished)
        return CRASHED
    return SOME_FAILED if totals.failed or others.failed else ALL_RESTORED
