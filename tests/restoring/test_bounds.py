"""Data from anyone take no more memory and time than they may, and leave nothing behind."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import CONFIGS, QUICK, npy, png, read_json, restored_keys, write_shard
from PIL import Image

from reddiff_pl.errors import OutputError
from reddiff_pl.files import clear_leftovers, temporary_file, write_atomically
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.room import Room
from reddiff_pl.shards.tar import END
from reddiff_pl.shards.writer import ShardWriter

RANDOM = ["--config", str(CONFIGS / "tasks" / "inpainting_random.yaml")]
RNG = np.random.default_rng(0)
PICTURE = png(RNG.integers(0, 255, (64, 64, 3), dtype=np.uint8))
ZEROS = zlib.compress(bytes(1 << 26), 6)


def account(out: Path, name: str) -> dict:
    return read_json(next(path for path in out.rglob(f"{name}.json") if "logs" not in path.parts))


# --- what one sample makes decoders and operators raise --------------------------------------------------------------


def lab() -> bytes:
    out = io.BytesIO()
    Image.new("LAB", (64, 64)).save(out, "TIFF")
    return out.getvalue()


Y, MASK = npy(RNG.random((3, 64, 64), dtype=np.float32)), png(np.full((64, 64), 255, "u1"))
SHAPE = b"(3, 64, 64), }      "
ODD = {
    "complex": {"y.npy": npy(np.ones((3, 64, 64), complex)), "mask.png": MASK},
    "sigma": {"y.npy": Y, "mask.png": MASK, "json": b'{"sigma_y": 1%s}' % (b"0" * 400)},
    "digits": {"y.npy": Y, "mask.png": MASK, "json": b'{"sigma_y": 1%s}' % (b"0" * 5000)},
    "deep": {"y.npy": Y, "mask.png": MASK, "json": b'{"a":' + b"[" * 100_000},
    "text": {"y.npy": npy(np.array(["a"])), "mask.png": MASK},
    "dates": {"y.npy": npy(np.zeros((3, 64, 64), "M8[s]")), "mask.png": MASK},
    "negative": {"y.npy": Y.replace(b"(3, 64", b"(-3,64"), "mask.png": MASK},
    "huge": {"y.npy": Y.replace(SHAPE, b"(3, 64000, 64000), }"), "mask.png": MASK},
    "npz": {"y.npy": b"PK\x03\x04" + Y, "mask.png": MASK},
    "overflow": {"y.npy": npy(np.full((3, 64, 64), 1e300)), "mask.png": MASK},
    "complex mask": {"y.npy": Y, "mask.npy": npy(np.ones((1, 64, 64), complex))},
}


def test_what_one_sample_raises_is_that_samples_failure(reddiff, tmp_path):
    samples = [("a", {"y.npy": Y, "mask.png": MASK}), *ODD.items(), ("b", {"png": PICTURE})]
    samples.insert(4, ("lab", {"y.npy": Y, "mask.png": lab()}))
    shard = write_shard(tmp_path / "s.tar", samples)
    code, printed = reddiff("restore", *QUICK, *RANDOM, "--data.shards", shard, "--out", tmp_path / "out")
    assert code == 3 and "Traceback" not in printed, printed
    failed = {failure["key"]: failure["reason"] for failure in account(tmp_path / "out", "s")["failed"]}
    kept = restored_keys(tmp_path / "out" / "shards" / "s.tar")
    assert set(failed) - {"lab"} == set(ODD) and set(kept) - {"lab"} == {"a", "b"}
    for reason in failed.values():
        assert "\n" not in reason and "allow_pickle" not in reason and "NpzFile" not in reason


# --- memory ----------------------------------------------------------------------------------------------------

MEASURE = """
import json, resource, sys
from reddiff_pl.__main__ import main
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
options, shards, out = json.loads(sys.argv[1])
result = []
for i, shard in enumerate(shards):
    code = main([*options, "--data.shards", shard, "--out", f"{out}/{i}"])
    result.append((code, peak()))
print(json.dumps(result))
"""


def gzipped(*parts: bytes | int) -> bytes:
    """A gzip file of some bytes and, for a number, so many times 64 MiB of zeros: small on disk, a stream each."""
    zeros = b"\x1f\x8b\x08" + bytes(6) + b"\xff" + ZEROS[2:-4]
    zeros += struct.pack("<II", zlib.crc32(bytes(1 << 26)), 1 << 26)
    out = b""
    for part in parts:
        if isinstance(part, int):
            out += zeros * part
        else:
            squeeze = zlib.compressobj(6, zlib.DEFLATED, 31)
            out += squeeze.compress(part) + squeeze.flush()
    return out


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse(name: str, size: int) -> bytes:
    """A member that says it has `size` bytes, of which one is stored."""
    block = bytearray(header(name, 1, tarfile.GNUTYPE_SPARSE))
    number = lambda value: b"%011o\0" % value if value < 8**11 else b"\x80" + value.to_bytes(11, "big")  # noqa: E731
    block[386:410] = number(0) + number(1)
    block[483:495] = number(size)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + b"x" + bytes(511)


def large_png(side: int) -> bytes:
    """16 bits, three colours, all black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(1)
    rows = bytes(1 + 6 * side) * 50
    data = b"".join([squeeze.compress(rows) for _ in range(side // 50)] + [squeeze.flush()])
    size = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_memory_has_a_bound(tmp_path):
    """1.5 GiB above what a normal run takes, whatever the tar says of itself."""
    one = write_shard(tmp_path / "normal.tar", [("a", {"png": PICTURE})]).read_bytes()[: -len(END)]
    large = large_png(5000)
    shards = {
        "normal.tar": one + END,
        "sparse.tar": b"".join(sparse(f"s{i}.png", 12 << 30) for i in range(8)) + one + END,
        "sparse_within.tar": b"".join(sparse(f"s{i}.png", 300 << 20) for i in range(2)) + one + END,
        "bomb.tar.gz": gzipped(header("s.png", 12 << 26), 12, one + END),
        "pax.tar.gz": gzipped(one + header("x", 32 << 26, tarfile.XHDTYPE), 32, END),
        "name.tar": one + header("x", 4 << 30, tarfile.GNUTYPE_LONGNAME) + bytes(1 << 20),
        "zeros.tar.gz": gzipped(one + END, 16),
        "endless.tar": one + header("s.png", (1 << 33) - 1) + bytes(512),
        "chain.tar": one + (header("x", 512, tarfile.XHDTYPE) + bytes(512)) * 3000 + END,
        "pictures.tar": write_shard(
            tmp_path / "p.tar", [(f"p{i}", {"png": large}) for i in range(2)]
        ).read_bytes(),
    }
    for name, content in shards.items():
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in shards]
    job = json.dumps([["restore", *map(str, [*QUICK, *RANDOM])], paths, str(tmp_path / "out")])
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", MEASURE, job], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = dict(zip(shards, json.loads(done.stdout.splitlines()[-1]), strict=True))
    _, normal = result["normal.tar"]
    for i, (name, (code, gib)) in enumerate(result.items()):
        whole = name in ("normal.tar", "pictures.tar")
        assert code == (0 if whole else 3), (name, code, done.stderr)
        assert gib < normal + 1.5, (name, result)
        found = account(tmp_path / "out" / str(i), name.partition(".")[0])
        # a damaged header may have been of one more file of the sample before it
        restored = 2 if name == "pictures.tar" else 0 if name.startswith(("pax", "name", "chain")) else 1
        assert found["restored"] == restored, name
    reasons = json.dumps(
        [account(tmp_path / "out" / str(i), name.partition(".")[0]) for i, name in enumerate(shards)]
    )
    assert "--data.max_sample_mib" in reasons and "a header of more than" in reasons


def test_what_is_decoded_at_once_has_room():
    """Small ones beside each other, a large one alone."""
    room, inside, most = Room(10), [], []

    def decode(size: int) -> None:
        with room.taken(size):
            inside.append(size)
            most.append(sum(inside))
            time.sleep(0.002)
            inside.remove(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, [4, 6, 3, 25, 4, 4, 2, 10, 7, 1, 25] * 5))
    assert len(most) == 55 and max(most) == 25 and all(size <= 10 or size == 25 for size in most)


# --- nothing stays -----------------------------------------------------------------------------------------------


def test_what_a_kill_left_is_cleared(reddiff, tmp_path):
    out = tmp_path / "out"
    dead = [out / ".config.yaml.123", out / ".config.77", out / "shards" / "sub" / ".s.failed.jsonl.5"]
    dead += [out / "accounts" / ".s.json.4194303", out / "shards" / ".s.tar.partial.99"]
    others = [out / "shards" / ".mine", out / "shards" / ".s.json", out / ".config.yaml.x"]
    for path in [*dead, *others]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    held = out / "shards" / ".held.json.1"
    with open(held, "wb") as file:
        pid = os.fork()
        if not pid:  # a living task
            fcntl.lockf(file, fcntl.LOCK_EX)
            os.kill(os.getpid(), 19)
            os._exit(0)
        os.waitpid(pid, os.WUNTRACED)
        shard = write_shard(tmp_path / "s.tar", [("a", {"png": PICTURE})])
        code, _ = reddiff("restore", *QUICK, *RANDOM, "--data.shards", shard, "--out", out)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert code == 0 and not any(path.exists() for path in dead)
    assert all(path.exists() for path in [*others, held])
    assert clear_leftovers(out) == 1 and not held.exists()


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    write_atomically(tmp_path / "a.json", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and clear_leftovers(tmp_path) == 0
    with pytest.raises(RuntimeError), temporary_file(tmp_path / "b.json"):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_an_output_that_was_deleted_is_told(tmp_path):
    """And what a second run writes in its place is not touched."""
    run = Run(tmp_path / "out")
    first, second = (ShardWriter(run, "s") for _ in range(2))
    assert first.open()
    first.write("a", [("png", b"1")], {})
    shutil.rmtree(run.out)
    assert second.open()
    second.write("a", [("png", b"2")], {})
    with pytest.raises(OutputError, match="was deleted or replaced"):
        first.commit(True, {})
    second.commit(True, {})
    assert restored_keys(run.tar("s")) == ["a"] and account(run.out, "s")["restored"] == 1
