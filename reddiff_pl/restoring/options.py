"""The options of `restore` and `degrade`: the constructors' arguments of Restoration, ShardDataModule and Trainer."""

from __future__ import annotations

from typing import Any

import deepinv
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.plugins.environments import LightningEnvironment

from reddiff_pl.errors import ConfigError
from reddiff_pl.options.annotations import hide, widen_tuples
from reddiff_pl.options.lazy_cli import LazyCLI
from reddiff_pl.options.messages import with_values
from reddiff_pl.options.shipped import shipped
from reddiff_pl.restoring.datamodule import ShardDataModule
from reddiff_pl.restoring.restoration import Restoration
from reddiff_pl.restoring.short import expand
from reddiff_pl.restoring.trainer_options import check_trainer

TRAINER_DEFAULTS: dict[str, Any] = {
    "inference_mode": False,  # the optimiser inside predict_step needs autograd
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,  # Progress knows images/s and the time left
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


class RestoreCLI(LazyCLI):
    """The options of `restore` and `degrade`.

    Args:
        command: restore or degrade.
        argv: the options.
    """

    flags = ("overwrite", "retry-failed", "trust-physics")

    def __init__(self, command: str, argv: list[str]) -> None:
        widen_tuples(deepinv.physics)
        widen_tuples(deepinv.physics.generator)
        hide(deepinv.physics.generator, ("dtype", "device", "rng"))
        defaults = [shipped("priors/bundled.yaml"), shipped("samplers/reddiff.yaml")]
        argv = expand(with_values(argv, self.flags), command)
        super().__init__(command, argv, Restoration, ShardDataModule, TRAINER_DEFAULTS, defaults)
        if not 0 <= self.config.max_failed <= 1:
            raise ConfigError(f"--max-failed: must be a share from 0 to 1, got {self.config.max_failed}")
        check_trainer(self.config.trainer, TRAINER_DEFAULTS)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_default_arguments_to_parser(parser)
        parser.add_argument(
            "--evaluations",
            type=int | None,
            help="forward passes of the network an image; default: as the sampler's options say. DPS and PiGDM take a "
            "gradient with each, which makes it about three times the work",
        )
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
            "--to",
            type=str | None,
            help="folder for the restored images as plain files, at the end; see reddiff export",
        )
        parser.add_argument(
            "--trust-physics", type=bool, default=False, help="let physics.yaml name any class"
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in ("seed", "out", "limit", "rank", "world", "retry_failed"):
            parser.link_arguments(name, f"data.{name}")
        parser.link_arguments("seed", "model.seed")
        parser.link_arguments("evaluations", "model.evaluations")
        parser.link_arguments("model.physics", "data.physics", apply_on="instantiate")
        parser.link_arguments("model.noise", "data.noise", apply_on="instantiate")
        parser.link_arguments("model.generator", "data.generator", apply_on="instantiate")
        for name in ("shape", "classes", "default_label", "words"):
            parser.link_arguments(f"model.prior.{name}", f"data.{name}", apply_on="instantiate")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        # one process is a world of its own: no rendezvous, whatever launched it
        return super().instantiate_trainer(plugins=[LightningEnvironment()], **kwargs)
