"""A noise predictor and a flow trained by `reddiff fit` on the same photos at the same budget, beside each other.

    python -m benchmarks.objectives --shards 'photos/train-*.tar' --minutes 3.2 --out runs/objectives      # on a GPU
    python -m benchmarks.objectives --shards tests/data/val-000000.tar --out /tmp/o --limit 2 -- \\
        --model.max_steps 2 --data.batch_size 4 --trainer.precision 32-true

Both train at the same time on one device, so that neither has it for itself. Then the error of their noise on the val
photos, at the same noise levels and with the same draws, and PSNR of the shipped sampler in 20 evaluations by task.
What stands behind -- goes to both trainings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.eps_mse import TIMESTEPS, VAL
from benchmarks.precision import restored

OBJECTIVES = {"epsilon": "UNet", "flow": "Flow"}
TASKS = ("denoising", "inpainting_random", "superresolution_4x", "deblur_aniso")
CONFIGS = Path(__file__).parent.parent / "configs"
# for minutes: smaller batches and a shorter memory than for hours, and no compilation, which takes most of them
SHORT = [
    "--data.batch_size=128",
    "--model.lr=5e-4",
    "--model.warmup_steps=100",
    "--model.ema_decays=[0.99, 0.998]",
    "--model.compile=false",
]


def train(out: Path, shards: list[str], more: list[str]) -> None:
    """Both trainings; what they say goes to OUT/OBJECTIVE.log."""
    running = []
    for objective in OBJECTIVES:
        command = [
            sys.executable,
            "-m",
            "reddiff_pl",
            "fit",
            "--config",
            str(CONFIGS / "fit" / "photos64.yaml"),
        ]
        command += ["--data.shards", json.dumps(shards), f"--model.objective={objective}", *SHORT]
        command += ["--model.sample_images=0", "--out", str(out / objective), *more]
        with open(out / f"{objective}.log", "w") as log:
            running.append((objective, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)))
    for objective, process in running:
        if code := process.wait():
            said = (out / f"{objective}.log").read_text()
            raise RuntimeError(f"fit of {objective}: exit code {code}: {said[-500:]}")


def steps(folder: Path) -> int:
    """How many steps a training did."""
    return json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"]


def errors(out: Path, count: int | None) -> dict[str, Any]:
    """Each photo's error by timestep, (N, T), by objective."""
    import torch

    from reddiff_pl import priors
    from reddiff_pl.training.measuring import eps_errors, photos

    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {}
    for objective, kind in OBJECTIVES.items():
        prior = getattr(priors, kind)(str(out / objective / "prior"), precision="32").to(device)
        found[objective] = eps_errors(prior, photos([str(VAL)], None, prior.shape, 1, count), TIMESTEPS, 4)
    return found


def table(rows: list[tuple[str, Any, Any, str]]) -> str:
    """Markdown of (what, epsilon's values, flow's, format): means, and the difference with its standard error."""
    lines = ["| | epsilon | flow | flow - epsilon |", "|---|---|---|---|"]
    for what, first, second, form in rows:
        difference = np.asarray(second) - np.asarray(first)
        error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else float("nan")
        apart = f"{difference.mean():+{form}} ± {error:{form}}"
        lines.append(f"| {what} | {np.mean(first):{form}} | {np.mean(second):{form}} | {apart} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.objectives", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--shards", nargs="+", required=True, help="photos to train on")
    parser.add_argument(
        "--minutes", type=float, help="budget of both trainings, imports and compilation included"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the priors and objectives.md")
    parser.add_argument("--limit", type=int, help="val photos (default: all)")
    parser.add_argument("more", nargs="*", help="further options of fit, behind --")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    budget = [f"--model.max_minutes={options.minutes}"] if options.minutes else []
    train(options.out, options.shards, [*budget, *options.more])
    done = {objective: steps(options.out / objective) for objective in OBJECTIVES}
    print(f"trained in {time.perf_counter() - began:.0f} s: steps {done}", flush=True)
    found = errors(options.out, options.limit)
    rows = [
        (f"error of the noise, t = {t}", found["epsilon"][:, i].numpy(), found["flow"][:, i].numpy(), "#.4g")
        for i, t in enumerate(TIMESTEPS)
    ]
    print(table(rows), flush=True)
    limit = [f"--limit={options.limit}"] if options.limit else []
    for task in TASKS:
        each = [
            restored(
                options.out / f"{task}-{objective}",
                task,
                [
                    f"--model.prior=reddiff_pl.priors.{kind}",
                    *("--model.prior.init_args.path", str(options.out / objective / "prior"), *limit),
                ],
            )
            for objective, kind in OBJECTIVES.items()
        ]
        rows.append((f"{task}, dB", *each, ".2f"))
    text = f"Steps: {done['epsilon']} and {done['flow']}.\n\n{table(rows)}\n"
    (options.out / "objectives.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
