"""The options of `reddiff demo`. No torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from reddiff_pl.options.parser import Parser


def parse_demo(argv: Sequence[str]) -> argparse.Namespace:
    """
    Raises:
        ConfigError: a bad option.
    """
    parser = Parser(
        "reddiff demo", description="Restore twelve photos, four to a task, and draw OUT/report/overview.png."
    )
    parser.add_argument("--out", default="demo", help="output directory (default: %(default)s)")
    return parser.parse_args(argv)
