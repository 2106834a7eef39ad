"""The quality table: restores photos by every method on every task, each with settings tuned on other photos.

    python -m benchmarks.quality tune --photos TRAIN.tar ... --modulus 10 --out runs/quality --processes 2
    python -m benchmarks.quality table --photos VAL.tar --out runs/quality --processes 2
    python -m benchmarks.quality write --out runs/quality --to docs/quality.md

Every (task, method, settings) leaves a file in OUT when it is done, and is not done again: run the same command after a
stop. On several GPUs the processes take turns over them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, multiprocessing

from benchmarks import methods as m
from benchmarks.classical import classical
from benchmarks.jobs import CONFIGS, Job, table_jobs, tuning_jobs
from benchmarks.plug_and_play import plug_and_play
from benchmarks.table import write


class Bench:
    """What a process keeps between its jobs: photos, prior, device."""

    def __init__(
        self,
        photos: list[str],
        modulus: int,
        count: int,
        prior: str | None,
        device: str,
        bf16: bool,
        ffdnet: str | None,
    ):
        from reddiff_pl.priors import Denoiser, UNet

        torch.set_num_threads(1)
        self.device = device
        self.prior = UNet(prior, precision="bf16" if bf16 else "32").to(device)
        self.ffdnet = ffdnet and Denoiser("reddiff_pl.priors.FFDNet", weights=ffdnet).network.to(device)
        self.raws = self._choose(photos, modulus, count)
        self._samples: dict[str, Any] = {}

    def _choose(self, photos: list[str], modulus: int, count: int) -> list[Any]:
        """The photos of the shards whose photo_id is a multiple of `modulus`, `count` of them spread evenly."""
        from reddiff_pl.shards import decode, metadata
        from reddiff_pl.shards.plan import plan
        from reddiff_pl.shards.reader import RawSample, read_shard

        raws = []
        for shard in plan(photos, None):
            for raw in read_shard(shard):
                assert isinstance(raw, RawSample)
                meta = metadata.parse(decode.member_bytes(raw.members["json"]), "json")
                if meta["photo_id"] % modulus == 0:
                    raws.append(raw)
        step = max(len(raws) / count, 1)
        return [raws[int(i * step)] for i in range(min(count, len(raws)))]

    def measured(self, task: str) -> tuple[Any, Any, Tensor, Tensor, Tensor]:
        """Operator (bound), keys, measurements, noise levels, references of a task."""
        from reddiff_pl.physics import Degradation, bind
        from reddiff_pl.shards.samples import prepare

        if task not in self._samples:
            physics, noise, sigma_y = configured(task)
            degradation = Degradation(physics, noise, self.prior.shape, 0, sigma_y)
            samples = [prepare(raw, degradation) for raw in self.raws]
            self._samples = {task: (physics, samples)}  # one task at a time is kept
        physics, samples = self._samples[task]
        physics = physics.to(self.device)
        bind(physics, self.params(task))
        y, x = (torch.stack([getattr(s, n) for s in samples]).to(self.device) for n in ("y", "x"))
        noise_std = torch.tensor([s.noise_std for s in samples], device=self.device)
        return physics, [s.key for s in samples], y, noise_std, x

    def params(self, task: str) -> dict[str, Tensor]:
        """What the operator of a task that `measured` was asked for has of every photo."""
        _, samples = self._samples[task]
        return {
            name: torch.stack([s.params[name] for s in samples]).to(self.device) for name in samples[0].params
        }

    def do(self, job: Job) -> dict[str, Any]:
        """Restore; returns per-photo PSNR and SSIM, evaluations and seconds, or why it cannot be done."""
        from reddiff_pl import samplers
        from reddiff_pl.errors import ConfigError
        from reddiff_pl.metrics import psnr, ssim
        from reddiff_pl.samplers.base import Problem
        from reddiff_pl.samplers.starts import start
        from reddiff_pl.shards.encode import to_uint8

        physics, keys, y, noise_std, x = self.measured(job.task)
        settings = json.loads(job.settings)
        counted = Counted(self.prior, len(keys))
        began = time.perf_counter()
        try:
            if job.class_name == "A_dagger":
                restored = physics.A_dagger(y)
            elif job.class_name == "classical":
                restored = classical(job.task, physics, y, x.shape[-1], **settings)
            elif job.class_name == "plug_and_play":
                noise = samplers.SeededNoise(0, keys, self.device)
                begin = start("wiener", Problem(y, physics, self.prior, noise, noise_std=noise_std))
                restored = plug_and_play(physics, y, noise_std, begin, self.ffdnet, **settings)
                counted.evaluations = settings["steps"]
            else:
                sampler = getattr(samplers, job.class_name)(**settings)
                noise = samplers.SeededNoise(0, keys, self.device)
                restored = samplers.run(sampler, y, physics, counted, noise, noise_std=noise_std)
            pictures, truth = to_uint8(restored), to_uint8(x)
        except ConfigError as error:
            return {"refused": " ".join(str(error).split())}
        decibels = psnr(pictures, truth).clamp(max=99).tolist()
        return {
            "psnr": [round(v, 4) for v in decibels],
            "ssim": [round(v, 4) for v in ssim(pictures, truth).tolist()],
            "evaluations": counted.evaluations,
            "seconds": round(time.perf_counter() - began, 3),
            "photos": len(keys),
        }


class Counted(torch.nn.Module):
    """A prior that counts its evaluations of each of so many images."""

    def __init__(self, prior: Any, images: int) -> None:
        super().__init__()
        self.prior, self.shape, self.abar, self.latent = prior, prior.shape, prior.abar, prior.latent
        self.images, self.evaluations = images, 0

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.evaluations += len(x_t) // self.images
        return self.prior.eps(x_t, t, label)


def configured(task: str) -> tuple[Any, Any, float | None]:
    """Operator and noise of a task, made from its configuration, and the noise level that it says to assume."""
    import yaml
    from deepinv.physics import Physics
    from jsonargparse import ArgumentParser

    from reddiff_pl.physics import GaussianNoise, MeasurementNoise

    name, sigma_y = m.TASKS[task]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--physics", type=Physics)
    parser.add_argument("--noise", type=MeasurementNoise)
    config = yaml.safe_load((CONFIGS / "tasks" / f"{name}.yaml").read_text())
    model, assumed = config["model"], config.get("data", {}).get("sigma_y")
    made = parser.instantiate_classes(parser.parse_object({key: model[key] for key in ("physics", "noise")}))
    return made.physics, made.noise if sigma_y is None else GaussianNoise(sigma_y), assumed


_bench: Bench | None = None


def next_device() -> str:
    """Of a process of a pool: the GPUs in turn, if there are any."""
    index = multiprocessing.current_process()._identity[0] - 1  # type: ignore[attr-defined]
    gpus = torch.cuda.device_count()
    if not gpus:
        return "cpu"
    torch.cuda.set_device(index % gpus)
    return f"cuda:{index % gpus}"


def _begin(arguments: argparse.Namespace) -> None:
    global _bench
    device = next_device()
    names = ("photos", "modulus", "count", "prior", "bf16", "ffdnet")
    _bench = Bench(device=device, **{name: getattr(arguments, name) for name in names})


def _do(task: tuple[Job, str]) -> str:
    job, out = task
    path = job.path(Path(out))
    assert _bench is not None
    try:
        result = _bench.do(job)
    except torch.OutOfMemoryError as error:
        return f"{job}: {error}"
    except Exception as error:  # one job must not end the others
        result = {"refused": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"settings": json.loads(job.settings), "class": job.class_name, **result}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record))
    os.replace(part, path)
    return ""


def work(jobs: Iterable[Job], arguments: argparse.Namespace) -> None:
    """Do what is not done yet, longest first, neighbours in the list on one task."""
    out = Path(arguments.out)
    left = list({path: one for one in jobs if not (path := one.path(out)).exists()}.values())
    if arguments.ffdnet is None:
        left = [one for one in left if one.class_name != "plug_and_play"]
    left.sort(key=lambda one: (-one.cost, one.task))
    print(f"{len(left)} jobs", flush=True)
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.processes, _begin, (arguments,)) as pool:
        for i, message in enumerate(pool.imap_unordered(_do, [(one, arguments.out) for one in left])):
            if message:
                print(message, flush=True)
            if i % 100 == 99:
                print(f"{i + 1} done, {time.perf_counter() - began:.0f} s", flush=True)
            if time.perf_counter() - began > arguments.seconds:
                print(f"stopped after {i + 1} jobs: out of time", flush=True)
                pool.terminate()
                return
    print(f"all done, {time.perf_counter() - began:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["tune", "table", "write"])
    parser.add_argument("--photos", nargs="+", default=[], help="shards of clean photos with a photo_id each")
    parser.add_argument("--modulus", type=int, default=1, help="take photos whose photo_id it divides")
    parser.add_argument("--count", type=int, default=1000, help="take at most so many photos, spread evenly")
    parser.add_argument("--out", default="runs/quality")
    parser.add_argument("--to", default="docs/quality.md")
    parser.add_argument("--prior", help="a diffusers folder; default: the one that ships")
    parser.add_argument(
        "--ffdnet", help="ffdnet_color.pth, for the plug-and-play row; without it there is none"
    )
    parser.add_argument("--bf16", action="store_true", help="the network in bf16")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out)
    if arguments.stage == "tune":
        work(tuning_jobs(), arguments)
    elif arguments.stage == "table":
        work(table_jobs(out), arguments)
    else:
        write(out, Path(arguments.to), (Path(__file__).parent / "quality.md.in").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
