"""The options of `reddiff prior`. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reddiff_pl.errors import ConfigError
from reddiff_pl.options.parser import Parser
from reddiff_pl.options.shipped import near

USAGE = """usage: reddiff prior import FILE.pt --out FOLDER [options]
       reddiff prior average FOLDER FOLDER ... --out FOLDER
       reddiff prior measure FOLDER --shards TAR ... | --images PHOTOS [options]

import: turn a checkpoint of the OpenAI ADM family (256x256_diffusion_uncond.pt, ffhq_10m.pt, 256x256_classifier.pt,
...) into a folder with config.json, safetensors and scheduler_config.json.
average: the mean of the weights of priors that were trained on from the same weights.
measure: write the error of a prior's eps on photos into its folder; precision auto then computes in 8 bits at the noise
levels at which that is as good as float32.
Each lists its options with --help.
"""
BETAS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}  # as diffusers calls them


def parse_prior(argv: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """What is to be done, import, average or measure, and its options.

    Raises:
        ConfigError: a bad option.
    """
    actions = {"import": _import, "average": _average, "measure": _measure}
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        raise SystemExit(0)
    if not argv or argv[0] not in actions:
        said = (
            f"no action {argv[0]}{near(argv[0], actions)}"
            if argv
            else "give an action: import, average or measure"
        )
        raise ConfigError(f"{said}; see reddiff prior --help")
    options = vars(actions[argv[0]]().parse_args(argv[1:]))
    for name in ("count", "draws", "modulus"):
        if options.get(name, 1) < 1:
            raise ConfigError(f"--{name}: must be at least 1, got {options[name]}")
    return argv[0], options


def _import() -> Parser:
    parser = Parser(
        "reddiff prior import",
        description="A checkpoint of the OpenAI ADM family becomes a folder that the priors read.",
    )
    parser.add_argument(
        "file", help="the checkpoint; read as tensors only, a file with code in it is refused"
    )
    parser.add_argument("--out", required=True, help="folder to make")
    parser.add_argument(
        "--dtype", choices=["float32", "float16"], default="float32", help="type of the weights in the folder"
    )
    parser.add_argument(
        "--image-size", type=int, help="side of its images; default: by the tensors or the name"
    )
    parser.add_argument(
        "--head-channels", type=int, default=64, help="channels of an attention head (default: %(default)s)"
    )
    parser.add_argument(
        "--attention-order",
        choices=["legacy", "new"],
        help="rows of qkv head by head, or q, k, v one after the other; default: by the name, else legacy",
    )
    parser.add_argument(
        "--schedule", choices=list(BETAS), help="noise schedule; default: by the name, else linear"
    )
    parser.add_argument(
        "--timesteps", type=int, help="steps of the schedule it was trained with (default: 1000)"
    )
    return parser


def _average() -> Parser:
    parser = Parser(
        "reddiff prior average",
        description="Write the mean of the weights of several priors of one architecture, trained on from the same "
        "weights (--model.init_from of reddiff fit). A folder named twice counts twice.",
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="folders as reddiff fit leaves them")
    parser.add_argument("--out", required=True, help="folder to make")
    return parser


def _measure() -> Parser:
    parser = Parser(
        "reddiff prior measure",
        description="Write the error of a prior's eps on photos, by timestep and precision, into its folder "
        "(eps_error.json). With it, precision auto computes in 8 bits where that is as good as float32. Run it on the "
        "kind of GPU that will restore.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="a prior's diffusers folder")
    parser.add_argument("--shards", nargs="+", metavar="TAR", help="tars of clean photos")
    parser.add_argument("--images", metavar="PHOTOS", help="a folder of clean photos instead")
    parser.add_argument("--count", type=int, default=128, help="photos, spread evenly (default: %(default)s)")
    parser.add_argument(
        "--draws", type=int, default=4, help="of noise for each photo and level (default: %(default)s)"
    )
    parser.add_argument("--modulus", type=int, default=1, help="only photos whose photo_id it divides")
    return parser
