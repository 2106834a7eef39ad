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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reddiff_pl.priors import Prior, UNet
from reddiff_pl.shards import decode, metadata
from reddiff_pl.shards.plan import plan
from reddiff_pl.shards.reader import RawSample, read_shard

TIMESTEPS = (10, 50, 100, 200, 400, 600, 800)
VAL = Path(__file__).parent.parent / "tests" / "data" / "val-000000.tar"


def photos(shards: Sequence[str], size: int, modulus: int = 1) -> Tensor:
    """The photos of shards whose photo_id is a multiple of `modulus`, uint8 (N, 3, size, size)."""
    out = []
    for shard in plan(list(shards), None):
        for raw in read_shard(shard):
            assert isinstance(raw, RawSample), raw.reason
            if modulus > 1:
                meta = metadata.parse(decode.member_bytes(raw.members["json"]), "json")
                if meta["photo_id"] % modulus:
                    continue
            name = next(s for s in decode.IMAGE_MEMBERS if s in raw.members)
            picture = decode.image(decode.member_bytes(raw.members[name]), name, 3)
            out.append(np.asarray(decode.fitted(picture, size, size, name).pil()).transpose(2, 0, 1).copy())
    return torch.from_numpy(np.stack(out))


@torch.no_grad()
def errors(
    prior: Prior, x: Tensor, timesteps: Sequence[int] = TIMESTEPS, draws: int = 2, batch_size: int = 64
) -> Tensor:
    """Each photo's mean of (eps - z)^2 over its pixels and the draws: float64 (N, timesteps).

    Args:
        prior: on the device to compute on.
        x: photos, uint8 (N, C, H, W).
        timesteps: to look at.
        draws: of z for each photo and timestep; drawn on the CPU, seeded by t: the same on every device.
        batch_size: photos at a time.
    """
    device = prior.abar.device
    out = torch.zeros(len(x), len(timesteps), dtype=torch.float64)
    for i, t in enumerate(timesteps):
        generator = torch.Generator().manual_seed(t)
        alpha, sigma = prior.abar[t].sqrt().item(), (1 - prior.abar[t]).sqrt().item()
        for _ in range(draws):
            noise = torch.randn(x.shape, generator=generator)
            losses = []
            for images, z in zip(x.split(batch_size), noise.split(batch_size), strict=True):
                z = z.to(device)
                x_t = alpha * (images.to(device).float() / 127.5 - 1) + sigma * z
                eps = prior.eps(x_t, torch.full((len(z),), t, device=device))
                losses.append((eps - z).square().mean((1, 2, 3)))
            out[:, i] += torch.cat(losses).double().cpu() / draws
    return out


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
            x = photos(arguments.photos, prior.shape[-1], arguments.modulus)
            print(f"{len(x)} photos, {arguments.draws} draws")
            print(f"| t | {' | '.join(map(str, TIMESTEPS))} |\n|---|{'---|' * len(TIMESTEPS)}")
        losses = errors(prior, x, draws=arguments.draws)
        print(row(Path(path).name if path else "the one that ships", losses, first), flush=True)
        first = losses if first is None else first
    return 0


if __name__ == "__main__":
    sys.exit(main())
