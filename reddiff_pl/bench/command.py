"""`reddiff bench`: what this machine does, measured in one run, as ratios. No torch: every part is a process."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from reddiff_pl import stop
from reddiff_pl.bench import disk
from reddiff_pl.bench.options import PRECISIONS, parse
from reddiff_pl.bench.processes import Patience, TimeIsUp, ask
from reddiff_pl.bench.table import render, row_line
from reddiff_pl.errors import ConfigError, Stopped


def bench(argv: list[str]) -> int:
    """Measure, and write OUT/bench.json and OUT/bench.md after every row.

    Returns:
        0 when every row was measured; 1 when some could not be (out of memory counts as measured); 85, 143 or 130 after
        a signal.

    Raises:
        ConfigError: a bad option, or a network that cannot be loaded.
    """
    options = parse(argv)
    work = Path(options.work or tempfile.mkdtemp(prefix="reddiff-bench-"))
    try:
        run = _Bench(options, argv, work)
        try:
            run.all()
        except Stopped:
            print("reddiff bench: stopped by a signal; what is measured is kept", flush=True)
            return stop.exit_code()
        finally:
            run.write()
            print(f"\n{render(run.record)}\nlook at {run.out / 'bench.md'}", flush=True)
    finally:
        if not options.work:
            shutil.rmtree(work, ignore_errors=True)
    return 1 if any(row.get("error", "out of memory") != "out of memory" for row in run.rows) else 0


class _Bench:
    """One run: what is asked, what is measured so far."""

    def __init__(self, options: argparse.Namespace, argv: list[str], work: Path) -> None:
        self.options, self.work, self.out = options, work, Path(options.out)
        self.patience = Patience(options.silence, options.minutes)
        self.rows: list[dict[str, Any]] = []
        self.record: dict[str, Any] = {
            "command": " ".join(["reddiff", "bench", *argv]),
            "began": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "rows": self.rows,
        }
        self.began = time.monotonic()
        self._number = 0
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"--out: {error.filename} cannot be used as a directory: {error.strerror}"
            ) from error

    def all(self) -> None:
        """All parts, what matters most first."""
        options = self.options
        print("making and checking the network", flush=True)
        self.job: dict[str, Any] = {
            "device": options.device,
            "network": self._network(),
            "prior": {} if options.precision is None else {"precision": options.precision},
            "repeats": options.repeats,
            "seconds": options.seconds,
        }
        about = next(
            iter(ask({**self.job, "kind": "about", "rows": ["about"]}, self._log("about"), self.patience))
        )[1]
        if "error" in about:
            raise ConfigError(f"--network: {options.network}: {about['error']}")
        self.record |= about
        self._say_about(about)
        gpu = about["device_type"] == "cuda"
        steps = self.job["steps"] = options.steps or (100 if gpu else 10)
        self.record["steps"] = steps
        self.job |= {
            "device": options.device or about["device_type"],
            "flop": about["network"]["flop"],
            "classes": about["network"]["classes"],
        }
        sizes = options.batch_sizes or ([1, 8, 16, 32] if gpu else [1, 4])
        what = options.what
        own = [*(["forward"] if "forward" in what else []), *(["loop", "proximal"] if "loop" in what else [])]
        if "start" in what:
            self._start(min(sizes))
        for size in sizes if own else []:
            self._measure("shipped", own, size, {}, "as shipped")
        for size in sizes if "disk" in what else []:
            self._disk(size, steps)
        eager: list[str] = []
        precisions = options.reference or (list(PRECISIONS) if gpu else ["32", "bf16"])
        if "reference" in what:
            eager += [f"reference {precision}" for precision in precisions]
        if "dps" in what:
            eager += ["dps shipped", f"dps {'bf16' if gpu else '32'}"]
        for size in sizes if eager else []:
            self._measure("eager", eager, size, {}, "")
        for variant in options.variant if own else []:
            name = ",".join(f"{key}={value}" for key, value in variant.items())
            for size in sizes:
                self._measure("shipped", own, size, variant, name)

    def _network(self) -> str | None:
        """Folder of the network, for all processes; None: the bundled one."""
        if self.options.network == "bundled":
            return None
        if self.options.network != "adm256":
            return str(self.options.network)
        from reddiff_pl.bench.network import make_network  # torch

        return make_network(self.work / "adm256")

    def _say_about(self, about: dict[str, Any]) -> None:
        self.write()
        zeros = about["network"]["zeros"]
        if not zeros["alive"]:
            print(
                f"warning: zeros in this network flatter its timings: {len(zeros['all_zero'])} layers give only these, "
                f"{len(zeros['over_1_percent'])} more than 1 %, {len(zeros['zero_weights'])} have no other weights",
                flush=True,
            )

    def _measure(self, kind: str, rows: list[str], size: int, prior: dict[str, Any], variant: str) -> None:
        job = {**self.job, "kind": kind, "rows": rows, "batch_size": size}
        job["prior"] = {**self.job["prior"], **prior}
        for name, result in ask(job, self._log(f"{kind}-{size}"), self.patience):
            what, _, which = name.partition(" ")
            which = "as shipped" if which == "shipped" else f"plain, {which}" if which else variant
            self._add({"what": what, "which": which, "batch_size": size, **result})

    def _disk(self, size: int, steps: int) -> None:
        """The second shard is timed, of so many batches that it lasts about ten seconds."""
        alone = self._ms("proximal", size)
        batches = self.options.disk_batches
        if batches is None:
            seconds = (alone or 10.0) * steps * size / 1000
            batches = max(2, min(50, round(10 / seconds)))
        row = self._restore(f"disk-{size}", [size, size * batches], size, steps, None)
        if "error" not in row:
            each = steps // 2 * 2
            row["evaluations"] = each
            row["ms"] = row["steady_seconds"] * 1000 / row["steady_images"] / each
            row["images_per_s"] = 10 / row["ms"]
            row["cores"] = row["cpu_seconds"] / row["whole_seconds"]
            if alone:
                row["ratio_to_loop"] = row["ms"] / alone
                row["ratio_to_loop_with_ends"] = row["work_seconds"] * 1000 / row["images"] / each / alone
        self._add({"what": "disk", "which": "as shipped", "batch_size": size, **row})

    def _start(self, size: int) -> None:
        """A batch of one step from disk to disk, with nothing compiled before, and again."""
        for which in ("cold", "warm"):
            row = self._restore(f"start-{which}", [size], size, 2, self.work / "caches")
            self._add({"what": "start", "which": which, "batch_size": size, **row})

    def _restore(
        self, name: str, counts: list[int], size: int, evaluations: int, caches: Path | None
    ) -> dict[str, Any]:
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        if not self.patience.left():
            return {"error": "not measured: no time left"}
        try:
            images = disk.make_shards(folder / "in", self.record["network"]["shape"][-1], counts)
            argv = disk.command(self.job, images, folder / "out", size, evaluations)
            return disk.restore(argv, folder / "out", self._log(name), self.patience.wait, caches)
        except TimeIsUp:
            return {"error": "took too long"}
        except (OSError, RuntimeError) as error:
            return {"error": " ".join(str(error).split())[:300]}
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _ms(self, what: str, size: int) -> float | None:
        found = (row.get("ms") for row in self.rows if (row["what"], row["batch_size"]) == (what, size))
        return next(found, None)

    def _add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.write()
        print(row_line(row), flush=True)

    def _log(self, name: str) -> Path:
        self._number += 1
        return self.out / "logs" / f"{self._number:02d}-{name}.log"

    def write(self) -> None:
        """OUT/bench.json and OUT/bench.md as far as it is."""
        self.record["seconds"] = round(time.monotonic() - self.began, 1)
        for name, text in (
            ("bench.json", json.dumps(self.record, indent=1)),
            ("bench.md", render(self.record)),
        ):
            path = self.out / f".{name}"
            path.write_text(text + "\n")
            path.replace(self.out / name)
