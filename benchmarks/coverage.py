"""Whether samples are samples: how often the range of several holds the truth, and whether they spread as they err.

    python -m benchmarks.coverage --bf16                                    # the val photos, as shipped, neighbours
    python -m benchmarks.coverage --photos TRAIN.tar --modulus 10 --count 16 --method 'Renoise {"steps": 100}'

If the truth is as likely as any of K samples, it lies within the range of them (K - 1) / (K + 1) of the time: of 19
samples 90 %. Counted are the pixels that are not measured: those that a mask leaves out, of other operators all. Spread
over error is the root of the samples' variance over that of the truth about their mean, both from K samples: 1 is
right. Intervals are 1.96 standard errors over photos.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
import yaml
from torch import Tensor

from benchmarks.jobs import CONFIGS
from benchmarks.methods import TASKS
from benchmarks.quality import Bench, Counted

VAL = Path(__file__).parent.parent / "tests" / "data" / "val-000000.tar"
NEIGHBOURS = (
    'DDNM {"steps": 60, "eta": 0.7}',
    'DDNM {"steps": 60, "eta": 0.85}',
    'DiffPIR {"steps": 60, "zeta": 0.3}',
    'DDRM {"steps": 60, "eta": 0.85}',
)


def as_shipped() -> str:
    """The method of samplers/reddiff_samples.yaml."""
    sampler = yaml.safe_load((CONFIGS / "samplers" / "reddiff_samples.yaml").read_text())["model"]["sampler"]
    return f"{sampler['class_path'].rpartition('.')[2]} {json.dumps(sampler['init_args'])}"


def sampled(
    bench: Bench, task: str, method: str, count: int, rows: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Samples of every photo, their truth, which pixels are open, and evaluations a sample.

    Args:
        bench: photos, prior, device.
        task: of benchmarks.methods.TASKS.
        method: a class of reddiff_pl.samplers and its options as JSON.
        count: samples of each photo, K.
        rows: images of a batch at most.

    Returns:
        (K, B, C, H, W) on [-1, 1], (B, C, H, W), bool like it, a number.
    """
    from reddiff_pl import samplers
    from reddiff_pl.physics import bind

    name, _, options = method.partition(" ")
    sampler = getattr(samplers, name)(**json.loads(options or "{}"))
    physics, keys, y, noise_std, x = bench.measured(task)
    params = bench.params(task)
    several = max(1, rows // len(keys))  # samples of all photos side by side
    drawn: list[Tensor] = []
    for first in range(0, count, several):
        numbers = range(first, min(first + several, count))
        bind(physics, {name: _repeated(value, len(numbers)) for name, value in params.items()})
        counted = Counted(bench.prior, len(numbers) * len(keys))
        noise = samplers.SeededNoise(0, [f"{key} {i}" for i in numbers for key in keys], bench.device)
        restored = samplers.run(
            sampler,
            _repeated(y, len(numbers)),
            physics,
            counted,
            noise,
            noise_std=noise_std.repeat(len(numbers)),
        )
        drawn += restored.unflatten(0, (len(numbers), len(keys))).unbind(0)
    mask = params.get("mask")
    left = torch.ones_like(x, dtype=torch.bool) if mask is None else (mask < 0.5).expand_as(x)
    return torch.stack(drawn), x, left, counted.evaluations


def _repeated(batch: Tensor, times: int) -> Tensor:
    """A batch after itself so many times."""
    return batch.repeat(times, *[1] * (batch.ndim - 1))


def judged(samples: Tensor, x: Tensor, left: Tensor) -> dict[str, Tensor]:
    """Coverage, spread over error and PSNR of each photo, (B,).

    Args:
        samples: (K, B, C, H, W) on [-1, 1].
        x: the truth, (B, C, H, W).
        left: which pixels count, like it.
    """

    def mean(values: Tensor) -> Tensor:
        return (values * left).flatten(1).sum(1) / left.flatten(1).sum(1)

    inside = (samples.amin(0) <= x) & (x <= samples.amax(0))
    variance, centre = torch.var_mean(samples, 0)
    # the mean of K samples errs by 1 / K of their variance more
    spread = mean(variance * (1 + 1 / len(samples)))
    error = mean((centre - x).square())
    decibels = [
        -10 * ((one - x).clamp(-2, 2) / 2).square().flatten(1).mean(1).log10() for one in (samples[0], centre)
    ]
    return {
        "coverage": mean(inside.float()),
        "spread": spread,
        "error": error,
        "sample": decibels[0],
        "mean": decibels[1],
    }


def row(bench: Bench, task: str, method: str, count: int, rows: int) -> str:
    """A line of the table."""
    from reddiff_pl.errors import ConfigError

    try:
        samples, x, left, evaluations = sampled(bench, task, method, count, rows)
    except ConfigError as error:
        return f"| {task} | {method} | {' '.join(str(error).split())} |"
    result = judged(samples, x, left)
    finite = torch.isfinite(samples).all().item()
    share = 100 * result["coverage"]
    interval = 1.96 * share.std() / len(share) ** 0.5
    ratio = (result["spread"].mean() / result["error"].mean()).sqrt()
    return (
        f"| {task} | {method} | {evaluations} | {share.mean():.1f} ± {interval:.1f} % | {ratio:.2f} | "
        f"{result['sample'].mean():.2f} | {result['mean'].mean():.2f} |{'' if finite else ' not finite'}"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", nargs="+", default=[str(VAL)], help="shards (default: the val photos)")
    parser.add_argument("--modulus", type=int, default=1, help="take photos whose photo_id it divides")
    parser.add_argument("--count", type=int, default=1000, help="take at most so many photos, spread evenly")
    parser.add_argument("--samples", type=int, default=19, help="of each photo (default: 19)")
    parser.add_argument("--tasks", nargs="+", default=["inpainting_random", "superresolution_2x"])
    parser.add_argument(
        "--method", action="append", help="class and options as JSON; default: as shipped, neighbours"
    )
    parser.add_argument("--rows", type=int, default=512, help="images of a batch at most")
    parser.add_argument("--bf16", action="store_true", help="the network in bf16")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.tasks) - set(TASKS):
        parser.error(f"--tasks: unknown {', '.join(sorted(unknown))}; known are {', '.join(TASKS)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bench = Bench(arguments.photos, arguments.modulus, arguments.count, None, device, arguments.bf16, None)
    expected = 100 * (arguments.samples - 1) / (arguments.samples + 1)
    print(f"{len(bench.raws)} photos, {arguments.samples} samples each; right are {expected:.0f} % and 1\n")
    print("| task | sampler | evaluations | coverage | spread / error | a sample, dB | their mean, dB |")
    print("|---|---|---|---|---|---|---|")
    with torch.no_grad():
        for task in arguments.tasks:
            for method in arguments.method or [as_shipped(), *NEIGHBOURS]:
                print(row(bench, task, method, arguments.samples, arguments.rows), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
