"""`restore` and `degrade`: options are the constructors' arguments of Restoration, ShardDataModule and Trainer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.plugins.environments import LightningEnvironment
from tqdm import tqdm

from reddiff_pl import stop
from reddiff_pl.batch_size import WITHOUT_GPU, choose
from reddiff_pl.config import batch_size_there, clear, guard, physics_beside, shipped
from reddiff_pl.datamodule import ShardDataModule
from reddiff_pl.errors import ConfigError, OutputError, Stopped, TooManyFailed
from reddiff_pl.lazy_cli import LazyCLI
from reddiff_pl.logs import log_to, quiet_libraries
from reddiff_pl.output import Members, Progress, ShardOutput, write_batch
from reddiff_pl.physics import NoNoise
from reddiff_pl.restoration import Restoration
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import total, write_atomically
from reddiff_pl.shards.placement import place
from reddiff_pl.shards.plan import plan
from reddiff_pl.shards.samples import Sample, members_of
from reddiff_pl.shards.stores import publish, publish_missing

log = logging.getLogger(__name__)

ALL_RESTORED, CRASHED, BAD_CONFIGURATION, SOME_FAILED, TOO_MANY_FAILED = 0, 1, 2, 3, 4

TRAINER_DEFAULTS: dict[str, Any] = {
    "inference_mode": False,  # the optimiser inside predict_step needs autograd
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,  # Progress knows images/s and the time left
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


def run(command: str, argv: list[str]) -> int:
    """Run a command; returns its exit code. An error of configuration is one line on stderr."""
    from reddiff_pl.demo import demo

    quiet_libraries()
    try:
        stop.check()
        if command == "fit":
            from reddiff_pl.training.cli import fit  # diffusers and more

            return fit(argv)
        if command == "sweep":
            from reddiff_pl.sweep.command import run_cells

            return run_cells(argv)
        return {"restore": restore, "degrade": degrade, "demo": demo}[command](argv)
    except ConfigError as error:
        print(f"reddiff {command}: error: {error}", file=sys.stderr)
        return BAD_CONFIGURATION
    except OutputError as error:
        log.error("%s", error)
        return CRASHED
    except TooManyFailed as error:
        log.error("stopped: %s; the reasons are above and in the .failed.jsonl files", error)
        return TOO_MANY_FAILED
    except Stopped:
        log.warning("stopped by a signal; what is finished is kept: run the same command again to go on")
        return stop.exit_code()
    except Exception:
        log.exception("crashed; what is finished is kept: run the same command again to go on")
        return CRASHED


class RestoreCLI(LazyCLI):
    """The options of `restore` and `degrade`.

    Args:
        command: restore or degrade.
        argv: the options.
    """

    def __init__(self, command: str, argv: list[str]) -> None:
        defaults = [shipped("priors/bundled.yaml"), shipped("samplers/reddiff.yaml")]
        super().__init__(command, argv, Restoration, ShardDataModule, TRAINER_DEFAULTS, defaults)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_default_arguments_to_parser(parser)
        parser.add_argument("--limit", type=int | None, help="only the first so many samples, for a preview")
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="delete what is in --out, start anew"
        )
        parser.add_argument("--retry-failed", type=bool, default=False, help="try failed samples again")
        parser.add_argument(
            "--max-failed", type=float, default=1.0, help="stop above this share of failed samples"
        )
        parser.add_argument(
            "--rank", type=int | None, help="which task this is; default: from the environment"
        )
        parser.add_argument("--world", type=int | None, help="how many tasks; default: from the environment")
        parser.add_argument("--publish", type=str | None, help="URL that finished shards are uploaded to")
        parser.add_argument(
            "--trust-physics", type=bool, default=False, help="let physics.yaml name any class"
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in ("seed", "out", "limit", "rank", "world", "retry_failed"):
            parser.link_arguments(name, f"data.{name}")
        parser.link_arguments("seed", "model.seed")
        parser.link_arguments("model.physics", "data.physics", apply_on="instantiate")
        parser.link_arguments("model.noise", "data.noise", apply_on="instantiate")
        for name in ("shape", "classes", "default_label"):
            parser.link_arguments(f"model.prior.{name}", f"data.{name}", apply_on="instantiate")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        # one process is a world of its own: no rendezvous, whatever launched it
        return super().instantiate_trainer(plugins=[LightningEnvironment()], **kwargs)


def restore(argv: list[str]) -> int:
    """Restore what the options say."""
    return restore_with(parse_restore(argv))


def parse_restore(argv: list[str]) -> RestoreCLI:
    """The options of `restore`, with those of a physics.yaml beside the shards.

    Raises:
        ConfigError: an option does not go with restoring.
    """
    cli = RestoreCLI("restore", argv)
    if cli.config.trainer.inference_mode:
        raise ConfigError(
            "--trainer.inference_mode: must be false; the sampler needs gradients of the operator"
        )
    if str(cli.config.trainer.precision or "32-true") not in ("32", "32-true"):
        raise ConfigError(
            "--trainer.precision: leave it at 32; the network's is --model.prior.init_args.precision"
        )
    if cli.config.model.physics is None:
        shards = plan(cli.config.data.shards, cli.config.data.images)
        if path := physics_beside(shards[0].url, cli.config.trust_physics):
            return RestoreCLI("restore", ["--config", path, *argv])
    return cli


def restore_with(cli: RestoreCLI) -> int:
    """Restore with parsed options: all batches of all shards, then the account."""
    run = _prepare_output(cli)
    cli.make()
    cli.model.check(cli.datamodule.degradation.shape)
    stop.check()

    fingerprint = cli.model.prior.fingerprint()
    automatic = cli.config.data.batch_size == "auto"
    if automatic:  # once for a run: the tasks that come later take the number of the first
        device = cli.trainer.strategy.root_device
        cli.config.data.batch_size = batch_size_there(run) or choose(cli.model, cli.datamodule, device)
    guard(run, cli.resolved(), fingerprint, any_batch_size=automatic)
    if automatic:
        cli.datamodule.batch_size = batch_size_there(run) or cli.config.data.batch_size
    cli.model.should_stop = cli.datamodule.should_stop = stop.requested
    url, mine = cli.config.publish, [shard.name for shard in cli.datamodule.shards]
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
            run, [shard.name for shard in cli.datamodule.all_shards], url
        )  # also those of dead tasks
    return _summary(run, cli.datamodule)


def degrade(argv: list[str]) -> int:
    """Write the measurements of clean shards or folders as shards, with their operator beside them."""
    cli = RestoreCLI("degrade", argv)
    if cli.config.publish is not None:
        raise ConfigError("--publish: degrade does not upload; copy the shards and physics.yaml yourself")
    run = _prepare_output(cli)
    cli.make()
    guard(run, cli.resolved(), "none")
    data, degradation = cli.datamodule, cli.datamodule.degradation
    data.should_stop = stop.requested
    data.batch_size = data.batch_size or WITHOUT_GPU  # the bytes do not depend on it
    data.classes = 0  # measurements are made without the prior
    # restored later they are told the same level
    level = degradation.noise.sigma_y if degradation.sigma_y is None else degradation.sigma_y
    record = {"sigma_y": level} if isinstance(level, float) and level else {}

    def members(sample: Sample, row: int) -> Members:
        files = members_of(sample, isinstance(degradation.noise, NoNoise), degradation.scale)
        return files, {**sample.meta, **record}

    for batch in tqdm(data.batches(), unit="batch", mininterval=1):
        write_batch(batch, members, {})
    write_atomically(run.shards / "physics.yaml", _physics_yaml(cli).encode())
    return _summary(run, data)


def _physics_yaml(cli: RestoreCLI) -> str:
    """What `restore` needs to know of the measurements, as a configuration."""
    model = yaml.safe_load(cli.resolved())["model"]
    content: Mapping[str, Any] = {
        "model": {key: model[key] for key in ("physics", "noise") if model.get(key) is not None},
        "data": {"size": cli.datamodule.degradation.shape[-1]},
    }
    return yaml.safe_dump(content, sort_keys=False)


def _prepare_output(cli: RestoreCLI) -> Run:
    """The run's paths; stops where the output directory cannot be one."""
    run = Run(cli.config.out)
    rank, world = place(cli.config.rank, cli.config.world)
    try:
        if cli.config.overwrite:
            if world > 1:
                raise ConfigError(
                    "--overwrite: one task of several cannot; delete the directory before the others start"
                )
            clear(run)
        run.shards.mkdir(parents=True, exist_ok=True)
        log_to(run.log(rank))
    except OSError as error:
        raise ConfigError(f"--out: {run.out} cannot be used as a directory: {error.strerror}") from error
    return run


def _summary(run: Run, data: ShardDataModule) -> int:
    """Say what became of this task's shards. Judged by the shards themselves: a loop may end early in silence."""
    totals = total(run, [shard.name for shard in data.shards])
    log.info("%s -> %s", totals.line(), run.shards)
    if totals.unfinished > len(set(data.held)) and data.limit is None:
        log.error("%d shards are not finished; run the same command again to go on", totals.unfinished)
        return CRASHED
    return SOME_FAILED if totals.failed else ALL_RESTORED
