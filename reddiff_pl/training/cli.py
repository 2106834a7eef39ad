"""`fit`: options are the constructors' arguments of PriorTraining, PhotoCrops and Trainer."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy

from reddiff_pl import stop
from reddiff_pl.errors import ConfigError, Stopped
from reddiff_pl.files import write_atomically
from reddiff_pl.logs import log_early, log_to
from reddiff_pl.options.lazy_cli import LazyCLI
from reddiff_pl.training.files import Training
from reddiff_pl.training.module import PriorTraining
from reddiff_pl.training.photos import PhotoCrops

log = logging.getLogger(__name__)

TRAINER_DEFAULTS: dict[str, Any] = {
    "devices": 1,
    "max_epochs": 1,  # an epoch without end: the budget is the model's
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
}


class FitCLI(LazyCLI):
    """The options of `fit`.

    Args:
        argv: the options.
    """

    seed_help = "the training's seed"

    def __init__(self, argv: list[str]) -> None:
        super().__init__("fit", argv, PriorTraining, PhotoCrops, TRAINER_DEFAULTS)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in ("seed", "out"):
            parser.link_arguments(name, f"model.{name}")
        parser.link_arguments("model.shape", "data.shape", apply_on="instantiate")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        plugins: list[Any] = []
        several = self.config.trainer.num_nodes > 1 or str(self.config.trainer.devices) != "1"
        if not several:
            plugins.append(LightningEnvironment())
        elif SLURMEnvironment.detect():
            # its own requeueing would save and restart beside ours
            plugins.append(SLURMEnvironment(auto_requeue=False))
        if several and self.config.trainer.strategy in ("auto", "ddp"):
            # the schedule's tables, the only buffers, never change
            kwargs["strategy"] = DDPStrategy(broadcast_buffers=False)
        trainer = super().instantiate_trainer(plugins=plugins or None, **kwargs)
        # Lightning's answers to signals wait for the device at every step, and can block inside the handler; stop.py
        # and PriorTraining do all of it
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        return trainer


def fit(argv: list[str]) -> int:
    """Train a prior as the options say."""
    cli = FitCLI(argv)
    paths = Training(Path(cli.config.out))
    log_early()
    cli.make()  # a start that is refused leaves nothing behind
    rank = int(next((os.environ[n] for n in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if n in os.environ), "0"))
    try:
        log_to(paths.text(rank))
        if rank == 0:
            write_atomically(paths.out / "config.yaml", cli.resolved().encode())
    except OSError as error:
        raise ConfigError(f"--out: {paths.out} cannot be used as a directory: {error.strerror}") from error
    if rank > 0:
        logging.getLogger("reddiff_pl").setLevel(logging.WARNING)  # the first process says it
    stop.check()
    if cli.trainer.strategy.root_device.type == "cuda":
        # TF32 where autocast leaves float32
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    except BaseException:
        for child in _children(cli):
            child.kill()  # they may wait for this one for ever
        raise
    for child in _children(cli):
        child.wait(timeout=120)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if stop.requested() and not cli.model.is_over():
        environment = getattr(cli.trainer.strategy, "cluster_environment", None)
        if cli.trainer.global_rank > 0 and isinstance(environment, LightningEnvironment):
            return 0  # the first process gives the code; any but 0 from this one would have it killed
        raise Stopped
    log.info("%d steps -> %s", cli.model.step, paths.prior)
    return 0


def _children(cli: FitCLI) -> list[subprocess.Popen[bytes]]:
    """The processes that Lightning started beside this one, if it did."""
    return getattr(cli.trainer.strategy.launcher, "procs", [])
