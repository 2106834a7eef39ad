"""The `reddiff` command: light, so that help comes at once and no signal is missed.

Everything heavy is imported by its command. Signals are caught from the first line on: imports take seconds, and a
USR1 among them would end the job.
"""

from __future__ import annotations

import importlib
import io
import locale
import os
import sys
from functools import partial
from typing import Any

from reddiff_pl import lazy_packages, stop

# Threads that wait by spinning make the CPU path six times slower as soon as another process wants a core (measured:
# 445 against 73 ms an image and step), and win nothing otherwise. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A captured graph then keeps little more memory than it uses, at the same speed (measured, ADM's network at batch 32:
# 9.5 instead of 14.3 GiB for 8.4). Read when torch first needs a device; the older name still counts.
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

lazy_packages.wait()

USAGE = """usage: reddiff COMMAND [options]

Restore large image sets with a diffusion prior: shards of measurements in, restored shards out.

commands:
  restore    restore shards of measurements, clean shards, or a folder of images
  degrade    write the measurements of clean shards or of a folder, to restore them elsewhere or later
  status     how far a run is: shards, samples, failures, images/s, time left
  evaluate   metrics of a run with their intervals: PSNR, SSIM, LPIPS, FID, KID, top-1, ...
  compare    runs beside each other: differences with their intervals, and the same images in one picture
  report     one HTML file about a run: pictures, metrics, speed, failures
  sweep      restore under every combination of some options: a table and a picture
  tables     the tasks of a paper's tables (RED-diff's, DAPS's) for several samplers, beside what was published
  export     the restored images as plain files, under the inputs' own names
  configs    the configurations that ship; `configs show NAME` prints one
  submit     run `restore` on a SLURM cluster
  prior      `prior import`: turn a checkpoint of the OpenAI ADM family into a folder that `restore` reads;
             `prior average`: the mean of several trainings of one network;
             `prior measure`: its error by noise level, so that a GPU computes in 8 bits where that is as good
  fit        train a prior on photos; ends in a diffusers folder
  bench      the speed of this machine: network, whole restorations, disk to disk, a plain loop beside them
  demo       restore twelve photos that ship with the package, and draw a picture of them

`reddiff COMMAND --help` lists a command's options; of restore, degrade and fit those that people use, --help-all all.
The short way, for damaged photos and their masks:
  reddiff restore photos/ --task inpainting_given --to restored/
Faithful (--perception 0, the default) or sharp (up to 1):
  reddiff restore thumbnails/ --task superresolution_4x --perception 1 --to enlarged/
Configurations compose, the later one wins:
  reddiff restore --config tasks/inpainting_random.yaml --data.images photos/ --out out/
"""


# where each command is; imported when it is wanted
COMMANDS = {
    "restore": "reddiff_pl.restoring.command:restore",
    "degrade": "reddiff_pl.restoring.degrade:degrade",
    "status": "reddiff_pl.cluster.status:status",
    "evaluate": "reddiff_pl.evaluation.command:evaluate",
    "compare": "reddiff_pl.evaluation.compare:compare",
    "report": "reddiff_pl.report.command:report",
    "sweep": "reddiff_pl.sweep.command:sweep",
    "tables": "reddiff_pl.suites.command:tables",
    "export": "reddiff_pl.exporting.command:export",
    "configs": "reddiff_pl.options.configs:configs",
    "submit": "reddiff_pl.cluster.submit:submit",
    "prior": "reddiff_pl.training.prior_command:prior",
    "fit": "reddiff_pl.training.cli:fit",
    "bench": "reddiff_pl.bench.command:bench",
    "demo": "reddiff_pl.demo:demo",
}
# parsers of those whose imports take seconds: help, and what is wrong, come before them
PARSERS = {
    "evaluate": "reddiff_pl.options.evaluate:parse_evaluate",
    "compare": "reddiff_pl.options.evaluate:parse_compare",
    "report": "reddiff_pl.options.report:parse_report",
    "export": "reddiff_pl.options.export:parse_export",
    "prior": "reddiff_pl.options.prior:parse_prior",
    "demo": "reddiff_pl.options.demo:parse_demo",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if argv else 2
    command, options = argv[0], argv[1:]
    if command in ("-V", "--version", "version"):
        from reddiff_pl import __version__

        print(f"reddiff {__version__}")
        return 0
    if command not in COMMANDS:
        from reddiff_pl.options.shipped import near

        print(
            f"reddiff: error: no command {command}{near(command, COMMANDS)}; see reddiff --help",
            file=sys.stderr,
        )
        return 2
    from reddiff_pl import exit_codes

    return exit_codes.run(command, partial(_start, command), options)


def _start(command: str, options: list[str]) -> int:
    from reddiff_pl.options.pages import page

    if (text := page(command, options)) is not None:
        print(text, end="")
        return 0
    if command in PARSERS:
        _named(PARSERS[command])(options)
    if command == "restore":
        from reddiff_pl.cluster.launch import devices, launch, option

        gpus = devices(option(options, "trainer.devices"))
        if gpus is not None and "--help-all" not in options:
            return launch(command, options, gpus)
    if command in ("restore", "degrade", "demo"):  # fit's processes get their shares from Lightning
        from reddiff_pl.devices.cores import share

        os.environ.update(share(1))
    return _named(COMMANDS[command])(options)


def _named(place: str) -> Any:
    """What `module:name` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def entry() -> int:
    """The console script. UTF-8 whatever the locale says, and printing never raises."""
    if _other_locale():
        os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts, too
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    stop.listen()
    return main()


def _other_locale() -> bool:
    """Whether text files would be read and written in something else than UTF-8."""
    name = locale.getpreferredencoding(False).lower().replace("_", "-")
    return not sys.flags.utf8_mode and name not in ("utf-8", "utf8")


if __name__ == "__main__":
    sys.exit(entry())
