"""Thousands of damaged files, the same ones each time: no crash, no hang, no memory without bound."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import resource
import signal
import tarfile
from collections.abc import Callable

import numpy as np
import pytest
from helpers import npy, png, write_shard
from PIL import Image

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.restoring.physics_yaml import physics_beside
from reddiff_pl.shards import decode, metadata
from reddiff_pl.shards.look import look
from reddiff_pl.shards.plan import Shard
from reddiff_pl.shards.reader import Failure, RawSample, read_shard
from reddiff_pl.shards.tar import END, encode

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (24, 24, 3), dtype=np.uint8)
EDGES = [
    b"\0" * 8,
    b"\xff" * 8,
    b"\x7f" + b"\xff" * 7,
    b"\x80" + b"\0" * 7,
    b"77777777777",
    b"-1",
    b"99999999999",
    b"\n",
]


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, put in, taken out, repeated, or cut off."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        # headers stand at the beginning, and every 512 bytes of a tar
        place = (
            int(rng.integers(0, len(data) + 1))
            if rng.random() < 0.5
            else int(rng.integers(0, min(700, len(data)) + 1))
        )
        match rng.integers(0, 5):
            case 0:
                data[place : place + 1] = bytes([rng.integers(0, 256)])
            case 1:
                data[place : place + len(edge)] = (edge := EDGES[rng.integers(0, len(EDGES))])
            case 2:
                del data[place : place + int(rng.integers(1, 600))]
            case 3:
                data[place:place] = data[: int(rng.integers(1, 600))]
            case _:
                del data[max(place, len(data) // 2) :]
    return bytes(data)


def fixed(content: bytes) -> bytes:
    """A tar whose headers have right checksums again, so that what they say is believed."""
    data = bytearray(content)
    for start in range(0, len(data) - 511, 512):
        if data[start + 257 : start + 262] == b"ustar":
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    return bytes(data)


@pytest.fixture
def bounded():
    """Within a minute a file, whatever else the machine does, and 1.5 GiB more than before."""

    def late(*_: object) -> None:
        raise AssertionError("it hangs")

    before, old = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, signal.signal(signal.SIGALRM, late)
    yield lambda: signal.alarm(60)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1.5 * 2**20


def tar(form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, content in (
            ("a.png", png(PIXELS)),
            ("long" * 40 + ".png", b"x"),
            ("a.json", b"{}"),
            ("ü.png", b"y"),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1.5
            archive.addfile(info, io.BytesIO(content))
        info = tarfile.TarInfo("link.png")
        info.type, info.linkname = tarfile.SYMTYPE, "a.png"
        archive.addfile(info)
    return out.getvalue()


COMPRESS: list[Callable[[bytes], bytes]] = [bytes, bytes, bytes, gzip.compress, bz2.compress, lzma.compress]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars(tmp_path, bounded, form):
    rng, whole, path = np.random.default_rng(form), tar(form), tmp_path / "s.tar"
    for i in range(800):
        bounded()
        squeeze = COMPRESS[i % len(COMPRESS)]
        content = squeeze(fixed(mutated(whole, rng))) if i % 2 else mutated(squeeze(whole), rng)
        path.write_bytes(content)
        entries = list(read_shard(Shard("s", str(path), len(content))))
        assert entries and all(isinstance(entry, RawSample | Failure) for entry in entries)
        for entry in entries:
            assert isinstance(entry, RawSample) or (entry.reason and "\n" not in entry.reason)


def picture(kind: str, **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, kind, **options)
    return out.getvalue()


FILES = {
    "npy": (npy(np.ones((3, 8, 8), np.float32)), lambda content: decode.array(content, "a.npy")),
    "json": (
        b'{"sigma_y": 0.1, "label": 3, "a": ["b", null, 1e5]}',
        lambda content: metadata.parse(content, "json"),
    ),
    **{
        kind: (content, lambda content: decode.image(content, "a", 3, 10_000_000))
        for kind, content in {
            "png": png(PIXELS),
            "deep png": png(RNG.integers(0, 65535, (24, 24), dtype=np.uint16)),
            "jpg": picture(
                "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
            ),
            "tiff": picture("TIFF"),
            "tiff lzw": picture("TIFF", compression="tiff_lzw"),
            "webp": picture("WEBP"),
            "bmp": picture("BMP"),
        }.items()
    },
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_samples(bounded, kind):
    content, read = FILES[kind]
    rng = np.random.default_rng(len(kind))
    read(content)
    for _ in range(300):
        bounded()
        with contextlib.suppress(SampleError):
            read(mutated(content, rng))


def test_yaml_beside_shards(tmp_path, bounded):
    rng, path = np.random.default_rng(0), tmp_path / "physics.yaml"
    good = (
        b"model:\n  physics:\n    class_path: reddiff_pl.physics.Inpainting\n    init_args:\n      mask:\n"
        b"        class_path: reddiff_pl.physics.RandomMask\n        init_args: {keep: 0.5}\ndata:\n  size: 64\n"
    )
    path.write_bytes(good)
    assert physics_beside(str(tmp_path / "s.tar"), trust=False)  # imports, which take their time
    for _ in range(500):
        bounded()
        path.write_bytes(mutated(good, rng))
        with contextlib.suppress(ConfigError):
            physics_beside(str(tmp_path / "s.tar"), trust=False)


def test_a_tar_of_random_blocks_with_right_checksums(tmp_path, bounded):
    """Every type of member, with every kind of size."""
    rng, path = np.random.default_rng(3), tmp_path / "s.tar"
    for _ in range(500):
        bounded()
        blocks = []
        for i in range(5):
            info = tarfile.TarInfo(f"k{i}.png")
            info.type = bytes([rng.choice(list(b"0123456789ASLKxgXVDMN\0"))])
            info.size = int(rng.choice([0, 1, 511, 512, 5000, 2**31, 2**40, 2**62]))
            blocks += [
                info.tobuf(tarfile.GNU_FORMAT),
                rng.bytes(512) if rng.random() < 0.5 else b"20 size=99999999999\n" * 25,
            ]
        path.write_bytes(fixed(b"".join(block.ljust(512, b"\0")[:512] for block in blocks)))
        assert list(read_shard(Shard("s", str(path))))


def test_whole_files_are_read(tmp_path):
    """What is mutated above is good before."""
    shard = write_shard(tmp_path / "s.tar", [("a", {"png": png(PIXELS)})])
    assert [type(entry) for entry in read_shard(Shard("s", str(shard)))] == [RawSample]


NAMES = ["a", "b c", "d.v2", "ü", "u\u0308", "__f", "_e", "n\nl", "100%", "-o", "e.tar", "\udce4", "A"]
ENDS = [
    ".png",
    ".PNG",
    ".jpg",
    ".y.png",
    ".mask.png",
    ".Mask_0.png",
    ".json",
    ".npy",
    ".coils.npy",
    ".heic",
    ".txt",
    "",
]
ENDS += [".x.png", ".jpg.mask.png", ".tar", ".", ".png ", ".1.npy", ".kernel.NPY", ".tiff"]


@pytest.mark.parametrize("kind", ["images", "measured"])
def test_folders_of_any_names(tmp_path, bounded, kind):
    """Each file is an image, belongs to some, or is counted; keys are such that a tar gives them back."""
    rng, looked = np.random.default_rng(5), 0
    for i in range(300):
        bounded()
        folder, names = tmp_path / str(i), set()
        for _ in range(rng.integers(1, 12)):
            place = ["", "", "sub", "s ub/d.e", ".git", "__x"][rng.integers(6)]
            name = NAMES[rng.integers(len(NAMES))] + ENDS[rng.integers(len(ENDS))]
            if rng.random() < 0.2:
                name = (
                    rng.bytes(6).replace(b"/", b"x").replace(b"\0", b"y").decode(errors="surrogateescape")
                    + ".png"
                )
            (folder / place).mkdir(parents=True, exist_ok=True)
            (folder / place / name).write_bytes(b"x")
            names.add(os.path.join(place, name))
        try:
            found = look(str(folder), kind)
        except ConfigError:
            continue  # nothing that is an image, or measurements among clean ones
        looked += 1
        images = {image.file for image in found.images}
        attached = {path for image in found.images for path in image.members.values()} - images
        assert len(images) + len(attached) + sum(found.skipped.values()) == len(names)
        assert images | attached <= names and len(images) == len(found.images)
        keys = [image.key for image in found.images]
        assert len(set(keys)) == len(keys)
        written = [(f"{key}.png", b"") for key in keys]
        (tmp_path / "out.tar").write_bytes(encode(written) + END)
        with tarfile.open(tmp_path / "out.tar") as archive:
            assert archive.getnames() == [name for name, _ in written]
        assert [entry.key for entry in read_shard(Shard("s", str(tmp_path / "out.tar")))] == keys
    assert looked > 50
