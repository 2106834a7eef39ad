"""What a run leaves opens in Hugging Face datasets: the shards alone lie in OUT/shards."""

from __future__ import annotations

import io

import numpy as np
import pytest
from helpers import png
from PIL import Image

from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.writer import ShardWriter

datasets = pytest.importorskip("datasets")


@pytest.mark.parametrize("how", ["folder", "files"])
def test_the_shards_open_as_a_dataset(tmp_path, monkeypatch, how):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = Run(tmp_path / "out")
    run.shards.mkdir(parents=True)
    pictures = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
    for shard in range(2):
        writer = ShardWriter(run, f"{shard:06d}")
        assert writer.open()
        for i in range(3 * shard, 3 * shard + 3):
            writer.write(
                f"k{i}", [("png", png(pictures[i]))], {"psnr": 20.5, "seed": 0}, b'{"caption": "a cat"}'
            )
        writer.commit(True, {})
    where = {"folder": (str(run.shards),), "files": ("webdataset",)}[how]
    files = {"data_files": str(run.shards / "*.tar")} if how == "files" else {}
    found = datasets.load_dataset(*where, **files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(found) == 6 and set(found.column_names) >= {"png", "json", "reddiff.json", "__key__"}
    for i, row in enumerate(found):
        assert row["__key__"] == f"k{i}" and row["json"]["caption"] == "a cat"
        assert row["reddiff.json"]["psnr"] == 20.5
        image = (
            row["png"] if isinstance(row["png"], Image.Image) else Image.open(io.BytesIO(row["png"]["bytes"]))
        )
        assert np.array_equal(np.asarray(image), pictures[i])
