"""What the fast path costs in quality: the val photos restored task by task in several precisions, one table.

    python -m benchmarks.precision --out runs/precision --processes 6            # on a GPU: bf16 and float16 are fused
    python -m benchmarks.precision --out runs/precision --tasks hdr --limit 2 --steps 2

Every run is a `reddiff restore` with the shipped settings; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from benchmarks.eps_mse import VAL

TASKS = Path(__file__).parent.parent / "configs" / "tasks"
PRECISIONS = ("32", "bf16", "16")
OWN_PARAMETERS = {"inpainting_given"}  # photos do not bring them


def measure(task: str, precisions: list[str], out: Path, more: list[str]) -> dict[str, float | str]:
    """Mean PSNR of the restored photos, by precision, or what went wrong."""
    from reddiff_pl.__main__ import main

    found: dict[str, float | str] = {}
    for precision in precisions:
        folder, said = out / f"{task}-{precision}", io.StringIO()
        argv = ["restore", "--config", str(TASKS / f"{task}.yaml"), "--data.shards", str(VAL)]
        argv += [
            "--out",
            str(folder),
            f"--model.prior.init_args.precision={precision}",
            "--data.batch_size=49",
            *more,
        ]
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main(argv)
        if code:
            found[precision] = f"exit code {code}: {said.getvalue()[-300:]}"
            continue
        total, count = json.loads((folder / "shards" / f"{VAL.stem}.json").read_text())["metrics"]["psnr"]
        found[precision] = total / count
    return found


def table(rows: dict[str, dict[str, float | str]], precisions: list[str]) -> str:
    """Markdown: PSNR of the first precision, and what the others differ by."""
    first, *others = precisions
    lines = [
        f"| task | {first}, dB | {' | '.join(f'{p} - {first}' for p in others)} |",
        "|---" * (len(others) + 2) + "|",
    ]
    for task, row in sorted(rows.items()):
        base = row[first]
        cells = [
            f"{row[p] - base:+.3f}" if isinstance(row[p], float) and isinstance(base, float) else str(row[p])  # type: ignore[operator]
            for p in others
        ]
        lines.append(
            f"| {task} | {base:.3f} | {' | '.join(cells)} |"
            if isinstance(base, float)
            else f"| {task} | {base} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.precision", description=(__doc__ or "").split("\n")[0]
    )
    tasks = sorted({path.stem for path in TASKS.glob("*.yaml")} - OWN_PARAMETERS)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and precision.md")
    parser.add_argument("--tasks", nargs="+", default=tasks, help="default: all")
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=1, help="tasks at a time (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="photos (default: all 49)")
    parser.add_argument("--steps", type=int, help="of the sampler (default: as shipped)")
    options = parser.parse_args(argv)
    more = [f"--limit={options.limit}"] if options.limit else []
    more += [f"--model.sampler.init_args.steps={options.steps}"] if options.steps else []
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = {}
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        jobs = {
            pool.submit(measure, task, options.precisions, options.out, more): task for task in options.tasks
        }
        for job in as_completed(jobs):
            rows[jobs[job]] = job.result()
            text = table(rows, options.precisions)
            (options.out / "precision.md").write_text(text + "\n")
            print(text.splitlines()[sorted(rows).index(jobs[job]) + 2], flush=True)
    print(f"\n{table(rows, options.precisions)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
