"""A photo larger than the prior, restored window by window: the picture docs/large.png.

python -m benchmarks.large --task inpainting_random --key 0258_0256_00000_00000 --to docs/large.png
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.eps_mse import VAL
from reddiff_pl.demo import picture_rows
from reddiff_pl.evaluation.overview import Row
from reddiff_pl.options.shipped import shipped
from reddiff_pl.restoring.command import restore_with
from reddiff_pl.restoring.options import RestoreCLI
from reddiff_pl.shards.layout import Run


def draw(row: Row, path: Path, captions: list[str]) -> None:
    """Images side by side, in their own size, with captions below."""
    gap, caption = 8, 24
    font = ImageFont.load_default(15)
    width, height = row.cells[0][1].size
    canvas = Image.new("RGB", (len(row.cells) * (width + gap) - gap, height + caption), "white")
    pen = ImageDraw.Draw(canvas)
    for i, ((_, image), text) in enumerate(zip(row.cells, captions, strict=True)):
        left = i * (width + gap)
        canvas.paste(image.convert("RGB").resize((width, height), Image.Resampling.NEAREST), (left, 0))
        pen.text((left + width // 2, height + caption // 2), text, fill="#333333", font=font, anchor="mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="inpainting_random", help="a file of configs/tasks")
    parser.add_argument("--photos", default=str(VAL), help="a shard of photos (default: the val photos)")
    parser.add_argument("--key", default="0258_0256_00000_00000", help="which of them")
    parser.add_argument("--size", type=int, default=256, help="side that it is reduced to")
    parser.add_argument("--prior", help="a diffusers folder; default: the one that ships")
    parser.add_argument("--to", default="docs/large.png")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        shard, out = Path(folder, "photo.tar"), Path(folder, "out")
        with tarfile.open(arguments.photos) as photos, tarfile.open(shard, "w") as one:
            for member in photos:
                if member.name.startswith(f"{arguments.key}."):
                    one.addfile(member, photos.extractfile(member))
        options = [
            *("--config", shipped("priors/tiled.yaml"), "--config", shipped(f"tasks/{arguments.task}.yaml")),
            *("--data.shards", str(shard), "--data.size", str(arguments.size), "--data.batch_size", "1"),
            *("--out", str(out)),
        ]
        if arguments.prior:
            options += ["--model.prior.init_args.prior.init_args.path", arguments.prior]
        cli = RestoreCLI("restore", options)
        if code := restore_with(cli):
            return code
        (row,) = picture_rows(cli.datamodule, Run(out))
        decibels = [text.partition(", ")[2] for text, _ in row.cells]
        captions = ["photo", f"measurement, {decibels[1]}", f"restored, {decibels[2]}"]
        draw(row, Path(arguments.to), captions)
        print(*captions, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
