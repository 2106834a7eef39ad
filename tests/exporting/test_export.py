"""Plain files of a run: the inputs' names, nothing overwritten that an export did not write, whatever keys say."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import QUICK
from PIL import Image

from reddiff_pl.exporting.names import MANIFEST
from reddiff_pl.shards import decode, encode
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.writer import ShardWriter

RNG = np.random.default_rng(2)
IMAGE = torch.from_numpy(RNG.integers(0, 256, (3, 8, 10), dtype=np.uint8))
ALPHA = torch.from_numpy(RNG.integers(0, 256, (1, 8, 10), dtype=np.uint8))
DATE = "2001:02:03 04:05:06"
PNG = encode.png(IMAGE, ALPHA, DATE)


def make_run(out: Path, samples: list[tuple[str, str | None, dict[str, bytes]]], name: str = "a") -> Path:
    """A run's output: (key, file of the inputs' folder, {kind: content})."""
    run = Run(out)
    run.shards.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(run, name)
    assert writer.open()
    for key, file, members in samples:
        record = {"seed": 0, **({} if file is None else {"file": file})}
        writer.write(key, list(members.items()), record)
    writer.commit(True, {})
    return out


def files_in(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_names_are_the_inputs(reddiff, tmp_path):
    """Subfolders, spaces, dots and umlauts stay; what one name would be for two gets the whole name, or a number. No
    image is called as another's input."""
    given = {
        "sub dir/ä b_v2_0": "sub dir/ä b.v2.0.jpg",
        "same": "same.jpg",
        "same_png": "same.png",
        "SAME": "SAME.jpg",
        "n\u0303": "n\u0303.jpg",
        "\u00f1": "\u00f1.png",
        "x": "x.jpg",
        "x_png/y": "x.png/y.jpg",
    }
    samples = [(key, file, {"png": PNG, "start.png": PNG}) for key, file in given.items()]
    out = make_run(tmp_path / "out", samples)
    make_run(tmp_path / "out", [("k", None, {"png": PNG}), ("K", None, {"png": PNG})], "deep/b")
    code, printed = reddiff("export", out, tmp_path / "to")
    assert code == 0, printed
    expected = {
        "sub dir/ä b.v2.0",
        "same.jpg",
        "same",
        "SAME-2",
        "n\u0303.jpg",
        "\u00f1",
        "x",
        "deep/b/k",
        "deep/b/K-2",
    }
    names = set(files_in(tmp_path / "to"))
    assert {name.removesuffix(".png") for name in names} - {"x.png/y", "x.png/y-2"} >= expected
    assert len(names) == len(given) + 2 and set(files_in(tmp_path / "to").values()) == {PNG}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "to").rglob("*.png")}
    code, printed = reddiff("export", out, tmp_path / "to")
    assert code == 0 and "0 images written" in printed and "10 were there" in printed
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "to").rglob("*.png")}
    os.remove(tmp_path / "to" / "same.png")  # that of same.png
    code, printed = reddiff("export", out, tmp_path / "to")
    assert code == 0 and "1 images written" in printed and set(files_in(tmp_path / "to")) == names


@pytest.mark.parametrize("format", ["png", "png16", "tiff", "jpg", "webp", "npy"])
def test_formats(reddiff, tmp_path, format):
    deep = torch.from_numpy(RNG.integers(0, 65536, (1, 8, 10)).astype(np.uint16))
    array = torch.from_numpy(RNG.normal(size=(2, 8, 10)).astype(np.float32))
    samples = [("flat", "flat.jpg", {"png": PNG}), ("deep", "deep.png", {"png": encode.png(deep)})]
    out = make_run(tmp_path / "out", [*samples, ("two", "two.npy", {"npy": encode.npy(array)})])
    code, printed = reddiff("export", out, tmp_path / "to", "--format", format)
    found = files_in(tmp_path / "to")
    suffix = {"png16": "png", "tiff": "tif"}.get(format, format)
    if format in ("tiff", "npy"):
        assert code == 0 and set(found) == {f"{name}.{suffix}" for name in ("flat", "deep", "two")}, printed
    else:
        assert code == 3 and f"{format} holds 1 or 3 channels, this image has 2" in printed
        assert set(found) == {f"flat.{suffix}", f"deep.{suffix}"}
    if format == "npy":
        assert np.array_equal(np.load(io.BytesIO(found["two.npy"])), array)
        assert np.abs(np.load(io.BytesIO(found["deep.npy"])) - deep.numpy() / 65535).max() < 1e-6
        return
    flat, read = decode.image(found[f"flat.{suffix}"], "flat"), decode.image(found[f"deep.{suffix}"], "deep")
    assert flat.source.date == DATE and flat.size == (10, 8)
    assert (flat.source.alpha is None) == (format == "jpg")
    if format in ("png", "png16", "tiff"):
        assert np.abs(np.asarray(flat.pil()).transpose(2, 0, 1).astype(int) - IMAGE.numpy()).max() == 0
        assert np.array_equal(read.pixels, deep[0]) == (format != "png") and read.source.channels == 1


def test_nothing_is_overwritten_that_an_export_did_not_write(reddiff, tmp_path):
    to = tmp_path / "to"
    (to / "link").parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (to / "link").symlink_to(tmp_path / "elsewhere")
    (to / "mine.png").write_bytes(b"mine")
    (to / "pointer.png").symlink_to(tmp_path / "elsewhere" / "new.png")
    keys = ["mine", "link/inside", "pointer", "fine", "edited"]
    out = make_run(tmp_path / "out", [(key, f"{key}.jpg", {"png": PNG}) for key in keys])
    code, printed = reddiff("export", out, to)
    assert code == 3 and printed.count("is there, and is not what an export wrote") == 2
    assert "nothing is written through links" in printed
    assert (to / "mine.png").read_bytes() == b"mine" and not list((tmp_path / "elsewhere").iterdir())
    assert (to / "fine.png").read_bytes() == PNG
    (to / "edited.png").write_bytes(b"by hand")
    other = encode.png(IMAGE)
    out = make_run(tmp_path / "second", [(key, f"{key}.jpg", {"png": other}) for key in ("fine", "edited")])
    code, printed = reddiff("export", out, to)
    assert code == 3 and (to / "edited.png").read_bytes() == b"by hand"
    assert (to / "fine.png").read_bytes() == other, "an export's own file is replaced by that of a newer run"


@pytest.mark.parametrize(
    "name", ["/abs.jpg", "../up.jpg", "a/../../up.jpg", "./a.jpg", "a//b.jpg", "a\nb.jpg", "x" * 300 + ".jpg"]
)
def test_names_choose_no_paths(reddiff, tmp_path, name):
    out = make_run(tmp_path / "out", [("key", name, {"png": PNG}), ("good", "good.jpg", {"png": PNG})])
    code, printed = reddiff("export", out, tmp_path / "a" / "to")
    assert code == 3 and "key key: " in printed
    assert set(files_in(tmp_path / "a")) == {"to/good.png", f"to/{MANIFEST}"} - {f"to/{MANIFEST}"}
    assert {path.name for path in tmp_path.iterdir()} == {"a", "out"}


def test_targets_that_are_refused(reddiff, tmp_path):
    images = tmp_path / "photos" / "in"
    images.mkdir(parents=True)
    Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(images / "a.png")
    out = make_run(tmp_path / "out", [("a", "a.png", {"png": PNG})])
    (out / "config.yaml").write_text(json.dumps({"data": {"images": str(images)}}))
    for to in (images, images / "deep", images.parent, out, out / "files", tmp_path, out / "config.yaml"):
        code, printed = reddiff("export", out, to)
        assert code == 2 and printed.count("\n") == 1 and "DIR: " in printed, (to, printed)
    (tmp_path / "alias").symlink_to(images)
    assert reddiff("export", out, tmp_path / "alias" / "x")[0] == 2
    options = [
        *QUICK,
        "--model.physics=reddiff_pl.physics.Denoising",
        "--model.noise=reddiff_pl.physics.NoNoise",
    ]
    options += ["--model.prior.init_args.shape=[3,16,16]", "--data.images", images]
    code, printed = reddiff("restore", *options, "--out", tmp_path / "new", "--to", images / "restored")
    assert code == 2 and "--to: " in printed and not (tmp_path / "new").exists()
    (tmp_path / "file").write_bytes(b"")
    code, printed = reddiff("restore", *options, "--out", tmp_path / "new", "--to", tmp_path / "file" / "x")
    assert code == 2 and "cannot be written to" in printed and not (tmp_path / "new").exists(), printed
    code, printed = reddiff("restore", *options, "--out", tmp_path / "new", "--to", tmp_path / "files")
    assert code == 0 and "1 images written" in printed, printed
    restored = decode.image((tmp_path / "files" / "a.png").read_bytes(), "a")
    assert (
        np.abs(restored.pixels.astype(int) - np.asarray(Image.open(images / "a.png")).astype(int)).max() <= 1
    )
