"""Restores the photos that ship with the package: the proof that everything is installed."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from reddiff_pl.evaluation.overview import Row, draw_overview
from reddiff_pl.metrics import psnr
from reddiff_pl.options.demo import parse_demo
from reddiff_pl.options.shipped import shipped
from reddiff_pl.restoring.command import restore_with
from reddiff_pl.restoring.datamodule import ShardDataModule
from reddiff_pl.restoring.options import RestoreCLI
from reddiff_pl.shards import decode
from reddiff_pl.shards.encode import to_uint8
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.plan import Shard
from reddiff_pl.shards.reader import RawSample, read_shard
from reddiff_pl.shards.samples import prepare

PHOTOS = Path(__file__).parent / "assets" / "demo"
TASKS = {
    "inpainting_random": "Inpainting, half of the pixels missing",
    "inpainting_box": "Inpainting, a box missing",
    "superresolution_4x": "Super-resolution, 4x",
}
# one of them again, by the other end of the dial
SHARP = ("superresolution_4x", "Super-resolution, 4x, --perception 1", ("--perception", "1", "--limit", "2"))


def demo(argv: list[str]) -> int:
    """Restore twelve photos, four to a task, two of them sharp as well, and draw OUT/report/overview.png."""
    out = Path(parse_demo(argv).out)
    code, groups = 0, []
    rows: list[tuple[str, str, str, tuple[str, ...]]] = [
        (task, task, title, ()) for task, title in TASKS.items()
    ]
    for name, task, title, more in [*rows, (f"{SHARP[0]}_sharp", *SHARP)]:
        options = [
            *("--config", shipped(f"tasks/{task}.yaml")),
            *("--data.shards", str(PHOTOS / f"{task}.tar"), "--data.batch_size", "4"),
            *("--out", str(out / name), *more),
        ]
        cli = RestoreCLI("restore", options)
        code = max(code, restore_with(cli))
        groups.append((title, picture_rows(cli.datamodule, Run(out / name))))
    path = Run(out).overview
    draw_overview(path, groups)
    print(f"look at {path}")
    return code


def picture_rows(data: ShardDataModule, run: Run) -> list[Row]:
    """Reference, measurement and restored image of each sample: the inputs degraded again, the outputs read."""
    rows = []
    for shard in data.todo.shards:
        output = read_shard(Shard(shard.name, str(run.tar(shard.name))))
        restored = {raw.key: raw.members for raw in output if isinstance(raw, RawSample)}
        for raw in read_shard(shard):
            if raw.key not in restored or not isinstance(raw, RawSample):
                continue
            sample = prepare(raw, data.degradation)
            assert sample.x is not None
            members = restored[raw.key]
            start = data.degradation.bound(sample.params).A_dagger(sample.y[None])
            before = psnr(to_uint8(start), to_uint8(sample.x)[None]).item()
            after = json.loads(decode.member_bytes(members["reddiff.json"]))["psnr"]
            rows.append(
                Row(
                    [
                        (raw.key, _picture(sample.x)),
                        (f"measured, {before:.1f} dB", _picture(sample.y)),
                        (
                            f"restored, {after:.1f} dB",
                            decode.image(decode.member_bytes(members["png"]), "png", 3).pil(),
                        ),
                    ]
                )
            )
    return rows


def _picture(x: torch.Tensor) -> Image.Image:
    return Image.fromarray(to_uint8(x).permute(1, 2, 0).numpy())
