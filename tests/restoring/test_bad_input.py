"""One bad sample: one clear line, the rest restored, exit code 3."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib

import numpy as np
import pytest
from helpers import CONFIGS, QUICK, account, npy, png, read_json, read_tar, restored_keys, write_shard
from PIL import Image

RANDOM = ["--config", str(CONFIGS / "tasks" / "inpainting_random.yaml")]
SUPER = ["--config", str(CONFIGS / "tasks" / "superresolution_4x.yaml")]
RNG = np.random.default_rng(0)


def picture(side: int = 64, mode: str = "RGB") -> bytes:
    return png(
        np.asarray(Image.fromarray(RNG.integers(0, 255, (side, side, 3), dtype=np.uint8)).convert(mode))
    )


def png_bomb() -> bytes:
    """A few hundred bytes that claim 60000 x 60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def y(shape=(3, 16, 16), value=0.0) -> bytes:
    return npy(np.full(shape, value, np.float32))


def pickled() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return out.getvalue()


BAD = {
    "truncated png": (RANDOM, {"png": picture()[:-600]}, "not a readable image"),
    "png bomb": (RANDOM, {"png": png_bomb()}, "60000x60000|more pixels than the limit"),
    "not an image": (RANDOM, {"jpg": b"hello"}, "not a readable image"),
    "empty file": (RANDOM, {"jpg": b""}, "not a readable image"),
    "too small": (RANDOM, {"png": picture(48)}, "48x48 pixels, smaller than data.size 64"),
    "missing measurement": (SUPER, {"x.png": picture()}, "no measurement"),
    "measurement of four dimensions": (
        SUPER,
        {"y.npy": y((1, 3, 16, 16))},
        r"\(1, 3, 16, 16\), .* no image of 3 channels",
    ),
    "two channels": (SUPER, {"y.npy": y((2, 16, 16))}, "an image with 2 channels; expected 3"),
    "reference of the wrong size": (
        SUPER,
        {"y.npy": y(), "x.png": picture(32)},
        "32x32 pixels, expected 64x64",
    ),
    "NaN measurement": (SUPER, {"y.npy": y(value=np.nan)}, "NaN"),
    "level that is none": (SUPER, {"y.npy": y(), "json": b'{"sigma_y": NaN}'}, "sigma_y .* got nan"),
    "kernel without light": (
        ["--task", "deblur_motion", "--model.physics.init_args.taps=9"],
        {"y.npy": y((3, 64, 64)), "kernel.png": png(np.zeros((9, 9), np.uint8))},
        "kernel is zero everywhere",
    ),
    "infinite measurement": (SUPER, {"y.npy": y(value=np.inf)}, "NaN or infinite"),
    "pickle": (SUPER, {"y.npy": pickled()}, "not a readable array"),
    "truncated npy": (SUPER, {"y.npy": y()[:-9]}, "not a readable array"),
    "mask of the wrong size": (
        RANDOM,
        {"y.npy": y((3, 64, 64)), "mask.png": picture(32, "L")},
        r"mask has shape \(1, 32, 32\), expected \(1, 64, 64\)",
    ),
    "broken metadata": (RANDOM, {"png": picture(), "json": b"{"}, "not JSON"),
    "metadata that is a list": (RANDOM, {"png": picture(), "json": b"[1]"}, "not a JSON object"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_sample(reddiff, tmp_path, name):
    task, members, message = BAD[name]
    good = {"y.npy": y()} if task is SUPER else {"png": picture()}
    shard = write_shard(tmp_path / "s.tar", [("first", good), ("bad", members), ("last", good)])
    code, printed = reddiff("restore", *QUICK, *task, "--data.shards", shard, "--out", tmp_path / "out")
    assert code == 3, printed
    output = tmp_path / "out" / "shards" / "s.tar"
    assert restored_keys(output) == ["first", "last"]
    [failure] = read_json(account(output))["failed"]
    assert (failure["index"], failure["key"]) == (1, "bad") and "\n" not in failure["reason"]
    assert re.search(message, failure["reason"]), failure
    lines = [line for line in printed.splitlines() if "key bad:" in line]
    assert len(lines) == 1 and "shard s" in lines[0] and failure["reason"] in lines[0]
    assert "Traceback" not in printed
    # a finished shard keeps telling
    assert reddiff("restore", *QUICK, *task, "--data.shards", shard, "--out", tmp_path / "out")[0] == 3


def test_the_second_of_a_key_fails_and_the_first_wins(reddiff, tmp_path):
    black, white = (png(np.full((64, 64, 3), v, "u1")) for v in (0, 255))
    samples = [
        ("twice", {"png": black}),
        ("twice", {"png": white}),
        ("once", {"png": white}),
        ("twice", {"png": white}),
    ]
    shard = write_shard(tmp_path / "s.tar", samples)
    code, _ = reddiff("restore", *QUICK, *RANDOM, "--data.shards", shard, "--out", tmp_path / "out")
    output = tmp_path / "out" / "shards" / "s.tar"
    assert code == 3 and restored_keys(output) == ["twice", "once"]
    failed = read_json(account(output))["failed"]
    assert [f["index"] for f in failed] == [1, 3] and all("duplicate" in f["reason"] for f in failed)


def test_an_empty_shard_is_a_failure(reddiff, tmp_path):
    good = write_shard(tmp_path / "in" / "good.tar", [("a", {"png": picture()})])
    write_shard(tmp_path / "in" / "members.tar", [])
    (tmp_path / "in" / "bytes.tar").write_bytes(b"")
    code, printed = reddiff(
        "restore", *QUICK, *RANDOM, "--data.shards", good.parent / "*.tar", "--out", tmp_path / "out"
    )
    assert code == 3, printed
    assert restored_keys(tmp_path / "out" / "shards" / "good.tar") == ["a"]
    for name in ("members", "bytes"):
        [failure] = read_json(tmp_path / "out" / "accounts" / f"{name}.json")["failed"]
        assert failure["key"] is None and "empty" in failure["reason"]


@pytest.mark.parametrize(
    "cut", ["in a file", "in a header", "between files", "between samples", "damaged header"]
)
def test_a_truncated_tar_loses_what_it_lost_and_says_so(reddiff, tmp_path, cut):
    samples = [(f"k{i}", {"png": picture(), "json": json.dumps({"i": i}).encode()}) for i in range(4)]
    whole = write_shard(tmp_path / "s.tar", samples)
    content = whole.read_bytes()
    sizes = [len(write_shard(tmp_path / "t.tar", samples[:n]).read_bytes()) - 1024 for n in range(5)]
    last_png = sizes[2] + 512
    data = {
        "in a file": content[: last_png + 700],
        "in a header": content[: sizes[2] + 100],
        "between files": content[: sizes[3] - 1024],
        "between samples": content[: sizes[3]],
        "damaged header": content[: sizes[2] + 100] + b"x" * 20 + content[sizes[2] + 120 :],
    }[cut]
    whole.write_bytes(data)
    code, printed = reddiff("restore", *QUICK, *RANDOM, "--data.shards", whole, "--out", tmp_path / "out")
    assert code == 3
    sidecar = read_json(tmp_path / "out" / "accounts" / "s.json")
    restored = restored_keys(tmp_path / "out" / "shards" / "s.tar")
    [failure] = sidecar["failed"]
    # the sample in which the archive ends may lack members, so it is not restored
    assert restored == ["k0", "k1"][: 1 if "header" in cut else 2], printed
    assert failure["key"] == ("k1" if "header" in cut else "k2")
    assert "cannot read" in failure["reason"] and str(whole) in failure["reason"]


def test_keys_do_not_choose_paths(reddiff, tmp_path):
    keys = ["../up", "/root/abs", "a/../b", "ok/sub", "new\nline"]
    shard = write_shard(tmp_path / "s.tar", [(key, {"png": picture()}) for key in keys])
    code, _ = reddiff("restore", *QUICK, *RANDOM, "--data.shards", shard, "--out", tmp_path / "out")
    assert code == 3 and restored_keys(tmp_path / "out" / "shards" / "s.tar") == ["ok/sub"]
    assert len(read_json(tmp_path / "out" / "accounts" / "s.json")["failed"]) == 4


def test_names_that_begin_with_the_folder_itself(reddiff, tmp_path):
    """`tar -C folder -cf shard.tar .` writes ./KEY.png, and an entry for the folder."""
    shard = write_shard(tmp_path / "s.tar", [("./a", {"png": picture()}), ("./b/c", {"png": picture()})])
    code, _ = reddiff("restore", *QUICK, *RANDOM, "--data.shards", shard, "--out", tmp_path / "out")
    assert code == 0 and restored_keys(tmp_path / "out" / "shards" / "s.tar") == ["a", "b/c"]


def test_a_whole_batch_of_bad_samples(reddiff, tmp_path):
    samples = [(f"bad{i}", {"png": b"x"}) for i in range(4)] + [("good", {"png": picture()})]
    shard = write_shard(tmp_path / "s.tar", samples)
    options = ["--data.batch_size=2", "--data.shards", shard, "--out", tmp_path / "out"]
    assert reddiff("restore", *QUICK, *RANDOM, *options)[0] == 3
    assert restored_keys(tmp_path / "out" / "shards" / "s.tar") == ["good"]


def test_missing_masks_and_mixed_shapes(reddiff, tmp_path):
    """Without a mask generator each sample must bring one; masks of one channel and of three may be in a batch."""
    given = ["--config", CONFIGS / "tasks" / "inpainting_given.yaml"]
    grey, colour = png(np.zeros((64, 64), "u1")), npy(np.ones((3, 64, 64), np.float32))
    samples = [
        ("a", {"png": picture(), "mask.png": grey}),
        ("none", {"png": picture()}),
        ("colour", {"png": picture(), "mask.npy": colour}),
        ("b", {"png": picture(), "mask.png": grey}),
    ]
    shard = write_shard(tmp_path / "s.tar", samples)
    code, _ = reddiff("restore", *QUICK, *given, "--data.shards", shard, "--out", tmp_path / "out")
    assert code == 3 and restored_keys(tmp_path / "out" / "shards" / "s.tar") == ["a", "colour", "b"]
    failed = {f["key"]: f["reason"] for f in read_json(tmp_path / "out" / "accounts" / "s.json")["failed"]}
    assert "no mask" in failed["none"]


def test_degrade_accounts_as_restore_does(reddiff, tmp_path):
    """One bad photo: listed, the others written; mended and tried again, the shard is whole and in order."""
    good = {"png": picture()}
    shard = write_shard(tmp_path / "s.tar", [("a", good), ("b", {"png": b"broken"}), ("c", good)])
    command = ["degrade", *QUICK, *RANDOM, "--data.shards", shard, "--out", tmp_path / "out"]
    assert reddiff(*command)[0] == 3
    output = tmp_path / "out" / "shards" / "s.tar"
    [failure] = read_json(account(output))["failed"]
    assert failure["key"] == "b"
    write_shard(shard, [("a", good), ("b", good), ("c", good)])
    assert reddiff(*command)[0] == 3, "not tried unasked"
    assert reddiff(*command, "--retry-failed=true")[0] == 0
    names = [name for name in read_tar(output) if name.endswith("reddiff.json")]
    assert names == ["a.reddiff.json", "b.reddiff.json", "c.reddiff.json"]


def test_what_is_odd_but_usable_is_told(reddiff, tmp_path):
    """A mask that keeps nothing, a level on another scale: restored, with a line."""
    mask = {"mask.png": png(np.zeros((64, 64), np.uint8))}
    whole = {"mask.png": png(np.full((64, 64), 255, np.uint8)), "json": b'{"sigma_y": 25}'}
    shard = write_shard(
        tmp_path / "s.tar", [("a", {"y.png": picture(), **mask}), ("b", {"y.png": picture(), **whole})]
    )
    options = ["--task", "inpainting_given", "--data.shards", shard, "--data.sigma_y", "12.75"]
    code, printed = reddiff("restore", *QUICK, *options, "--out", tmp_path / "out")
    assert code == 0, printed
    assert "key a: mask keeps nothing of the measurement; is it inverted" in printed
    assert "key b: sigma_y 25 in KEY.json is on the [0, 1] scale" in printed
    assert "--data.sigma_y: 12.75 is on the [0, 1] scale" in printed and "would be 0.05" in printed
