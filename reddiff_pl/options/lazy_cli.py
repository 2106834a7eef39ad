"""What `restore` and `fit` have in common: the Lightning CLI that parses first, and makes the objects when told to."""

from __future__ import annotations

import argparse
from typing import Any

import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from reddiff_pl.errors import ConfigError
from reddiff_pl.logs import quiet_libraries
from reddiff_pl.options.messages import check_config_files, of_making, one_line, with_values


class LazyCLI(LightningCLI):
    """Parses the options, and makes the objects when told to.

    Args:
        command: the command's name.
        argv: the options.
        model: the LightningModule's class.
        data: the LightningDataModule's class.
        trainer_defaults: options of the Trainer.
        default_config_files: configurations that come before all others.
    """

    seed_help = "the run's seed"
    flags: tuple[str, ...] = ()  # options that may stand without a value, for true

    def __init__(
        self,
        command: str,
        argv: list[str],
        model: type,
        data: type,
        trainer_defaults: dict[str, Any],
        default_config_files: list[str] | None = None,
    ) -> None:
        quiet_libraries()
        super().__init__(
            model,
            data,
            trainer_defaults=trainer_defaults,
            seed_everything_default=False,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={
                "prog": f"reddiff {command}",
                "description": "Every option is also a key of --config.",
                "default_config_files": default_config_files or [],
                "exit_on_error": False,
            },
            # --help is a page of what people use, see pages.py
            args=["--help" if item == "--help-all" else item for item in with_values(argv, self.flags)],
            run=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        check_config_files(args)
        try:
            self.config = parser.parse_args(args)
        except argparse.ArgumentError as error:
            known = [name for action in parser._actions for name in action.option_strings]
            raise ConfigError(one_line(str(error), known, args)) from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"a file that is named in the options is not UTF-8 ({error})") from error
        if not -(2**63) <= self.config.seed < 2**63:
            raise ConfigError(f"--seed: must be a number of 64 bits, got {self.config.seed}")

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed", type=int, default=0, help=self.seed_help)
        parser.add_argument(
            "--out", type=str, required=True, help="output directory; run again to go on there"
        )

    def _set_seed(self) -> None:
        # what draws at construction, an operator or a network's first weights, must draw the same in every process
        torch.manual_seed(self.config.seed)

    def instantiate_classes(self) -> None:
        """Nothing yet: see `make`."""

    def make(self) -> None:
        """Make the objects. No work has begun, so whatever they raise is a matter of configuration."""
        try:
            super().instantiate_classes()
        except ConfigError:
            raise
        except Exception as error:
            plain = {key: value for key, value in self.config.as_dict().items() if isinstance(value, dict)}
            raise ConfigError(of_making(error, plain)) from error

    def resolved(self) -> str:
        """All options as YAML that --config reads again, nulls too: they may stand against a default."""
        text = self.parser.dump(self.config, skip_none=False)
        return yaml.safe_dump(_plain(yaml.safe_load(text)), sort_keys=False)


def _plain(value: Any) -> Any:
    """Without what YAML cannot hold, such as the lambdas among deepinv's defaults: with or without, they are that."""
    if isinstance(value, dict):
        kept = {key: _plain(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if not str(item).startswith("Unable to serialize")}
    return [_plain(item) for item in value] if isinstance(value, list) else value
