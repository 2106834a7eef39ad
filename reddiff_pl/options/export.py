"""The options of `reddiff export`. No torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from reddiff_pl.errors import ConfigError
from reddiff_pl.options.parser import Parser

FORMATS = ("png", "png16", "tiff", "jpg", "webp", "npy")
QUALITY = 95  # of jpg and webp


def parse_export(argv: Sequence[str]) -> argparse.Namespace:
    """
    Raises:
        ConfigError: a bad option.
    """
    parser = Parser("reddiff export", description="The restored images of a run as plain files. Resumable.")
    parser.add_argument("out", metavar="OUT", help="output directory of the run")
    parser.add_argument("to", metavar="DIR", help="folder for the files, outside OUT and the inputs")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="kind of the files: png (8 bit), png16, tiff (as deep as it is), jpg, webp, npy; default: as in OUT",
    )
    parser.add_argument(
        "--quality", type=int, default=QUALITY, help="of jpg and webp, 1 to 100 (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    if not 1 <= options.quality <= 100:
        raise ConfigError(f"--quality: must be from 1 to 100, got {options.quality}")
    return options
