"""The options of `reddiff prior`. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reddiff_pl.errors import ConfigError
from reddiff_pl.options.parser import Parser
from reddiff_pl.options.shipped import near

USAGE = """usage: reddiff prior import FILE.pt --out FOLDER [options]
       reddiff prior average FOLDER FOLDER ... --out FOLDER

import: turn a checkpoint of the OpenAI ADM family (256x256_diffusion_uncond.pt, ffhq_10m.pt, 256x256_classifier.pt,
...) into a folder with config.json, safetensors and scheduler_config.json.
average: the mean of the weights of priors that were trained on from the same weights.
`reddiff prior import --help` and `reddiff prior average --help` list the options.
"""
BETAS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}  # as diffusers calls them


def parse_prior(argv: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """What is to be done, import or average, and its options.

    Raises:
        ConfigError: a bad option.
    """
    actions = {"import": _import, "average": _average}
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        raise SystemExit(0)
    if not argv or argv[0] not in actions:
        said = f"no action {argv[0]}{near(argv[0], actions)}" if argv else "give an action: import or average"
        raise ConfigError(f"{said}; see reddiff prior --help")
    return argv[0], vars(actions[argv[0]]().parse_args(argv[1:]))


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
