"""The error of priors by timestep on photos: the table of a model card.

    python -m benchmarks.eps_mse                      # the prior that ships, on the photos that it never saw
    python -m benchmarks.eps_mse FOLDER FOLDER --draws 8

Mean over photos and pixels of (eps - z)^2 at x_t = alpha_t x0 + sigma_t z, in float32. Photos are centre-cropped and
reduced to the prior's size as `reddiff restore` does it. The draws of z are the same for all priors, so the difference
from the first one is known more precisely than either: its standard error over photos stands behind it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from reddiff_pl.priors import UNet
from reddiff_pl.training.measuring import eps_errors, photos

TIMESTEPS = (10, 50, 100, 200, 400, 600, 800)
VAL = Path(__file__).parent.parent / "tests" / "data" / "val-000000.tar"


def row(name: str, losses: Tensor, first: Tensor | None = None) -> str:
    """A line of the table; with `first`, how far it is from that one, with the standard error."""
    cells = [f"{v:#.4g}".replace("0.", ".", 1) for v in losses.mean(0).tolist()]
    if first is not None:
        difference = losses - first
        error = difference.std(0) / len(losses) ** 0.5
        cells = [
            f"{cell} ({100 * d / base:+.2f} ± {100 * e / base:.2f} %)"
            for cell, d, e, base in zip(
                cells, difference.mean(0).tolist(), error.tolist(), first.mean(0).tolist(), strict=True
            )
        ]
    return f"| {name} | {' | '.join(cells)} |"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("priors", nargs="*", help="diffusers folders; default: the one that ships")
    parser.add_argument("--photos", nargs="+", default=[str(VAL)], help="shards (default: the val photos)")
    parser.add_argument("--modulus", type=int, default=1, help="take photos whose photo_id it divides")
    parser.add_argument("--draws", type=int, default=2, help="of noise for each photo and t (default: 2)")
    arguments = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    first = None
    for path in arguments.priors or [None]:
        prior = UNet(path, precision="32").to(device)
        if first is None:
            x = photos(arguments.photos, None, prior.shape, arguments.modulus)
            print(f"{len(x)} photos, {arguments.draws} draws")
            print(f"| t | {' | '.join(map(str, TIMESTEPS))} |\n|---|{'---|' * len(TIMESTEPS)}")
        losses = eps_errors(prior, x, TIMESTEPS, arguments.draws)
        print(row(Path(path).name if path else "the one that ships", losses, first), flush=True)
        first = losses if first is None else first
    return 0


if __name__ == "__main__":
    sys.exit(main())
