"""The dial between faithful and sharp against its neighbours: PSNR, SSIM, patch distances, spectrum, misfit, pictures.

    python -m benchmarks.dial run --photos tests/data/val-000000.tar --out runs/dial --bf16 --processes 16
    python -m benchmarks.dial write --out runs/dial --to docs/quality.md

Every (task, method) leaves a line in OUT/dial.jsonl and is not done again. `write` replaces what stands between the two
marks in the page, and draws docs/dial.png and docs/dial_TASK.jpg beside it.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, multiprocessing

from benchmarks.dial_methods import Run, neighbours, runs
from benchmarks.dial_page import PICTURES, write
from benchmarks.jobs import shipped
from benchmarks.quality import Bench, Counted, next_device

SHOWN = (3, 19, 35)  # photos of the pictures
DRAWS = 200

_bench: Bench | None = None
_patches: Any = None
_references: dict[str, Tensor] = {}


def judged(
    keys: list[str], x: Tensor, y: Tensor, truth: Tensor, physics: Any, noise_std: Tensor
) -> dict[str, Any]:
    """All measures of restored images on [-1, 1]."""
    from reddiff_pl.evaluation.resampling import (
        drawn,
        gaussian_distance,
        kernel_distance,
        kernel_means,
        split,
    )
    from reddiff_pl.metrics import psnr, ssim
    from reddiff_pl.metrics.spectrum import spectrum
    from reddiff_pl.physics.binding import measured
    from reddiff_pl.shards.encode import to_uint8

    pictures, references = to_uint8(torch.nan_to_num(x)), to_uint8(truth)
    ours = {name: v.cpu() for name, v in _patches(pictures).items()}
    if not _references:
        _references.update({name: v.cpu() for name, v in _patches(references).items()})
    n, places = len(keys), 784
    one, weights = torch.ones(1, n, dtype=torch.float64), drawn(n, "patch-fd", 0, DRAWS)

    def frechet(a: Tensor, b: Tensor) -> Tensor:
        return gaussian_distance(ours["moments"], _references["moments"], a, b, places)

    some, theirs = ours["some"], _references["some"]
    kernels = [kernel_means(a, b) for a, b in ((some, some), (theirs, theirs), (some, theirs))]
    halves = gaussian_distance(
        _references["moments"], _references["moments"], *split(n, "patch-fd", 0), places
    )
    octaves = spectrum(pictures, references)
    rows = measured(physics, x)[0].flatten(1).sum(1)
    misfit = ((physics.A(x.clamp(-1, 1)) - y).abs().square().flatten(1).sum(1) / rows).sqrt() / 2
    return {
        "psnrs": psnr(pictures, references).clamp(max=60).tolist(),
        "ssims": ssim(pictures, references).tolist(),
        "fd": frechet(one, one).item(),
        "fds": frechet(weights, weights).tolist(),
        "kd": kernel_distance(*kernels, one, one, True).item(),
        "halves": halves.mean().item(),
        "sp": octaves.nan_to_num(0, 0, 0).mean(0).tolist(),
        "misfit": misfit.tolist(),
        "std": (noise_std.mean() / 2).item(),
        "nan": int((~torch.isfinite(x)).flatten(1).any(1).sum()),
    }


def strip(x: Tensor) -> str:
    """The shown photos beside each other, PNG in base64."""
    from PIL import Image

    from reddiff_pl.shards.encode import to_uint8

    pictures = to_uint8(x)[[i for i in SHOWN if i < len(x)]]
    array = torch.cat(list(pictures), -1).permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def do(run: Run) -> dict[str, Any]:
    """Restore and judge."""
    from reddiff_pl import samplers

    assert _bench is not None
    physics, keys, y, noise_std, x = _bench.measured(run.task)
    class_name, settings = shipped(run.task) if run.class_name is None else (run.class_name, {})
    sampler = getattr(samplers, class_name)(**{**settings, **run.settings})
    counted = Counted(_bench.prior, len(keys))
    noise = samplers.SeededNoise(0, keys, _bench.device)
    with torch.no_grad():
        restored = samplers.run(sampler, y, physics, counted, noise, noise_std=noise_std)
        result = judged(keys, restored, y, x, physics, noise_std)
        pictures = {}
        if run.task in PICTURES:  # of all tasks the file would be large
            pictures = {"img": strip(restored), "ref": strip(x), "meas": strip(physics.A_dagger(y))}
    return {"n": counted.evaluations, **result, **pictures}


def _begin(arguments: argparse.Namespace) -> None:
    global _bench, _patches
    from reddiff_pl.evaluation.networks import EfficientNetLite0
    from reddiff_pl.evaluation.patches import Patches

    device = next_device()
    _bench = Bench(arguments.photos, 1, 1000, None, device, arguments.bf16, None)
    _patches = Patches(EfficientNetLite0()).eval().to(device)


def _do(task: tuple[Run, str, float]) -> None:
    run, path, deadline = task
    if time.time() > deadline:
        return
    record: dict[str, Any] = {"task": run.task, "name": run.name}
    try:
        record |= do(run)
    except Exception as error:  # a method may refuse a task
        record["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(record) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["run", "write"])
    parser.add_argument("--photos", nargs="+", default=["tests/data/val-000000.tar"])
    parser.add_argument("--out", default="runs/dial")
    parser.add_argument("--to", default="docs/quality.md")
    parser.add_argument("--bf16", action="store_true", help="the network in bf16")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin nothing after so long")
    arguments = parser.parse_args(argv)
    path = Path(arguments.out) / "dial.jsonl"
    if arguments.stage == "write":
        write(read(path), Path(arguments.to))
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {(record["task"], record["name"]) for record in read(path)}
    left = [run for run in [*runs(), *neighbours()] if (run.task, run.name) not in done]
    deadline = time.time() + arguments.seconds
    with multiprocessing.get_context("spawn").Pool(arguments.processes, _begin, (arguments,)) as pool:
        for _ in pool.imap_unordered(_do, [(run, str(path), deadline) for run in left]):
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
