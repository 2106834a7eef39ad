"""Every task from 8-bit files with no option set, against A_dagger of the same files.

python -m benchmarks.eight_bits --to eight_bits.md

Photos are measured by the task, with its noise, and the measurements rounded to PNG files of 8 bits (for jpeg also as
JPEG files, with tables of their own). Each is restored as `reddiff restore FOLDER --task TASK` does it.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmarks.sizes import photo_batch
from reddiff_pl import Restorer
from reddiff_pl.metrics import psnr
from reddiff_pl.options.shipped import shipped
from reddiff_pl.restoring.batch import collate
from reddiff_pl.shards import encode
from reddiff_pl.shards.plan import Shard
from reddiff_pl.shards.reader import RawSample
from reddiff_pl.shards.samples import prepare

NO_PICTURE = {
    "phase_retrieval": "magnitudes of a Fourier transform",
    "compressed_sensing": "coefficients of a transform",
    "nonlinear_blur": "needs a network of the user's",
    "inpainting_given": "as inpainting_random, with the user's masks",
}
TASKS = sorted(path.stem for path in Path(shipped("tasks/jpeg.yaml")).parent.glob("*.yaml"))


def files(restorer: Restorer, key: str, x: Tensor, as_jpeg: bool) -> dict[str, bytes]:
    """What lies in the folder for a photo, uint8 (3, H, W): its measurement, and the operator's parameters."""
    scale = restorer.degradation.scale
    if as_jpeg:
        out = io.BytesIO()
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(out, "JPEG", quality=10)
        return {"y.jpg": out.getvalue()}
    y, params = restorer.degradation(x.float() / 127.5 - 1, key, {})
    levels = ((y + scale - 1) / scale * 255).round().clamp(0, 255).byte()
    return {
        "y.png": encode.png(levels),
        **{f"{name}.npy": encode.npy(value) for name, value in params.items()},
    }


def row(task: str, x: Tensor, evaluations: int | None, as_jpeg: bool = False, batch: int = 16) -> str:
    """A line of the table for photos, uint8 (B, 3, H, W)."""
    options: Mapping[str, str] = {"model.keep_start": "true"}
    restorer = Restorer(task, evaluations=evaluations, options=options)
    started, restored, levels, misfits = [], [], [], []
    for first in range(0, len(x), batch):
        samples = [
            prepare(RawSample(i, str(i), dict(files(restorer, str(i), x[i], as_jpeg))), restorer.degradation)
            for i in range(first, min(first + batch, len(x)))
        ]
        levels += [sample.sigma_y for sample in samples]
        made = restorer.model.predict_step(
            collate(Shard("files", ""), None, list(samples), batch).to(restorer.device), 0
        )
        assert made is not None
        for i in range(len(samples)):
            made.check(i)
            images = made.images(i)
            restored.append(images[""].cpu())
            started.append(images["start"].cpu())
            misfits.append(made.metrics(i)["misfit"] or 0.0)
    before, after = (psnr(torch.stack(images), x).clamp(max=99) for images in (started, restored))
    return (
        f"| {task}{', JPEG files' if as_jpeg else ''} | {before.mean():.2f} | {after.mean():.2f} | "
        f"{int((after < before - 0.005).sum())} | {statistics.median(levels):.4f} | {statistics.median(misfits):.4f} |"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="of the val photos, spread evenly")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--side", type=int, default=256, help="reduce the photos to it")
    parser.add_argument("--evaluations", type=int, help="default: the task's own")
    parser.add_argument("--to", help="write the table there, too")
    options = parser.parse_args(argv)
    x = photo_batch(options.count, options.side)
    lines = [
        f"{len(x)} photos of {options.side}x{options.side}",
        "",
        "| task | A_dagger | restored | worse than A_dagger | sigma_y | misfit |",
        "|---|---|---|---|---|---|",
    ]
    for task in options.tasks:
        if task in NO_PICTURE:
            lines.append(f"| {task} | | | | | no picture: {NO_PICTURE[task]} |")
            continue
        for as_jpeg in (False, True) if task == "jpeg" else (False,):
            lines.append(row(task, x, options.evaluations, as_jpeg))
            print(lines[-1], flush=True)
            if options.to:
                Path(options.to).write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
