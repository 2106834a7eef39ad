"""The options of `reddiff report`. No torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from reddiff_pl.options.parser import Parser, natural


def parse_report(argv: Sequence[str]) -> argparse.Namespace:
    """
    Raises:
        ConfigError: a bad option.
    """
    parser = Parser("reddiff report", description="One HTML file about a run, finished or not.")
    parser.add_argument("out", metavar="OUT", help="output directory of the run")
    parser.add_argument(
        "--inputs",
        metavar="TARS",
        help="where the run's inputs are, if no longer where its configuration says; they give the references",
    )
    parser.add_argument(
        "--beside",
        metavar="OUT",
        action="append",
        default=[],
        help="another run on the same inputs, the dial at another place say: its images to slide over this one's; may "
        "be given several times",
    )
    parser.add_argument(
        "--by", metavar="METRIC", help="metric that says best and worst (default: psnr, else misfit)"
    )
    parser.add_argument(
        "--images",
        metavar="N",
        type=natural,
        default=1000,
        help="images shown, a sample of all if there are more (default: %(default)s)",
    )
    parser.add_argument(
        "--megabytes",
        metavar="MB",
        type=natural,
        default=16,
        help="size of the pictures in the page, about (default: %(default)s)",
    )
    return parser.parse_args(argv)
