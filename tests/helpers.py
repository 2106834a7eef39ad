"""Shards and options that the tests share."""

from __future__ import annotations

import io
import json
import posixpath
import struct
import tarfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from reddiff_pl.shards.tar import END, encode

VAL_SHARD = Path(__file__).parent / "data" / "val-000000.tar"
CONFIGS = Path(__file__).parents[1] / "configs"

# a prior without a network makes the path through all rooms quick
QUICK = [
    "--config",
    str(CONFIGS / "priors" / "gaussian.yaml"),
    "--model.sampler.init_args.steps=4",
    "--trainer.accelerator=cpu",
]


def write_shard(path: Path, samples: Sequence[tuple[str, Mapping[str, bytes]]]) -> Path:
    """A tar of (key, {file name after the first dot: content})."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = b"".join(
        encode([(f"{key}.{name}", data) for name, data in files.items()]) for key, files in samples
    )
    path.write_bytes(content + END)
    return path


def read_tar(path: Path) -> dict[str, bytes]:
    """All members in order."""
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}


def restored_keys(path: Path) -> list[str]:
    """Keys of a shard in order, whatever form its images have."""
    names = [posixpath.split(name) for name in read_tar(path)]  # folders may have dots
    files = [(folder, *file.partition(".")[::2]) for folder, file in names]
    return [posixpath.join(folder, key) for folder, key, kind in files if kind in ("png", "tiff", "npy")]


def account(tar: Path) -> Path:
    """The sidecar of OUT/shards/NAME.tar; NAME without folders."""
    return tar.parents[1] / "accounts" / f"{tar.stem}.json"


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def png(array: np.ndarray, **options) -> bytes:
    """A PNG of an array."""
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG", **options)
    return out.getvalue()


def tiff12(values: np.ndarray) -> bytes:
    """A grey TIFF of 12 bits a value, (H, W): not every imagecodecs that reads them writes them."""
    height, width = values.shape
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(height, width, 2), axis=2)[..., 4:]
    data = np.packbits(bits.reshape(height, -1), axis=1).tobytes()
    data += bytes(len(data) % 2)
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (
        struct.pack("<2sHI", b"II", 42, 8 + len(data))
        + data
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


class _Blur(torch.nn.Module):
    """Weighs nine neighbours by a softmax of the latent kernel, then bends the brightness."""

    def forward(self, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        weight = torch.softmax(kernel.flatten(1)[:, :9], 1)
        blurred = torch.zeros_like(x)
        for i in range(9):
            moved = torch.roll(x, [i // 3 - 1, i % 3 - 1], [2, 3])
            blurred = blurred + weight[:, i].reshape(-1, 1, 1, 1) * moved
        return torch.tanh(1.5 * blurred)


def blur_network(path: Path) -> Path:
    """A TorchScript file for NonlinearBlur, for latent kernels of nine or more numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(_Blur()).save(str(path))
    return path


def task_options(task: Path, folder: Path) -> list[str]:
    """What a shipped file needs beside itself: nonlinear_blur and most priors a network."""
    if task.parent.name == "priors":
        import shipped_priors  # diffusers

        return shipped_priors.options(task.stem, folder / "prior")
    if task.stem != "nonlinear_blur":
        return []
    return [
        f"--model.physics.init_args.path={blur_network(folder / 'blur.pt')}",
        "--model.physics.init_args.trust=true",
    ]
