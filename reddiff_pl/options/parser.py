"""The parser of all commands whose options are their own. No torch: their help comes at once."""

from __future__ import annotations

import argparse
from typing import Any

from reddiff_pl.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Bad options are one line, without the usage."""

    def error(self, message: str) -> Any:
        raise ConfigError(message)
