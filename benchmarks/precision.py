"""What the fast path costs in quality: the val photos restored task by task in several precisions, one table.

    python -m benchmarks.precision --out runs/precision --processes 6            # on a GPU: all but 32 are fused
    python -m benchmarks.precision --out runs/precision --processes 16 --precisions 32 bf16   # on a CPU
    python -m benchmarks.precision --out runs/precision --tasks hdr --limit 2 --steps 2 --precisions 32 bf16

Every run is a `reddiff restore` with the shipped settings; the same command goes on where it stopped. The exit code is
1 if a run failed: its cell says why.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import multiprocessing
import os
import sys
import tarfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from benchmarks.eps_mse import VAL

TASKS = Path(__file__).parent.parent / "configs" / "tasks"
PRECISIONS = ("32", "bf16", "fp8")
INCOMPLETE = {"inpainting_given", "nonlinear_blur"}  # photos bring no masks, and nobody a network of blurs


def measure(task: str, precision: str, seeds: int, out: Path, more: list[str]) -> list[float] | str:
    """PSNR of each restored photo in a precision, the mean over seeds; or what went wrong."""
    import torch

    from reddiff_pl.bench.machine import forget

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    photos = []
    for seed in range(seeds):
        forget(device)  # the run before, which would keep its memory from the other processes
        options = [f"--seed={seed}", f"--model.prior.init_args.precision={precision}", *more]
        try:
            photos.append(restored(out / f"{task}-{precision}-{seed}", task, options))
        except RunFailed as error:
            return str(error)
    return np.mean(photos, 0).tolist()


class RunFailed(Exception):
    """A restoration ended with an exit code; with the end of what it said."""


def restored(out: Path, task: str, options: Sequence[str]) -> list[float]:
    """PSNR of each val photo, restored by a task's shipped configuration into OUT in silence.

    Raises:
        RunFailed: it cannot be done.
    """
    from reddiff_pl.__main__ import main

    said = io.StringIO()
    argv = ["restore", "--config", str(TASKS / f"{task}.yaml"), "--data.shards", str(VAL)]
    argv += ["--out", str(out), "--data.batch_size=49", *options]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(argv)
    if code:
        raise RunFailed(f"exit code {code}: {' '.join(said.getvalue()[-400:].split())}")
    return psnr(out / "shards" / VAL.name)


def psnr(shard: Path) -> list[float]:
    """Of each image of a restored shard, dB; infinite where not a byte differs."""
    with tarfile.open(shard) as archive:
        members = [m for m in archive if m.name.endswith(".reddiff.json")]
        found = [json.loads(archive.extractfile(m).read())["psnr"] for m in members]  # type: ignore[union-attr]
    return [math.inf if value is None else value for value in found]


def table(rows: dict[str, dict[str, list[float] | str]], precisions: list[str]) -> str:
    """Markdown: mean PSNR of the first precision, what the others differ by, and its standard error over photos."""
    first, *others = precisions
    lines = [
        f"| task | {first}, dB | {' | '.join(f'{p} - {first}' for p in others)} |",
        "|---" * (len(others) + 2) + "|",
    ]
    for task, row in sorted(rows.items()):
        base = row[first]
        cells = [base if isinstance(base, str) else f"{np.mean(base):.3f}"]
        for other in (row[p] for p in others):
            if isinstance(other, str) or isinstance(base, str):
                cells.append(other if isinstance(other, str) else "")
                continue
            difference = np.array([0.0 if a == b else a - b for a, b in zip(other, base, strict=True)])
            if not np.isfinite(difference).all():
                cells.append(f"{np.mean(other):.3f} dB")
                continue
            error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else 0.0
            cells.append(f"{difference.mean():+.3f} ± {error:.3f}")
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.precision", description=(__doc__ or "").split("\n")[0]
    )
    tasks = sorted({path.stem for path in TASKS.glob("*.yaml")} - INCOMPLETE)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and precision.md")
    parser.add_argument("--tasks", nargs="+", default=tasks, help="default: all")
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), help="default: %(default)s")
    parser.add_argument(
        "--seeds", type=int, default=1, help="restorations of each photo (default: %(default)s)"
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="restorations at a time (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, help="photos (default: all 49)")
    parser.add_argument("--steps", type=int, help="of the sampler (default: as shipped)")
    options = parser.parse_args(argv)
    more = [f"--limit={options.limit}"] if options.limit else []
    more += [f"--model.sampler.init_args.steps={options.steps}"] if options.steps else []
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows: dict[str, dict[str, list[float] | str]] = {}
    done: dict[str, dict[str, list[float] | str]] = {}
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        jobs = {
            pool.submit(measure, task, precision, options.seeds, options.out, more): (task, precision)
            for task in options.tasks
            for precision in dict.fromkeys(options.precisions)
        }
        for job in as_completed(jobs):
            task, precision = jobs[job]
            failure = job.exception()  # must not cost the other tasks their rows
            done.setdefault(task, {})[precision] = job.result() if failure is None else repr(failure)
            if len(done[task]) < len(set(options.precisions)):
                continue
            rows[task] = done[task]
            text = table(rows, options.precisions)
            (options.out / "precision.md").write_text(text + "\n")
            print(text.splitlines()[sorted(rows).index(task) + 2], flush=True)
    print(f"\n{table(rows, options.precisions)}")
    return int(any(isinstance(cell, str) for row in rows.values() for cell in row.values()))


if __name__ == "__main__":
    sys.exit(main())
