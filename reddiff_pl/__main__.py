"""The `reddiff` command: light, so that help comes at once. Everything heavy is imported by its command."""

from __future__ import annotations

import sys

USAGE = """usage: reddiff COMMAND [options]

Restore large image sets with a diffusion prior: shards of measurements in, restored shards out.

commands:
  restore    restore shards of measurements, clean shards, or a folder of images
  degrade    write the measurements of clean shards or of a folder, to restore them elsewhere or later
  demo       restore twelve photos that ship with the package, and draw a picture of them

`reddiff COMMAND --help` lists a command's options (it takes some seconds: they come from the classes
themselves). Configurations compose, the later one wins:
  reddiff restore --config configs/tasks/inpainting_random.yaml --data.images photos/ --out out/
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] in ("-V", "--version", "version"):
        from reddiff_pl import __version__

        print(f"reddiff {__version__}")
        return 0
    if argv[0] not in ("restore", "degrade", "demo"):
        print(f"reddiff: error: no command {argv[0]}; see reddiff --help", file=sys.stderr)
        return 2
    from reddiff_pl import cli  # imports lightning and torch

    return cli.run(argv[0], argv[1:])


if __name__ == "__main__":
    sys.exit(main())
