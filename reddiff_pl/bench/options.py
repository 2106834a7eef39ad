"""The options of `reddiff bench`. No torch: its help comes at once."""

from __future__ import annotations

import argparse
from typing import Any

import yaml

from reddiff_pl.errors import ConfigError
from reddiff_pl.options.parser import Parser, natural

PARTS = ("forward", "loop", "disk", "reference", "dps", "start")
PRECISIONS = ("32", "16", "bf16")

_EPILOG = """examples:
  reddiff bench --out bench/                                     # the bundled prior, on a GPU if there is one
  reddiff bench --out bench/ --network adm256                    # a random network of the ADM family, 256x256
  reddiff bench --out bench/ --network folder/ --batch-sizes 32 --what forward,loop \\
    --variant graph=false --variant fused=false,graph=false      # the prior's options beside each other
"""


def parse(argv: list[str]) -> argparse.Namespace:
    """The options of `reddiff bench`.

    Raises:
        ConfigError: a bad one.
    """
    parser = Parser(
        "reddiff bench",
        description="The speed of this machine in one run: the network alone, whole restorations, disk to disk, and a "
        "plain loop for comparison. Random inputs; half of the pixels missing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", required=True, help="directory for bench.json, bench.md and logs")
    add(
        "--network",
        default="bundled",
        help="bundled; adm256, a random one of 552.8 million parameters; or a diffusers folder (default: %(default)s)",
    )
    add(
        "--what",
        type=_words,
        default=list(PARTS),
        help=f"comma-separated, of {', '.join(PARTS)}; loop is the samplers, start the cold and warm start "
        "(default: all)",
    )
    add("--batch-sizes", type=_numbers, help="comma-separated (default: 1,8,16,32 on a GPU, 1,4 without)")
    add(
        "--steps",
        type=natural,
        help="network evaluations an image in loops and disk to disk; the plain loop does a fifth, DPS a tenth "
        "(default: 100 on a GPU, 10 without)",
    )
    add("--precision", help="of the package's prior: its own words; default: its own default")
    add(
        "--reference",
        type=_words,
        help="precisions of the plain loop, comma-separated, of 32, 16 and bf16 (default: all, 32 and bf16 without "
        "a GPU)",
    )
    add(
        "--variant",
        type=_settings,
        action="append",
        default=[],
        metavar="KEY=VALUE,...",
        help="further arguments of the package's prior, measured beside its defaults in forward and loop; may be "
        "given several times",
    )
    add("--repeats", type=natural, default=5, help="measurements of a row at most (default: %(default)s)")
    add(
        "--seconds",
        type=float,
        default=5.0,
        help="a row is not measured again after so many (default: %(default)s)",
    )
    add(
        "--disk-batches",
        type=natural,
        help="batches that disk to disk is timed over (default: 10 s of them)",
    )
    add("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")
    add("--work", metavar="DIR", help="folder for made networks and shards, kept; default: a temporary one")
    add(
        "--silence",
        type=float,
        default=600.0,
        help="seconds after which a row is given up (default: %(default)s)",
    )
    add("--minutes", type=float, help="time for everything; rows beyond are left out")
    options = parser.parse_args(argv)
    for name, known in (("what", PARTS), ("reference", PRECISIONS)):
        if unknown := [word for word in getattr(options, name) or [] if word not in known]:
            raise ConfigError(f"--{name}: no {unknown[0]}; choose of {', '.join(known)}")
    return options


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    return [natural(word) for word in _words(text)]


def _settings(text: str) -> dict[str, Any]:
    pairs = [word.partition("=") for word in _words(text)]
    if not pairs or not all(name and value for name, _, value in pairs):
        raise argparse.ArgumentTypeError(f"expects KEY=VALUE,..., got {text}")
    # a precision is a word, also where it looks like a number
    return {name: value if name == "precision" else yaml.safe_load(value) for name, _, value in pairs}
