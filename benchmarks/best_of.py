"""Phase retrieval: the best of several restorations by misfit, an image, its negative and both turned counted as one.

    python -m benchmarks.best_of --photos tests/data/val-000000.tar --evaluations 10 20 50 100

A row each: what RED-diff begins at, RED-diff, DiffPIR, all with the settings of configs/.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.jobs import CONFIGS, shipped
from benchmarks.quality import Bench
from reddiff_pl import samplers
from reddiff_pl.metrics import misfit, psnr, ssim
from reddiff_pl.physics.phasing import equivalents
from reddiff_pl.shards.encode import to_uint8


def best(y: Tensor, physics: Any, images: list[Tensor]) -> Tensor:
    """Of several restorations of each measurement the one with the least misfit, (B, C, H, W)."""
    misfits = torch.stack([misfit(x, y, physics) for x in images])
    return torch.stack(images)[misfits.argmin(0), torch.arange(len(y), device=y.device)]


def judged(restored: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """PSNR and SSIM of each image in the form that is nearest to the truth, on 8 bits, (B,) each."""
    reference = to_uint8(truth)
    forms = [to_uint8(form) for form in equivalents(restored)]
    decibels = torch.stack([psnr(form, reference).clamp(max=99).cpu() for form in forms])
    likeness = torch.stack([ssim(form, reference).cpu() for form in forms])
    return decibels.amax(0), likeness.gather(0, decibels.argmax(0)[None])[0]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", nargs="+", required=True, help="shards of photos with a photo_id each")
    parser.add_argument("--modulus", type=int, default=1, help="take photos whose photo_id it divides")
    parser.add_argument("--count", type=int, default=1000, help="take at most so many, spread evenly")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--diffpir", type=int, nargs="*", default=[20, 100], help="DiffPIR's")
    parser.add_argument("--repeats", type=int, default=4, help="restorations of each photo")
    parser.add_argument("--prior", help="a diffusers folder; default: the one that ships")
    parser.add_argument("--bf16", action="store_true", help="the network in bf16")
    arguments = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bench = Bench(
        arguments.photos, arguments.modulus, arguments.count, arguments.prior, device, arguments.bf16, None
    )
    physics, keys, y, noise_std, x = bench.measured("phase_retrieval")
    repeats = range(arguments.repeats)
    print(f"{len(keys)} photos on {device}, best of {arguments.repeats}\n")
    print(
        "| method | evaluations | PSNR | SSIM | above 25 dB | of single ones | ms a single one |\n"
        + "|---" * 7
        + "|"
    )

    def row(name: str, evaluations: int, restore: Callable[[samplers.SeededNoise], Tensor]) -> None:
        began = time.perf_counter()
        with torch.no_grad():
            images = [restore(samplers.SeededNoise(seed, keys, device)).clamp(-1, 1) for seed in repeats]
        if device == "cuda":
            torch.cuda.synchronize()
        each = (time.perf_counter() - began) / len(images) / len(keys)
        decibels, likeness = judged(best(y, physics, images), x)
        single = torch.stack([judged(one, x)[0] for one in images])
        error = 1.96 * decibels.std() / len(decibels) ** 0.5
        print(
            f"| {name} | {evaluations} | {decibels.mean():.2f} ± {error:.2f} | {likeness.mean():.3f} "
            f"| {(decibels > 25).float().mean():.0%} | {(single > 25).float().mean():.0%} | {1000 * each:.1f} |",
            flush=True,
        )

    def begin(noise: samplers.SeededNoise) -> Tensor:
        return physics.start(y, lambda k, shape: noise.normal("init", shape, y.dtype, 0, k))

    def restorer(sampler: samplers.Sampler) -> Callable[[samplers.SeededNoise], Tensor]:
        return lambda noise: samplers.run(sampler, y, physics, bench.prior, noise, noise_std=noise_std)

    row("the start", 0, begin)
    diffpir = yaml.safe_load((CONFIGS / "samplers" / "diffpir.yaml").read_text())["model"]["sampler"][
        "init_args"
    ]
    for (cls, settings), counts in (
        (shipped("phase_retrieval"), arguments.evaluations),
        (("DiffPIR", diffpir), arguments.diffpir),
    ):
        sampler = getattr(samplers, cls)(**settings)
        for count in counts:
            row(cls, count, restorer(sampler.with_evaluations(count)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
