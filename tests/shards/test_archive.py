"""Tars as tools write them, and as nobody should: everything in them is a sample, a failure, or counted."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import CONFIGS, QUICK, png, read_json, restored_keys

from reddiff_pl.shards.plan import Shard
from reddiff_pl.shards.reader import Apart, Failure, RawSample, Reading, read_shard

LINK, SYMLINK, DEVICE, FOLDER = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE


def tar(*entries, form=tarfile.GNU_FORMAT) -> bytes:
    """A tar of (name, content) and (name, type, target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, *rest in entries:
            header = tarfile.TarInfo(name)
            content = rest[0] if len(rest) == 1 else b""
            if len(rest) == 2:
                header.type, header.linkname = rest
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return out.getvalue()


def read(path: Path, content: bytes, **bounds):
    """({key: members or reason}, counts) of a shard; `Apart` counts as its sample."""
    path.write_bytes(content)
    reading = Reading(**bounds)
    found = {}
    for entry in read_shard(Shard("s", str(path), len(content)), reading):
        assert isinstance(entry, Apart) or (entry.key, entry.index) not in found
        found[
            entry.key if entry.key not in found or isinstance(entry, Apart) else (entry.key, entry.index)
        ] = entry.members if isinstance(entry, RawSample) else entry.reason
    return found, dict(reading.not_looked_at)


COMPRESSIONS = {"none": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_links_within_the_tar_are_followed(tmp_path, compression):
    content = tar(
        ("d/a.png", b"A"),
        ("d/hard.png", LINK, "d/a.png"),
        ("d/soft.png", SYMLINK, "a.png"),
        ("e/up.png", SYMLINK, "../d/soft.png"),
        ("e/a.mask.png", SYMLINK, "../d/a.png"),
        ("absolute.png", SYMLINK, "/etc/hostname"),
        ("outside.png", SYMLINK, "../../etc/hostname"),
        ("later.png", SYMLINK, "last.png"),
        ("itself.png", SYMLINK, "itself.png"),
        ("folder", SYMLINK, "d"),
        ("last.png", b"Z"),
    )
    found, passed = read(tmp_path / "s.tar", COMPRESSIONS[compression](content))
    for key in ("d/a", "d/hard", "d/soft", "e/up"):
        assert found[key] == {"png": b"A"}
    for key in ("absolute", "outside"):
        assert "outside the tar" in found[key]
    for key in ("later", "itself"):
        assert "not before it in the tar" in found[key]
    assert found["last"] == {"png": b"Z"} and passed == {"without a suffix": 1}


def test_nothing_in_a_tar_is_passed_over_in_silence(tmp_path):
    content = tar(
        ("folder/", FOLDER, ""),
        ("__a.png", b"A"),
        ("README", b""),
        ("notes.txt", b""),
        ("more.TXT", b""),
        ("._a.png", b""),
        ("c.heic", b"C"),
        ("d.jpg", b"D"),
        ("d.heic", b"D"),
        ("device.png", DEVICE, ""),
        ("v2.0.jpg", b"E"),
        ("same.jpg", b"1"),
        ("same.png", b"2"),
        ("ok.y.png", b"1"),
        ("ok.x.png", b"1"),
        ("ok.json", b"{}"),
        ("ok.txt", b""),
    )
    found, passed = read(tmp_path / "s.tar", content)
    assert found.pop("__a") == {"png": b"A"} and found.pop("d") == {"jpg": b"D", "heic": b"D"}
    assert set(found.pop("ok")) == {"y.png", "x.png", "json"}
    assert "cannot be read; convert c.heic" in found.pop("c")
    assert "device" in found.pop("device")
    assert "first dot" in (reason := found.pop("v2")) and "v2.0.jpg" in reason
    assert "same.jpg and same.png have one key" in found.pop("same")
    assert not found and passed == {"without a suffix": 1, ".txt": 3, "hidden": 1, ".heic": 1}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_several_tars_and_several_streams_are_read_to_the_end(tmp_path, compression):
    one, two = tar(("a.png", b"A")), tar(("b.png", b"B"))
    squeeze = COMPRESSIONS[compression]
    both = {"a": {"png": b"A"}, "b": {"png": b"B"}}
    assert read(tmp_path / "s.tar", squeeze(one + two))[0] == both
    assert read(tmp_path / "s.tar", squeeze(one) + squeeze(two))[0] == both
    whole = tar(("a.png", b"A"), ("b.png", b"B"))
    assert read(tmp_path / "s.tar", squeeze(whole[:700]) + squeeze(whole[700:]))[0] == both
    cut = squeeze(tar(("a.png", np.random.default_rng(0).bytes(50_000))))
    [reason] = read(tmp_path / "s.tar", cut[:20_000])[0].values()
    assert "cannot read" in reason
    found, _ = read(tmp_path / "s.tar", squeeze(one + b"no tar" * 200))
    assert found["a"] == {"png": b"A"} and "no other tar" in found[None]


def test_tars_by_zstd(tmp_path, monkeypatch):
    zstandard = pytest.importorskip("zstandard")
    one, two = tar(("a.png", b"A")), tar(("b.png", b"B"))
    content = zstandard.compress(one) + zstandard.compress(two)
    assert set(read(tmp_path / "s.tar.zst", content)[0]) == {"a", "b"}
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert "compressed with zstd; pip install zstandard" in read(tmp_path / "s.tar.zst", content)[0][None]


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"PK\x03\x04" + bytes(600), "a zip file"),
        (b"\n<!DOCTYPE html>" + b" " * 600, "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_what_is_no_tar_is_called_by_its_name(tmp_path, content, kind):
    assert kind in read(tmp_path / "s.tar", content)[0][None]


def test_what_is_not_beside_each_other(tmp_path):
    content = tar(
        *((f"{key}.jpg", b"1") for key in "abc"),
        *((f"{key}.mask.png", b"1") for key in "ac"),
        ("b.jpg", b"2"),
        ("a.json", b"{}"),
    )
    (tmp_path / "s.tar").write_bytes(content)
    entries = list(read_shard(Shard("s", str(tmp_path / "s.tar"))))
    assert [(type(entry), entry.index, entry.key) for entry in entries] == [
        *((RawSample, i, key) for i, key in enumerate("abc")),
        *((Apart, 0, "a"), (Apart, 2, "c"), (Failure, 3, "b"), (Apart, 0, "a")),
    ]
    assert "a.mask.png comes later; tar --sort=name" in entries[3].reason


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar")
def test_samples_apart_are_not_restored(reddiff, tmp_path):
    """Nothing is restored with parameters that are not its own, and the same tar in order is."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for key in "ab":
        (folder / f"{key}.png").write_bytes(png(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)))
    (folder / "b.mask.png").write_bytes(png(rng.integers(0, 2, (64, 64), dtype=np.uint8) * 255))
    (folder / "notes.txt").write_text("")
    task = ["--config", CONFIGS / "tasks" / "inpainting_random.yaml"]
    options = [
        *QUICK,
        *task,
        "--data.batch_size=1",
        "--data.shards",
        tmp_path / "s.tar",
        "--out",
        tmp_path / "out",
    ]
    files = ["a.png", "b.png", "b.mask.png", "notes.txt"]
    subprocess.run(
        ["tar", "-cf", tmp_path / "s.tar", "b.png", "a.png", "b.mask.png", "notes.txt"],
        cwd=folder,
        check=True,
    )
    for _ in range(2):  # a finished shard keeps telling
        code, printed = reddiff("restore", *options)
        assert code == 3 and "1 file was not looked at: 1 .txt" in printed, printed
        account = read_json(next((tmp_path / "out").rglob("s.json")))
        assert restored_keys(tmp_path / "out" / "shards" / "s.tar") == ["a"] and account["restored"] == 1
        [failure] = account["failed"]
        assert (failure["index"], failure["key"]) == (0, "b") and "b.mask.png comes later" in failure[
            "reason"
        ]
        assert account["not_looked_at"] == {".txt": 1}
    subprocess.run(["tar", "--sort=name", "-cf", tmp_path / "s.tar", *files], cwd=folder, check=True)
    code, printed = reddiff("restore", *options, "--retry-failed=true")
    assert code == 0, printed
    assert restored_keys(tmp_path / "out" / "shards" / "s.tar") == ["a", "b"]
