"""Would the bundled prior distilled to few evaluations restore better than the shipped sampler does in as few?

    python -m benchmarks.distilled --shards 'photos/train-*.tar' --seconds 90 --out runs/distilled       # on a GPU
    python -m benchmarks.distilled --shards tests/data/val-000000.tar --seconds 2 --batch-size 2 --count 2 --out /tmp/d

Consistency distillation (as LCM does it, without guidance): the student begins as the prior, f(x_t, t) is drawn to
f(x_s, s) of its own average, where x_s is one DDIM step of the prior from x_t, 20 timesteps on. Then, at 4 and 8
evaluations, on photos that neither saw: the shipped sampler, its dial turned to sharp, and LATINO's way (DiffPIR with
all noise fresh) with the prior and with the student, whose levels are chosen on a tenth of the photos given.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.eps_mse import VAL
from benchmarks.jobs import shipped
from benchmarks.minutes import train
from benchmarks.quality import Bench

TASKS = ("superresolution_4x", "inpainting_random", "inpainting_box", "deblur_aniso", "denoising")
SKIP = 20  # timesteps of a step of the teacher
EVALUATIONS = (4, 8)
LEVELS = [(r_max, r_min) for r_max, r_min in itertools.product((0.3, 1.0, 3.0, 10.0), (0.05, 0.15))]


def distil(shards: list[str], seconds: float, batch_size: int, out: Path) -> dict[str, Any]:
    """Train the student, and leave its folder in OUT/student; its steps and last losses."""
    from reddiff_pl.priors import UNet
    from reddiff_pl.priors.base import per_image
    from reddiff_pl.training.files import schedule, write_prior
    from reddiff_pl.training.photos import PhotoCrops

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prior = UNet(precision="32").to(device)
    data = PhotoCrops(shards=shards, scale_power=-0.75, workers=8, shape=prior.shape)
    data.setup("fit")
    pyramid = data.pyramid.to(device)
    teacher: Any = prior.network.to(memory_format=torch.channels_last)
    student = copy.deepcopy(teacher).requires_grad_(True).train()
    average = copy.deepcopy(teacher)
    long = copy.deepcopy(teacher)  # a longer average, which is what is kept
    generator = torch.Generator(device).manual_seed(0)
    abar = torch.cat([prior.abar, prior.abar.new_ones(1)]).float()  # the last is that of t = -1

    def x0(network: Any, x: Tensor, t: Tensor) -> Tensor:
        """The network's guess; at t = -1 the image is what it sees. c_skip is 1 there and next to 0 elsewhere."""
        a = per_image(abar[t], x)
        with torch.autocast(device.type, torch.bfloat16, device.type == "cuda"):
            eps = network(x, t.clamp(min=0), return_dict=False)[0].float()
        return torch.where(per_image(t < 0, x), x, (x - (1 - a).sqrt() * eps) / a.sqrt())

    def loss() -> Tensor:
        x = pyramid.draw(batch_size, prior.shape[-1], generator)
        k = torch.randint(1, 1000 // SKIP + 1, (batch_size,), generator=generator, device=device)
        t, s = k * SKIP - 1, k * SKIP - 1 - SKIP
        z = torch.randn(x.shape, generator=generator, device=device)
        a, b = per_image(abar[t], x), per_image(abar[s], x)
        x_t = a.sqrt() * x + (1 - a).sqrt() * z
        with torch.no_grad():
            guess = x0(teacher, x_t, t)
            eps = (x_t - a.sqrt() * guess) / (1 - a).sqrt()
            target = x0(average, b.sqrt() * guess + (1 - b).sqrt() * eps, s)
        return ((x0(student, x_t, t) - target).square() + 1e-6).sqrt().mean()

    def after(step: int) -> None:
        for mine, theirs, old in zip(
            average.parameters(), student.parameters(), long.parameters(), strict=True
        ):
            mine.lerp_(theirs, 0.05)
            old.lerp_(theirs, 0.005)

    values = train(student, loss, after, seconds, lr=1e-4, warmup=50)
    plan = schedule("epsilon") | {"_class_name": "LCMScheduler", "timestep_scaling": 10.0}
    write_prior(out / "student", long.config, long.state_dict(), plan)
    return {
        "steps": len(values),
        "first": sum(values[:20]) / len(values[:20]),
        "last": sum(values[-20:]) / len(values[-20:]),
    }


def latino(prior: Any, count: int, levels: tuple[float, float]) -> Any:
    """DiffPIR whose noise is all fresh, at levels from r_max to r_min."""
    from reddiff_pl.samplers import DiffPIR
    from reddiff_pl.samplers.timesteps import levels as timesteps

    return DiffPIR(timesteps=timesteps("log_snr", prior.abar.cpu(), count, *levels), zeta=1.0)


def restored(bench: Bench, prior: Any, task: str, sampler: Any) -> dict[str, Any]:
    """PSNR of each photo, and the power of its finest octave over the photo's own, in dB."""
    from reddiff_pl import samplers
    from reddiff_pl.metrics import psnr
    from reddiff_pl.metrics.spectrum import spectrum
    from reddiff_pl.shards.encode import to_uint8

    physics, keys, y, noise_std, x = bench.measured(task)
    noise = samplers.SeededNoise(0, keys, bench.device)
    with torch.no_grad():
        found = samplers.run(sampler, y, physics, prior, noise, noise_std=noise_std)
    pictures, truth = to_uint8(found), to_uint8(x)
    octaves = spectrum(pictures, truth).nan_to_num(0, 0, 0).mean(0).tolist()
    record = {"psnr": psnr(pictures, truth).clamp(max=60).tolist(), "octave": octaves[0]}
    return record | _patch_fd(bench, keys, found, y, x, physics, noise_std)


_patches: dict[str, Any] = {}


def _patch_fd(
    bench: Bench, keys: Any, found: Tensor, y: Tensor, x: Tensor, physics: Any, std: Tensor
) -> dict[str, Any]:
    """The patch FD where its network is installed."""
    from benchmarks import dial

    if "network" not in _patches:
        try:
            from reddiff_pl.evaluation.networks import EfficientNetLite0
            from reddiff_pl.evaluation.patches import Patches

            _patches["network"] = Patches(EfficientNetLite0()).eval().to(bench.device)
        except Exception as error:  # not installed
            print(f"no patch FD: {' '.join(str(error).split())[:200]}", flush=True)
            _patches["network"] = None
    if _patches["network"] is None or not _patches.get("on"):
        return {}
    dial._patches = _patches["network"]
    return {"fd": dial.judged(keys, found, y, x, physics, std)["fd"]}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.distilled", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--shards", nargs="+", required=True, help="photos to distil and to choose levels on")
    parser.add_argument(
        "--seconds", type=float, default=90.0, help="of the distillation (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--count", type=int, default=1000, help="photos at most, of each kind")
    parser.add_argument("--out", type=Path, required=True, help="folder for the student and distilled.md")
    options = parser.parse_args(argv)
    from reddiff_pl import samplers
    from reddiff_pl.priors import UNet

    options.out.mkdir(parents=True, exist_ok=True)
    done = distil(options.shards, options.seconds, options.batch_size, options.out)
    print(json.dumps(done), flush=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    student = UNet(str(options.out / "student"), precision="32").to(device)
    tuning = Bench(options.shards, 10, min(options.count, 40), None, device, False, None)
    val = Bench([str(VAL)], 1, options.count, None, device, False, None)
    ways = (
        "shipped",
        "dial at 1",
        "student, shipped sampler",
        "prior, LATINO's way",
        "student, LATINO's way",
    )
    lines = [f"| task | evaluations | {' | '.join(ways)} |", "|---" * 7 + "|"]
    for task in TASKS:
        class_name, settings = shipped(task)
        own = getattr(samplers, class_name)(**settings)
        sharp = getattr(samplers, class_name)(**{**settings, "perception": 1.0})
        for count in EVALUATIONS:
            _patches["on"] = False
            chosen = {}
            for name, prior in (("prior", tuning.prior), ("student", student)):
                scores = {
                    levels: mean(restored(tuning, prior, task, latino(prior, count, levels))["psnr"])
                    for levels in LEVELS
                }
                chosen[name] = max(scores, key=lambda levels: scores[levels])
            _patches["on"] = True
            cells = []
            for prior, sampler in (
                (val.prior, own.with_evaluations(count)),
                (val.prior, sharp.with_evaluations(count)),
                (student, own.with_evaluations(count)),
                (val.prior, latino(val.prior, count, chosen["prior"])),
                (student, latino(student, count, chosen["student"])),
            ):
                record = restored(val, prior, task, sampler)
                more = f", FD {record['fd']:.3g}" if "fd" in record else ""
                cells.append(f"{mean(record['psnr']):.2f} ({record['octave']:+.1f}{more})")
            said = f"{chosen['prior']}, {chosen['student']}"
            lines.append(f"| {task} | {count} | {' | '.join(cells)} |")
            print(lines[-1], said, flush=True)
    (options.out / "distilled.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
