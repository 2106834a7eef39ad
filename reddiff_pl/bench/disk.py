"""From disk to disk: `reddiff restore` in a process of its own, on shards of made-up images. No torch.

A first shard of one batch takes compiling, capturing and the filling of queues upon itself; from its commit to that of
the second one the pipeline runs evenly, so that time over the second's images is what a long run costs an image.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reddiff_pl.options.shipped import shipped
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import finished
from reddiff_pl.shards.tar import END, encode

CACHES = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH", "XDG_CACHE_HOME")
"""Environment variables that say where compiled code is kept."""


def make_shards(folder: Path, size: int, counts: Sequence[int], seed: int = 0) -> str:
    """Write shards of random images as PNG; returns a wildcard for them.

    Smooth colours under fine noise: about as hard to decode and to pack as photographs.

    Args:
        folder: where; made if need be.
        size: side of the images in pixels.
        counts: images of each shard.
        seed: of all images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, count in enumerate(counts):
        random = np.random.default_rng([seed, number])
        write_shard(folder / f"{number:06d}.tar", [random_image(random, size) for _ in range(count)])
    return str(folder / "*.tar")


def write_shard(path: Path, images: Iterable[Image.Image]) -> None:
    """Write images as PNG into a shard, with keys that begin with its name."""
    with open(path, "wb") as file:
        for i, image in enumerate(images):
            out = io.BytesIO()
            image.save(out, "PNG")
            file.write(encode([(f"{path.stem}{i:06d}.png", out.getvalue())]))
        file.write(END)


def random_image(random: np.random.Generator, size: int) -> Image.Image:
    """Smooth colours under fine noise, (size, size) RGB."""
    coarse = Image.fromarray(random.integers(0, 256, (max(size // 16, 2),) * 2 + (3,), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return Image.fromarray((smooth + 6 * random.standard_normal(smooth.shape)).clip(0, 255).astype(np.uint8))


def command(job: dict[str, Any], images: str, out: Path, batch_size: int, evaluations: int) -> list[str]:
    """`reddiff restore` with the shipped sampler on random inpainting, as a command line.

    Args:
        job: network, prior (further arguments of the prior), device, classes.
        images: wildcard for the shards.
        out: output directory.
        batch_size: images restored together.
        evaluations: network evaluations an image, two a step.
    """
    prior = {"path": job["network"], **job["prior"], **({"label": 0} if job["classes"] else {})}
    settings = {
        "data.shards": images,
        "data.batch_size": batch_size,
        "model.sampler.init_args.steps": max(evaluations // 2, 1),
        **{f"model.prior.init_args.{name}": _text(value) for name, value in prior.items()},
        **({"trainer.accelerator": "cpu"} if job["device"] == "cpu" else {}),
        "out": str(out),
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    config = shipped("tasks/inpainting_random.yaml")
    return [sys.executable, "-m", "reddiff_pl", "restore", "--config", config, *options]


def _text(value: Any) -> str:
    """A value as an option has it: words as they are, the rest in YAML's way."""
    return value if isinstance(value, str) else json.dumps(value)


def restore(
    argv: Sequence[str],
    out: Path,
    log: Path,
    watch: Callable[[subprocess.Popen[bytes]], None],
    caches: Path | None = None,
) -> dict[str, Any]:
    """Run a command of `restore`, and read the times that its shards say.

    Args:
        argv: the command.
        out: its output directory.
        log: file for all that it prints.
        watch: called with the process, returns when it has ended; may kill it.
        caches: folder for compiled code; None: where it is otherwise kept.

    Returns:
        whole_seconds of the command; start_seconds to the first shard's opening; work_seconds from there to the last
        commit; steady_seconds from the first commit to the last (None with one shard); images, and steady_images
        without the first shard's; cpu_seconds of the process; peak_gib of the device, where it has memory of its own.

    Raises:
        RuntimeError: it failed; with the last line it printed.
    """
    environment = dict(os.environ)
    if caches is not None:
        environment |= {name: str(caches / name.lower()) for name in CACHES}
    log.parent.mkdir(parents=True, exist_ok=True)
    before = _cpu_of_children()
    began = time.time()
    with open(log, "ab") as file:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
        )
        watch(process)
    ended = time.time()
    if process.returncode:
        raise RuntimeError(f"restore ended with {process.returncode}: {last_line(log)}")
    found = sidecars(out)
    shards = [sidecar for sidecar in found.values() if sidecar is not None]
    if not shards or len(shards) < len(found) or any(shard["failed"] for shard in shards):
        raise RuntimeError(f"restore did not finish all shards: {last_line(log)}")
    opened = min(shard["finished"] - shard["seconds"] for shard in shards)
    commits = [shard["finished"] for shard in shards]
    peaks = [shard["peak_memory_gib"] for shard in shards if "peak_memory_gib" in shard]
    return {
        "whole_seconds": ended - began,
        "start_seconds": opened - began,
        "work_seconds": max(commits) - opened,
        "steady_seconds": commits[-1] - commits[0] if len(shards) > 1 else None,
        "images": sum(shard["restored"] for shard in shards),
        "steady_images": sum(shard["restored"] for shard in shards[1:]),
        "cpu_seconds": _cpu_of_children() - before,
        **({"peak_gib": max(peaks)} if peaks else {}),
    }


def sidecars(out: Path) -> dict[str, dict[str, Any] | None]:
    """What the shards of an output directory say, by name; None for one that is not finished."""
    run = Run(out)
    names = sorted(path.name.removesuffix(".tar") for path in run.shards.glob("*.tar"))
    return {name: finished(run, name) for name in names}


def _cpu_of_children() -> float:
    """CPU seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return lines[-1][:300] if lines else "it printed nothing"
