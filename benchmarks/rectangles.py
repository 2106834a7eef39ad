"""Whether quality carries over to rectangles: the same pixels restored in a photo of 256x256 and in parts of it.

python -m benchmarks.rectangles --to rectangles.md

Each task with a local operator restores photos whole, and parts of them cut from the clean photo and measured anew,
with the same masks, kernels and noise; a part begins where blocks of 16 pixels do. Compared are the means of PSNR over
pixels that lie away from the part's borders. And as windows might be seen: by how much the gradients' means by column
and by row swing with the windows' step, over those of the photos restored by the same network without windows.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.eps_mse import VAL
from benchmarks.sizes import SIDE, photo_batch
from reddiff_pl import Restorer
from reddiff_pl.metrics import psnr
from reddiff_pl.physics import bind
from reddiff_pl.physics.sizes import measurement_shape
from reddiff_pl.priors import Prior
from reddiff_pl.priors.tiled import windowed
from reddiff_pl.priors.windows import Axis
from reddiff_pl.samplers import SeededNoise, run
from reddiff_pl.shards.encode import to_uint8

PARTS = [(256, 160), (200, 150), (97, 131)]
MARGIN = 16
FAR = {
    "bicubic_8x": 32,
    "superresolution_8x": 24,
    "deblur_uniform": 32,
    "deblur_motion": 32,
    "deblur_aniso": 24,
}
TASKS = [
    *("denoising", "denoising+estimate", "inpainting_random", "inpainting_random_noisy", "inpainting_box"),
    *("inpainting_freeform", "superresolution_2x", "superresolution_4x", "superresolution_8x"),
    *("superresolution_4x_noisy", "superresolution_4x_inpainting", "bicubic_2x", "bicubic_4x", "bicubic_8x"),
    *(
        "deblur_gauss",
        "deblur_gauss+0.002",
        "deblur_uniform",
        "deblur_uniform+0.002",
        "deblur_aniso",
        "deblur_motion",
        "jpeg",
        "quantization",
        "hdr",
    ),
    "colorization",
]


class Photos:
    """The photos of a task, measured whole, and their parts.

    Args:
        task: a task of configs/tasks; after it "+estimate" for a noise level found in each measurement, or "+0.01" for
            so much more noise.
        x: clean photos, uint8 (B, 3, H, W).
        prior: of any size.
        device: where to restore.
    """

    def __init__(self, task: str, x: Tensor, prior: Prior, device: str, evaluations: int | None) -> None:
        name, _, level = task.partition("+")
        noise = {
            "model.noise": f"{{class_path: reddiff_pl.physics.GaussianNoise, init_args: {{sigma_y: {level}}}}}"
        }
        restorer = Restorer(
            name,
            evaluations=evaluations,
            device="cpu",
            sigma_y=level if level == "estimate" else None,
            options=noise if level[:1].isdigit() else None,
        )
        self.degradation, self.sampler = restorer.degradation, restorer.model.sampler
        self.physics = restorer.model.physics.to(device)
        self.prior, self.device = prior, device
        self.keys = [f"{i:02d}" for i in range(len(x))]
        self.x = x.float() / 127.5 - 1
        made = [self.degradation(image, key, {}) for image, key in zip(self.x, self.keys, strict=True)]
        self.params = [params for _, params in made]
        self.noise = torch.stack([y for y, _ in made]) - self._clean(self.x, self.params)

    def _clean(self, x: Tensor, params: list[dict[str, Tensor]]) -> Tensor:
        shape = tuple(x.shape[1:])
        return torch.stack(
            [
                self.degradation.bound(own, shape).A(image[None])[0]
                for image, own in zip(x, params, strict=True)
            ]
        )

    @torch.no_grad()
    def restored(self, top: int, left: int, height: int, width: int, batch: int = 16) -> Tensor:
        """A part of each photo, uint8 (B, 3, height, width)."""
        x = self.x[..., top : top + height, left : left + width]
        shape = tuple(x.shape[1:])
        params = []
        for own in self.params:
            params.append(dict(own))
            for name, value in own.items():
                if name.startswith("mask"):
                    f = self.x.shape[-1] // value.shape[-1]
                    params[-1][name] = value[
                        ..., top // f : -(-(top + height) // f), left // f : -(-(left + width) // f)
                    ]
        low = measurement_shape(self.physics, shape)
        f = self.x.shape[-1] // self.noise.shape[-1]
        noise = self.noise[..., top // f : top // f + low[1], left // f : left // f + low[2]]
        y = self._clean(x, params) + noise
        std = [
            self.degradation.noise_std(one, own, self.degradation.sigma_y, shape)
            for one, own in zip(y, params, strict=True)
        ]
        found = []
        for i in range(0, len(x), batch):
            own = {
                name: torch.stack([p[name] for p in params[i : i + batch]]).to(self.device)
                for name in params[0]
            }
            bind(self.physics, own, shape)
            z = run(
                self.sampler,
                y[i : i + batch].to(self.device),
                self.physics,
                self.prior,
                SeededNoise(0, self.keys[i : i + batch], self.device),
                noise_std=torch.tensor(std[i : i + batch], device=self.device),
            )
            found.append(to_uint8(z).cpu())
        return torch.cat(found)


def swing(restored: Tensor, without: Tensor, margin: int) -> float:
    """The largest share by which gradients over those without windows swing with their step or its half."""
    largest = 0.0
    for dim in (-1, -2):
        side = without.shape[dim]
        axis = Axis(side, SIDE, SIDE // 4)
        if not axis.room:
            continue
        profiles = [
            image.float().diff(dim=dim).abs().mean([d for d in range(4) if d != 4 + dim])
            for image in (restored, without)
        ]
        ratio = (profiles[0] / profiles[1])[margin:-margin].double()
        places = torch.arange(len(ratio)).double()
        for period in (axis.step, axis.step / 2):
            # at once with the mean and a slope: few periods are not orthogonal to them
            angle = 2 * torch.pi * places / period
            basis = torch.stack([torch.ones_like(places), places / side, angle.cos(), angle.sin()], 1)
            _, _, a, b = torch.linalg.lstsq(basis, ratio[:, None]).solution[:, 0].tolist()
            largest = max(largest, float(np.hypot(a, b)) / ratio.mean().item())
    return largest


def rows(task: str, pictures: Photos, x: Tensor, plain: Prior) -> Iterator[str]:
    """A line of the table for each size."""
    margin = FAR.get(task.partition("+")[0], MARGIN)
    height, width = x.shape[-2:]
    whole = pictures.restored(0, 0, height, width)
    prior, pictures.prior = pictures.prior, plain
    without = pictures.restored(0, 0, height, width)
    pictures.prior = prior
    decibels = [psnr(image, x).clamp(max=99).mean() for image in (whole, without)]
    yield (
        f"| {task} | {width}x{height} | {decibels[0]:.2f} | {decibels[1]:.2f} without windows | | "
        f"{swing(whole, without, margin):.1%} |"
    )
    for h, w in PARTS:
        top, left = (round((side - part) / 2 / 16) * 16 for side, part in ((height, h), (width, w)))
        part = pictures.restored(top, left, h, w)
        where = (..., slice(top, top + h), slice(left, left + w))
        inside = (..., slice(margin, h - margin), slice(margin, w - margin))
        truth = x[where][inside]
        own, same = (psnr(image[inside], truth).clamp(max=99) for image in (part, whole[where]))
        gap = own - same
        error = gap.std().item() / len(gap) ** 0.5
        yield (
            f"| | {w}x{h} | {own.mean():.2f} | {same.mean():.2f} | {gap.mean():+.2f} ± {error:.2f} | "
            f"{swing(part, without[where], margin):.1%} |"
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help=f"of the photos of {VAL.name}, spread evenly")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--evaluations", type=int, help="default: the task's own")
    parser.add_argument("--to", help="write the table there, too")
    options = parser.parse_args(argv)
    from reddiff_pl.priors import UNet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    prior, plain = windowed(UNet().to(device)), UNet(fully_convolutional=True).to(device)
    x = photo_batch(options.count)
    lines = [
        f"{len(x)} photos, {device}",
        "",
        "| task | size | PSNR | same pixels of the whole | difference | swing |",
        "|---|---|---|---|---|---|",
    ]
    for task in options.tasks:
        began = time.perf_counter()
        for line in rows(task, Photos(task, x, prior, device, options.evaluations), x, plain):
            lines.append(line)
            print(f"{line}  {time.perf_counter() - began:.1f} s", flush=True)
            if options.to:
                Path(options.to).write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
