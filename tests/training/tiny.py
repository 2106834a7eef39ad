"""A network of a few thousand weights, and the options that train it in seconds."""

from __future__ import annotations

import json
from pathlib import Path

from helpers import CONFIGS, VAL_SHARD

NETWORK = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [8, 8],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}

FIT = [
    *("--config", str(CONFIGS / "fit" / "photos64.yaml")),
    *("--model.network", json.dumps({"class_path": "diffusers.UNet2DModel", "init_args": NETWORK})),
    *("--data.shards", str(VAL_SHARD), "--data.batch_size=8", "--data.levels=3", "--data.max_scale=32"),
    *("--model.compile=false", "--model.max_minutes=null", "--model.max_steps=20", "--model.warmup_steps=2"),
    *("--model.lr=0.01", "--model.sample_images=4", "--model.sample_steps=3", "--model.validate_every=10"),
    *("--trainer.precision=32-true", "--trainer.accelerator=cpu", "--data.workers=1"),
]


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
