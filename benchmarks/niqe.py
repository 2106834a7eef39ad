"""Fit NIQE's statistics on photos: how reddiff_pl/assets/niqe/train_photos.safetensors was made.

python -m benchmarks.niqe reddiff_pl/assets/niqe/train_photos.safetensors photos/train-*.tar
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from reddiff_pl.metrics.niqe import NIQE_SIDE, fit
from reddiff_pl.shards import decode
from reddiff_pl.shards.parameters import image_member
from reddiff_pl.shards.picture import unit_tensor
from reddiff_pl.shards.plan import plan
from reddiff_pl.shards.reader import RawSample, read_shard


def photos(tars: list[str]) -> list[Tensor]:
    """The photos that are large enough, RGB on the [0, 1] scale."""
    found = []
    for shard in plan(tars, None):
        for raw in read_shard(shard):
            if isinstance(raw, RawSample) and (name := image_member(raw.members, "")):
                picture = decode.image(decode.member_bytes(raw.members[name]), name, 3)
                if min(picture.size) >= NIQE_SIDE:
                    found.append(unit_tensor(picture))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the safetensors file")
    parser.add_argument("tars", nargs="+", help="shards of photos")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    taken = photos(options.tars)
    save_file(fit(taken), options.out, {"photos": str(len(taken)), "measure": "NIQE, patches of 96 pixels"})
    print(f"{options.out}: {len(taken)} photos")


if __name__ == "__main__":
    main()
