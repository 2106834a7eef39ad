"""One host, several GPUs: independent tasks from disk to disk, against one; then two of them are killed.

    python -m benchmarks.scaling --out runs/scaling --network adm256
    python -m benchmarks.scaling --out runs/scaling --device cpu --devices 1,2 --batch-size 2 --steps 4

Every task has as many images as a task alone. Its first shard takes start-up and compiling upon itself, so that
images/s are those between its first commit and its last, added over the tasks. At the end as many tasks run again, two
are killed with -9 half way, the same command follows, and the keys are counted and the shards compared with those of
the run before. Writes scaling.json and scaling.md after every run. What is made is kept in OUT for the next time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.scaling_table import table
from benchmarks.shards import keys, make
from benchmarks.watching import Usage, tasks_of
from reddiff_pl.bench import disk
from reddiff_pl.cluster.launch import devices
from reddiff_pl.devices.cores import cores
from reddiff_pl.shards.layout import Run


def inputs(options: argparse.Namespace, folder: Path, size: int) -> None:
    """Shards for the largest number of tasks, made by all cores."""
    each = options.batch_size * options.batches
    paths = [folder / f"{i:06d}.tar" for i in range(max(options.devices) * options.shards)]
    missing = [path for path in paths if not path.exists()]
    (folder / "making").mkdir(parents=True, exist_ok=True)
    print(f"making {len(missing)} shards of {each} images", flush=True)
    # not forked: torch may have threads by now
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(missing), cores()) or 1, context) as pool:
        jobs = [pool.submit(make, path, each, size, options.seed, options.photos) for path in missing]
        for job in jobs:
            job.result()


def restored(out: Path) -> dict[str, dict[str, Any]]:
    """The sidecars of the finished shards, by name."""
    return {name: sidecar for name, sidecar in disk.sidecars(out).items() if sidecar is not None}


class Scaling:
    """One measurement: what is asked, the shards, the results so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, Path(options.out)
        kind = "photos" if options.photos else "random"
        self.shards = (
            self.out / f"{kind}-{options.network.replace('/', '_')}-{options.batch_size * options.batches}"
        )
        self.record: dict[str, Any] = {
            "command": " ".join(["python", "-m", "benchmarks.scaling", *sys.argv[1:]]),
            "began": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "host_cores": cores(),
            "runs": [],
        }

    def prepare(self) -> None:
        """The network, the inputs."""
        from reddiff_pl.priors.loading import read_json
        from reddiff_pl.priors.unet import BUNDLED

        network = None if self.options.network == "bundled" else self.options.network
        if network == "adm256":
            from reddiff_pl.bench.network import make_network

            print("making the network", flush=True)
            network = make_network(self.out / "adm256")
        config = read_json(Path(network or BUNDLED) / "config.json", "--network")
        self.job = {"network": network, "prior": {}, "device": self.options.device, "classes": 0}
        self.record["size"] = config["sample_size"]
        inputs(self.options, self.shards, config["sample_size"])

    def start(self, tasks: int, out: Path) -> subprocess.Popen[bytes]:
        """`reddiff restore` on so many devices."""
        names = [f"{i:06d}" for i in range(tasks * self.options.shards)]
        folder = out.with_name(out.name + "-in")
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not (folder / f"{name}.tar").exists():
                os.link(self.shards / f"{name}.tar", folder / f"{name}.tar")
        argv = disk.command(self.job, str(folder / "*.tar"), out, self.options.batch_size, self.options.steps)
        with open(self.out / f"{out.name}.log", "ab") as log:
            return subprocess.Popen(
                [*argv, f"--trainer.devices={tasks}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def fresh(self, name: str) -> Path:
        """A folder for a run's output, empty."""
        for folder in (self.out / name, self.out / f"{name}-in"):
            shutil.rmtree(folder, ignore_errors=True)
        return self.out / name

    def wait(self, process: subprocess.Popen[bytes], until: Any = lambda: False) -> int | None:
        """Wait for the command's end, or until something holds (None); it is killed after --minutes."""
        end = time.monotonic() + 60 * self.options.minutes
        while process.poll() is None:
            if until():
                return None
            if time.monotonic() > end:
                for pid in tasks_of(process.pid).values():
                    os.kill(pid, 9)
                process.kill()
            time.sleep(0.2)
        return process.returncode

    def measure(self, tasks: int) -> dict[str, Any]:
        """One undisturbed run."""
        out = self.fresh(f"tasks-{tasks}")
        began = time.time()
        process = self.start(tasks, out)
        usage = Usage(process.pid)
        watcher = threading.Thread(target=usage.watch, args=(lambda: process.poll() is None,), daemon=True)
        watcher.start()
        code = self.wait(process)
        watcher.join()
        row: dict[str, Any] = {"tasks": tasks, "exit_code": code, "whole_seconds": time.time() - began}
        found = restored(out)
        row["images"] = sum(sidecar["restored"] for sidecar in found.values())
        wanted = tasks * self.options.shards * self.options.batches * self.options.batch_size
        if code or row["images"] != wanted:
            reason = disk.last_line(self.out / f"{out.name}.log")
            return {**row, "error": f"{row['images']} of {wanted} images, exit code {code}: {reason}"}
        row |= self.rates(found, usage, began)
        row["bytes_in"] = (
            sum(path.stat().st_size for path in out.with_name(out.name + "-in").glob("*")) / tasks
        )
        row["bytes_out"] = sum(sidecar["tar_bytes"] for sidecar in found.values()) / tasks
        return row

    def rates(self, found: dict[str, dict[str, Any]], usage: Usage, began: float) -> dict[str, Any]:
        """images/s of each task between its first commit and its last, and what they used meanwhile."""
        each = {
            task: sorted((s for s in found.values() if s["task"] == task), key=lambda s: s["finished"])
            for task in sorted({s["task"] for s in found.values()})
        }
        rates, cores = [], []
        for task, mine in each.items():
            first, last = mine[0]["finished"], mine[-1]["finished"]
            if last > first:
                rates.append(sum(s["restored"] for s in mine[1:]) / (last - first))
                cores.append(usage.cores(task, first, last))
        opened = [min(s["finished"] - s["seconds"] for s in mine) for mine in each.values()]
        ends = [mine[-1]["finished"] for mine in each.values()]
        images = sum(s["restored"] for s in found.values())
        used = [value for value in cores if value is not None]
        return {
            "images_per_s": sum(rates),
            "each_images_per_s": rates,
            "start_seconds": max(opened) - began,
            "images_per_s_with_ends": images / (max(ends) - min(opened)),
            "cores_a_task": sum(used) / len(used) if used else None,
            "rss_gib_a_task": usage.largest_rss(),
            "device": next(iter(found.values())).get("device", ""),
            "device_gib_a_task": max(
                (s["peak_memory_gib"] for s in found.values() if "peak_memory_gib" in s), default=None
            ),
        }

    def kill(self, tasks: int) -> dict[str, Any]:
        """A run of which two tasks are killed half way, and the same command again."""
        out = self.fresh(f"killed-{tasks}")
        process = self.start(tasks, out)
        half = tasks * self.options.shards / 2
        code = self.wait(process, lambda: len(restored(out)) >= half)
        alive = tasks_of(process.pid)
        victims = sorted(alive)[-2:] if len(alive) > 2 else sorted(alive)[-1:]
        for rank in victims:
            os.kill(alive[rank], 9)
        print(f"killed {len(victims)} of {tasks} tasks after {len(restored(out))} shards", flush=True)
        codes = [code if code is not None else self.wait(process)]
        codes.append(self.wait(self.start(tasks, out)))
        asked, there = keys(out.with_name(out.name + "-in")), keys(Run(out).shards)
        undisturbed = restored(self.out / f"tasks-{tasks}")
        again = restored(out)
        return {
            "tasks": tasks,
            "killed": len(victims),
            "exit_codes": codes,
            "keys": len(asked),
            "exactly_once": sum(there[key] == 1 for key in asked),
            "missing": sum(key not in there for key in asked),
            "more_than_once": sum(there[key] > 1 for key in asked),
            "not_asked_for": sum(key not in asked for key in there),
            "shards_compared": len(undisturbed.keys() & again.keys()),
            "shards_equal": sum(
                undisturbed[name]["tar_sha256"] == again[name]["tar_sha256"]
                for name in undisturbed.keys() & again.keys()
            ),
        }

    def write(self) -> None:
        """OUT/scaling.json and OUT/scaling.md."""
        (self.out / "scaling.json").write_text(json.dumps(self.record, indent=1) + "\n")
        (self.out / "scaling.md").write_text(table(self.record) + "\n")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser("benchmarks.scaling", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", required=True, help="folder for what is made and the results")
    add("--network", default="bundled", help="bundled, adm256 (random), or a diffusers folder")
    add(
        "--devices",
        help="numbers of tasks, comma-separated; default: of 1,2,4,8 those that there are GPUs for",
    )
    add("--batch-size", type=int, default=16, help="images restored together (default: %(default)s)")
    add("--batches", type=int, default=4, help="batches of a shard (default: %(default)s)")
    add("--shards", type=int, default=3, help="shards of a task, at least 2 (default: %(default)s)")
    add("--steps", type=int, default=20, help="network evaluations an image (default: %(default)s)")
    add("--photos", nargs="*", default=[], metavar="TAR", help="take crops of these photos as images")
    add("--device", choices=("cpu", "cuda"), help="default: GPUs if there are any")
    add("--no-kill", action="store_true", help="leave the killing out")
    add("--minutes", type=float, default=8.0, help="after which a run is given up (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the images")
    options = parser.parse_args()
    if options.devices is None:
        there = len(devices(-1) or [""])
        options.devices = [n for n in (1, 2, 4, 8) if n <= there]
    else:
        options.devices = [int(n) for n in options.devices.split(",")]
    if options.shards < 2:
        parser.error("--shards: a task needs two, the first one is not timed")
    scaling = Scaling(options)
    scaling.out.mkdir(parents=True, exist_ok=True)
    scaling.prepare()
    for tasks in options.devices:
        try:
            row = scaling.measure(tasks)
        except Exception as error:  # what was measured before it is kept
            row = {"tasks": tasks, "error": f"{type(error).__name__}: {error}"}
        scaling.record["runs"].append(row)
        scaling.write()
        print(f"{tasks} tasks: {json.dumps(scaling.record['runs'][-1])}", flush=True)
    if not options.no_kill:
        try:
            scaling.record["kill"] = scaling.kill(max(options.devices))
        except Exception as error:
            scaling.record["kill"] = {"error": f"{type(error).__name__}: {error}"}
        scaling.write()
    print(f"\n{table(scaling.record)}", flush=True)
    kill = scaling.record.get("kill", {"exactly_once": 0, "keys": 0})
    good = not any("error" in row for row in scaling.record["runs"]) and kill.get("exactly_once") == kill.get(
        "keys"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
