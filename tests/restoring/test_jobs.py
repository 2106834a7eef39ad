"""What people bring, end to end: a folder in, a folder out, by the recipes of docs/restore.md."""

from __future__ import annotations

import io
import itertools
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from helpers import png, read_tar
from PIL import Image
from test_measured import fill

from reddiff_pl.options.shipped import shipped_configs

QUICK = ["--prior", "gaussian", "--trainer.accelerator", "cpu", "--evaluations", "6"]
OPTIONS = {"--task", "--to", "--config", "--prior", "--data.invert_mask", "--data.sigma_y"}
OPTIONS |= {"--data.params.mask", "--data.params.kernel"}
SMALL = "--model.prior.init_args.shape=[3,16,16]"


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, as photographs have them, uint8 (H, W, 3)."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(40, 216, (3, 4, 3), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def job(reddiff, tmp_path):
    """Restores files by a command; returns {name: array} of what lies in the folder that it wrote, and the text."""

    def run(files: dict[str, bytes], *options: object) -> tuple[dict[str, np.ndarray], str]:
        source, to = fill(tmp_path / "in", files), tmp_path / "restored"
        code, printed = reddiff("restore", source, *options, *QUICK, "--to", to)
        assert code == 0, printed
        assert (tmp_path / "restored.run" / "config.yaml").is_file()
        return {
            path.relative_to(to).as_posix(): _read(path) for path in to.rglob("[!.]*") if path.is_file()
        }, printed

    return run


def _read(path: Path) -> np.ndarray:
    return np.load(path) if path.suffix == ".npy" else np.asarray(Image.open(path))


def error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def jpeg(picture: np.ndarray, subsampling: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=10, subsampling=subsampling)
    return out.getvalue()


def test_a_scratched_photos_with_masks(job):
    whole, scratch = photo(24, 36), np.zeros((24, 36), np.uint8)
    scratch[::6, :] = 255
    scratched = np.where(scratch[..., None] > 0, 255, whole).astype(np.uint8)
    files = {"old.png": png(scratched), "old.mask.png": png(scratch)}
    found, _ = job(files, "--task", "inpainting_given", "--data.invert_mask", "true", SMALL)
    assert set(found) == {"old.png"}
    assert (found["old.png"][scratch == 0] == whole[scratch == 0]).all()
    assert error(found["old.png"], whole) < error(scratched, whole) / 3


def test_b_small_photos_four_times_enlarged(job):
    whole = photo(36, 48)
    small = np.asarray(Image.fromarray(whole).resize((12, 9), Image.Resampling.BOX))
    found, _ = job({"thumb.png": png(small)}, "--task", "superresolution_4x", SMALL)
    assert found["thumb.png"].shape == (36, 48, 3)
    assert error(found["thumb.png"], whole) < 8


def test_c_jpeg_files_of_mixed_size_and_subsampling(job):
    sizes = {"a.jpg": (33, 26, 0), "b.JPG": (16, 40, 2), "c.jpeg": (19, 17, 1)}
    files = {name: jpeg(photo(h, w, h), subsampling) for name, (h, w, subsampling) in sizes.items()}
    found, printed = job(files, "--task", "jpeg", SMALL)
    assert "3 measurements of JPEG" in printed
    shapes = {Path(name).stem: array.shape[:2] for name, array in found.items()}
    assert shapes == {Path(name).stem: (h, w) for name, (h, w, _) in sizes.items()}


def test_d_unknown_noise(job, tmp_path):
    whole = photo(30, 40)
    noise = np.random.default_rng(0).normal(0, 25, whole.shape)
    noisy = (whole + noise).round().clip(0, 255).astype(np.uint8)
    found, _ = job({"night.png": png(noisy)}, "--task", "denoising", "--data.sigma_y", "estimate", SMALL)
    assert error(found["night.png"], whole) < error(noisy, whole)
    record = json.loads(read_tar(tmp_path / "restored.run/shards/measured-000000.tar")["night.reddiff.json"])
    assert record["sigma_y_of"] == "estimate" and abs(record["sigma_y"] - 25 / 255) < 0.02


def test_e_sixteen_bit_grey(job):
    """The noise below 8 bits' steps goes, the levels stay."""
    grey = np.linspace(20000, 20600, 24 * 24).reshape(24, 24).round().astype(np.uint16)
    files = {"cells.png": png(grey)}
    found, _ = job(files, "--task", "denoising", "--data.sigma_y", "0.0005", SMALL)
    out = found["cells.png"]
    assert out.dtype.kind in "iu" and out.shape == (24, 24) and out.max() > 255
    assert len(np.unique(out)) > 100 and error(out, grey) < 65535 * 0.001


def test_f_mri_in_two_channels(job, tmp_path):
    """k-space in, complex images out, as arrays."""
    import torch
    from deepinv.physics import MRI

    rows, columns = np.linspace(0, 3, 16)[:, None], np.linspace(0, 2, 16)
    image = 0.5 * np.stack([np.sin(rows) * np.cos(columns), np.cos(rows + columns)]).astype(np.float32)
    lines = np.zeros((16, 16), np.float32)
    lines[:, [0, 2, 5, 6, 7, 8, 9, 10, 13]] = 1
    physics = MRI(mask=torch.tensor(lines)[None, None], img_size=(16, 16))
    y = physics.A(torch.tensor(image)[None])
    np.save(tmp_path / "lines.npy", np.stack([lines, lines]))
    content = io.BytesIO()
    np.save(content, y[0].numpy())
    operator = "--model.physics={class_path: deepinv.physics.MRI, init_args: {img_size: [16, 16]}}"
    options = [
        operator,
        "--data.params.mask",
        tmp_path / "lines.npy",
        "--model.prior.init_args.shape=[2,16,16]",
    ]
    found, _ = job({"patient 1/scan.npy": content.getvalue()}, *options)
    [(name, restored)] = found.items()
    assert name == "patient 1/scan.npy" and restored.dtype == np.float32 and restored.shape == (2, 16, 16)
    unit, filled = (image + 1) / 2, (physics.A_adjoint(y)[0].numpy() + 1) / 2
    assert error(restored, unit) < 1.1 * error(filled, unit)
    again = physics.A(2 * torch.tensor(restored)[None] - 1)
    assert (again - y).square().mean().sqrt() < 0.02 * y.square().mean().sqrt(), "it keeps the measured lines"


def test_g_photos_of_many_sizes_in_folders(job):
    """As many files out, the same names, the same sizes."""
    sizes = [(8 + 5 * (i % 4), 11 + 7 * (i % 3)) for i in range(12)]
    names = ["a b/ü {i}.png", "2019.07/x.{i}.png", "plain/{i}.PNG"]
    files = {names[i % 3].format(i=i): png(photo(*sizes[i % 12], i)) for i in range(30)}
    found, printed = job(files, "--task", "denoising", SMALL)
    assert "30 measurements of Denoising" in printed
    assert {name.lower(): array.shape[:2] for name, array in found.items()} == {
        names[i % 3].format(i=i).lower(): sizes[i % 12] for i in range(30)
    }


def test_the_recipes_of_the_documentation_are_these_jobs():
    """Every task, sampler and prior that they name ships, and every option is one."""
    text = (Path(__file__).parents[2] / "docs" / "restore.md").read_text()
    recipes = re.findall(r"^reddiff restore (\S+/ .*)$", text, re.MULTILINE)
    assert len(recipes) >= 7
    for recipe in recipes:
        argv = shlex.split(recipe)[1:]
        kinds = dict(itertools.pairwise(argv))
        if "--task" in kinds:
            assert f"tasks/{kinds['--task']}.yaml" in shipped_configs()
        assert {name for name in argv if name.startswith("--")} <= OPTIONS, recipe
