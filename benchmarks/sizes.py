"""Large images and images of many sizes, disk to disk on a GPU: seconds, memory, and the share outside the network.

python -m benchmarks.sizes --folder /tmp/sizes
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.eps_mse import VAL
from reddiff_pl.options.shipped import shipped
from reddiff_pl.priors import UNet
from reddiff_pl.priors.tiled import PIXELS_AT_ONCE
from reddiff_pl.priors.windows import Axis
from reddiff_pl.restoring.command import restore
from reddiff_pl.shards.tar import END, encode

SIDE = 64  # of the bundled prior's windows


def photos() -> list[Image.Image]:
    """The val photos."""
    with tarfile.open(VAL) as archive:
        files = [archive.extractfile(m) for m in archive if m.name.endswith((".jpg", ".png"))]
        return [Image.open(io.BytesIO(file.read())).convert("RGB") for file in files if file is not None]


def photo_batch(count: int, side: int | None = None) -> torch.Tensor:
    """So many of the val photos, spread evenly, uint8 (B, 3, H, W), reduced to `side` where it is given."""
    tiles = photos()
    tiles = tiles[:: max(len(tiles) // count, 1)][:count]
    if side is not None:
        tiles = [tile.resize((side, side), Image.Resampling.LANCZOS) for tile in tiles]
    return torch.stack([torch.from_numpy(np.array(tile)).permute(2, 0, 1) for tile in tiles])


def mosaic(tiles: list[Image.Image], height: int, width: int, first: int = 0) -> Image.Image:
    """Photos side by side."""
    canvas = Image.new("RGB", (width, height))
    size = tiles[0].width
    for i in range(-(-height // size)):
        for j in range(-(-width // size)):
            canvas.paste(tiles[(first + 7 * i + j) % len(tiles)], (j * size, i * size))
    return canvas


def jobs(count: int, batch: int) -> Iterator[tuple[str, list[tuple[int, int]], int, str]]:
    """Names, sizes, batch size, and task; the first one compiles what the others use."""
    random = np.random.default_rng(0)
    mixed = [tuple(map(int, random.integers(200, 1201, 2))) for _ in range(count)]
    side = round((sum(h * w for h, w in mixed) / count) ** 0.5)
    yield "warm", [(64, 64)] * 9 + [(200, 333), (100, 90)], batch, "denoising"
    for i in range(3):
        yield f"one at batch 1, {i}", [(300, 400)], 1, "denoising"
        yield f"one at batch 8, {i}", [(300, 400)], 8, "denoising"
    yield "equal", [(side, side)] * count, batch, "denoising"
    yield "mixed", [(h, w) for h, w in mixed], batch, "denoising"
    yield "24 megapixels", [(4000, 6000)], batch, "denoising"
    yield "24 megapixels, blurred", [(4000, 6000)], batch, "deblur_gauss"


def windows(sizes: list[tuple[int, int]]) -> int:
    """How many windows cover these images."""
    return sum(Axis(h, SIDE, SIDE // 4).count * Axis(w, SIDE, SIDE // 4).count for h, w in sizes)


def network_seconds(count: int) -> float:
    """Of evaluating so many windows, with nothing else."""
    prior = UNet().cuda()
    rows = PIXELS_AT_ONCE["cuda"] // SIDE**2
    x, t = torch.randn(rows, 3, SIDE, SIDE, device="cuda"), torch.full((rows,), 500, device="cuda")
    with torch.no_grad():
        for _ in range(5):
            prior.eps(x, t)
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(50):
            prior.eps(x, t)
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / 50 * count / rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", default="/tmp/sizes", help="for inputs and outputs")
    parser.add_argument("--count", type=int, default=200, help="images of a job")
    parser.add_argument(
        "--jobs", default="", help="comma-separated beginnings of the names of jobs (default: all)"
    )
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=16)
    options = parser.parse_args(argv)
    tiles, rows = photos(), []
    each = network_seconds(1)
    for name, sizes, batch, task in jobs(options.count, options.batch_size):
        if not name.startswith(tuple(options.jobs.split(","))):
            continue
        shard, out = Path(options.folder, f"{name}.tar"), Path(options.folder, name)
        shard.parent.mkdir(parents=True, exist_ok=True)
        content = []
        for i, (height, width) in enumerate(sizes):
            file = io.BytesIO()
            mosaic(tiles, height, width, i).save(file, "JPEG", quality=95)
            content.append(encode([(f"{i:04d}.jpg", file.getvalue())]))
        shard.write_bytes(b"".join(content) + END)
        torch.cuda.empty_cache()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        code = restore(
            [
                *("--config", shipped(f"tasks/{task}.yaml"), "--data.shards", str(shard)),
                *("--out", str(out)),
                *("--data.fit", "whole", "--data.batch_size", str(batch), "--data.workers", "8"),
                *("--evaluations", str(options.evaluations)),
            ]
        )
        if code:
            return code
        account = json.loads(next(out.rglob("accounts/*.json")).read_text())
        pixels, seconds = sum(h * w for h, w in sizes), account["seconds"]
        network = each * windows(sizes) * options.evaluations
        row = (
            f"{name}: {len(sizes)} images, {pixels / 1e6:.1f} MP, {seconds:.2f} s, {pixels / 1e6 / seconds:.2f} MP/s, "
            f"network {network:.2f} s ({1 - network / seconds:.0%} outside), "
            f"peak {account.get('peak_memory_gib')} GiB, {account['metrics']}"
        )
        print(row, flush=True)
        rows.append(row)
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
