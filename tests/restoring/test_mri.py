"""Complex measurements: k-space of one coil and of several, two-channel images in and out as arrays."""

from __future__ import annotations

import io

import numpy as np
import pytest
import yaml
from helpers import QUICK, npy, png, read_json, read_tar, write_shard

SIDE = 16
RNG = np.random.default_rng(3)


def smooth(count: int) -> np.ndarray:
    """Complex images, (count, H, W), real and imaginary part between about 0 and 1."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = [np.cos(2 * np.pi * (rows * a + columns * b)) for a, b in ((0, 1), (1, 0), (1, 1))]
    weights = RNG.normal(0, 0.1, (count, 2, 3))
    parts = 0.5 + np.einsum("nck,khw->nchw", weights, np.stack(waves))
    return (parts[:, 0] + 1j * parts[:, 1]).astype(np.complex64)


def kspace(images: np.ndarray) -> np.ndarray:
    """Centred, orthonormal."""
    moved = np.fft.fft2(np.fft.ifftshift(images, axes=(-2, -1)), norm="ortho")
    return np.fft.fftshift(moved, axes=(-2, -1)).astype(np.complex64)


@pytest.mark.parametrize("coils", [0, 3])
def test_kspace_in_images_out(reddiff, tmp_path, coils):
    """Fully sampled the image comes back; from half of the lines what was measured is kept, and the rest filled in."""
    images = smooth(2)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, ::2] = mask[:, SIDE // 2 - 3 : SIDE // 2 + 3] = 255
    maps = np.exp(1j * RNG.uniform(0, 6, (3, SIDE, SIDE))) * RNG.uniform(0.5, 1, (3, SIDE, SIDE))
    maps = (maps / np.sqrt((np.abs(maps) ** 2).sum(0))).astype(np.complex64)
    samples = []
    for key, image, kept in zip(("full", "half"), images, (np.full_like(mask, 255), mask), strict=True):
        y = kspace(maps * image if coils else image) * (kept > 0)
        files = {"y.npy": npy(y.astype(np.complex64)), "mask.png": png(kept), "x.npy": npy(image)}
        samples.append((key, files | ({"coil_maps.npy": npy(maps)} if coils else {})))
    shard = write_shard(tmp_path / "a.tar", samples)
    name = "MultiCoilMRI" if coils else "MRI"
    operator = {"class_path": f"deepinv.physics.{name}", "init_args": {"img_size": [2, SIDE, SIDE]}}
    physics = {"class_path": "reddiff_pl.physics.UnitRange", "init_args": {"physics": operator}}
    (tmp_path / "mri.yaml").write_text(yaml.safe_dump({"model": {"physics": physics}}))
    out = tmp_path / "out"
    options = ["--config", tmp_path / "mri.yaml", f"--model.prior.init_args.shape=[2,{SIDE},{SIDE}]"]
    code, printed = reddiff("restore", *QUICK, *options, "--data.shards", shard, "--out", out)
    assert code == 0, printed
    members = read_tar(out / "shards" / "a.tar")
    for (key, files), image in zip(samples, images, strict=True):
        restored = np.load(io.BytesIO(members[f"{key}.npy"]))
        assert restored.shape == (2, SIDE, SIDE) and restored.dtype == np.float32
        error = np.abs(restored[0] + 1j * restored[1] - image)
        assert error.max() < (2e-2 if key == "full" else 0.5)
        y = np.load(io.BytesIO(files["y.npy"]))
        again = kspace(maps * (restored[0] + 1j * restored[1]) if coils else restored[0] + 1j * restored[1])
        assert np.abs((again - y)[np.abs(y) > 0]).max() < 0.1
    if coils:
        return
    code, printed = reddiff("evaluate", out, "--metrics", "psnr,misfit")
    summary = read_json(out / "summary.json")
    assert code == 0 and summary["references"] == 2 and "their magnitude" in str(summary["notes"])
    assert reddiff("report", out)[0] == 0
    code, printed = reddiff("export", out, tmp_path / "to")
    assert code == 0 and np.load(tmp_path / "to" / "a" / "full.npy").shape == (2, SIDE, SIDE)
