"""The options of `reddiff evaluate` and `reddiff compare`. No torch: their help, and what is wrong, come at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from reddiff_pl.errors import ConfigError
from reddiff_pl.options.parser import Parser

# those of single images, those that networks see, those of sets of images
METRICS = (
    *("psnr", "ssim", "msssim", "haarpsi", "gmsd", "flip", "spectrum", "niqe", "misfit", "lpips"),
    *("patches", "fid", "kid", "fd", "kd", "top"),
)
LABELS = ("imagenet_label", "label")  # keys of the metadata that hold the class


def parse_evaluate(argv: Sequence[str]) -> argparse.Namespace:
    """
    Raises:
        ConfigError: a bad option.
    """
    parser = Parser(
        "reddiff evaluate", description="Metrics of a run, finished or not. Nothing is downloaded."
    )
    parser.add_argument("out", metavar="OUT", help="output directory of the run")
    parser.add_argument(
        "--metrics",
        help=f"comma-separated, of {', '.join(METRICS)}; fid and kid need Inception, fd, kd and top are those of "
        "--network, patches compares parts of images by EfficientNet-Lite0. Default: all whose weights are there",
    )
    parser.add_argument(
        "--network",
        action="append",
        metavar="CLASS",
        help="feature network: class path of a torch.nn.Module, or {class_path: ..., init_args: ...}; uint8 "
        "(B,3,H,W) to (B,d); may be given several times. Default: EfficientNet-Lite0",
    )
    parser.add_argument("--weights", metavar="DIR", help="where weights are; default: TORCH_HOME")
    parser.add_argument("--download", action="store_true", help="download weights that are missing")
    parser.add_argument(
        "--label", help=f"key of the metadata that holds the class; default: {' or '.join(LABELS)}"
    )
    parser.add_argument("--inputs", metavar="URL", help="where the run's inputs are, if they were moved")
    parser.add_argument("--partial", action="store_true", help="also shards that are still being written")
    parser.add_argument("--merge", action="store_true", help="compute nothing, add up what is there")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    parser.add_argument("--batch-size", type=int, default=32, help="images at a time (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="decoding threads (default: %(default)s)")
    parser.add_argument("--rank", type=int, help="which task this is; default: from the environment")
    parser.add_argument("--world", type=int, help="how many tasks; default: from the environment")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap and of kernel subsets")
    options = parser.parse_args(argv)
    for name in ("batch_size", "workers"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: must be at least 1, got {getattr(options, name)}")
    if options.seed < 0:
        raise ConfigError(f"--seed: must not be negative, got {options.seed}")
    return options


def parse_compare(argv: Sequence[str]) -> argparse.Namespace:
    """
    Raises:
        ConfigError: a bad option.
    """
    parser = Parser(
        "reddiff compare", description="Runs beside each other; differences are to the first one."
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="output directory, or NAME=directory; evaluated"
    )
    parser.add_argument("--out", default="comparison", help="where the files go (default: %(default)s)")
    parser.add_argument("--images", type=int, default=8, help="images in the picture (default: %(default)s)")
    parser.add_argument("--keys", help="these images instead, comma-separated")
    parser.add_argument("--inputs", metavar="URL", help="where the runs' inputs are, if they were moved")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    options = parser.parse_args(argv)
    if len(options.runs) < 2:
        raise ConfigError("RUN: give two runs or more")
    if options.images < 1:
        raise ConfigError(f"--images: must be at least 1, got {options.images}")
    return options
