"""Priors in the latent space of a tiny random autoencoder."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL, VQModel
from helpers import CONFIGS, png, read_tar, restored_keys, write_shard
from networks import noise, tiny_unet
from PIL import Image

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics import SuperResolution, UnitRange
from reddiff_pl.physics.proximal import proximal
from reddiff_pl.priors import Latent, Tiled, UNet
from reddiff_pl.samplers import SeededNoise
from reddiff_pl.samplers.base import Problem
from reddiff_pl.samplers.reddiff import data_gradient
from reddiff_pl.samplers.starts import start

SCALE = 0.7
SIZES: dict[str, Any] = {
    "block_out_channels": (8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 4,
    "scaling_factor": SCALE,
}


def pipeline(folder: Path, kind: str = "AutoencoderKL", **unet: Any) -> Any:
    """An unconditional latent diffusion pipeline as diffusers saves it; returns the autoencoder."""
    torch.manual_seed(1)
    if kind == "VQModel":
        autoencoder: Any = VQModel(**SIZES, latent_channels=4, num_vq_embeddings=32)
        torch.nn.init.normal_(autoencoder.quantize.embedding.weight)
    else:
        autoencoder = AutoencoderKL(**SIZES, latent_channels=4)
    autoencoder.save_pretrained(folder / ("vqvae" if kind == "VQModel" else "vae"), safe_serialization=True)
    tiny_unet(folder / "unet", **({"in_channels": 4, "out_channels": 4, "sample_size": 8} | unet))
    (folder / "scheduler").mkdir()
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    return autoencoder.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["AutoencoderKL", "VQModel"])
def test_latents_are_those_of_the_pipeline(tmp_path: Path, kind: str) -> None:
    autoencoder = pipeline(tmp_path, kind)
    prior = Latent(UNet(str(tmp_path)), str(tmp_path))
    assert prior.shape == (3, 32, 32)
    assert prior.abar[-1] == pytest.approx(UNet(str(tmp_path / "unet")).abar[-1].item())
    x = noise(2, 3, 32, 32)
    z = prior.encode(x)
    encoded = autoencoder.encode(x)
    mean = encoded.latents if kind == "VQModel" else encoded.latent_dist.mean
    assert z.shape == (2, 4, 8, 8) and z.std() > 0.01
    torch.testing.assert_close(z, SCALE * mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(prior.decode(z), autoencoder.decode(z / SCALE).sample, rtol=1e-5, atol=1e-5)
    t = torch.tensor([3, 700])
    assert torch.equal(prior.eps(z, t), UNet(str(tmp_path)).eps(z, t))
    other = Latent(UNet(str(tmp_path)), str(tmp_path), scaling_factor=1.4)
    torch.testing.assert_close(other.encode(x), 2 * z, rtol=1e-5, atol=1e-6)
    assert other.fingerprint() != prior.fingerprint()


def test_the_gradient_goes_through_the_decoder(tmp_path: Path) -> None:
    """Against finite differences of the misfit in a random direction."""
    pipeline(tmp_path)
    prior = Latent(UNet(str(tmp_path)), str(tmp_path))
    physics = prior.observed(SuperResolution(2))
    z, y = prior.encode(noise(1, 3, 32, 32)), noise(1, 3, 16, 16, seed=1)
    direction = noise(*z.shape, seed=2)

    def loss(z: torch.Tensor) -> float:
        return ((y - physics.A(z)).double().square().mean() / 2).item()

    _, gradient = data_gradient(z, y, physics)
    slope = (loss(z + 0.002 * direction) - loss(z - 0.002 * direction)) / 0.004
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=0.03)
    assert abs(slope) > 1e-4
    start = physics.A_dagger(y)
    torch.testing.assert_close(start, prior.encode(SuperResolution(2).A_dagger(y)))


def restore(reddiff, tmp_path: Path, prior: dict[str, Any], out: str, *options: str) -> tuple[int, str]:
    """Two images restored with a prior."""
    (tmp_path / "prior.yaml").write_text(
        yaml.safe_dump({"model": {"prior": {"class_path": "reddiff_pl.priors.Latent", "init_args": prior}}})
    )
    ramp = np.linspace(0, 255, 32 * 48 * 3).astype(np.uint8).reshape(48, 32, 3)
    pictures = {"a": ramp[:32], "b": ramp[16:]}
    shard = write_shard(tmp_path / "in.tar", [(key, {"png": png(p)}) for key, p in pictures.items()])
    return reddiff(
        *("restore", "--config", CONFIGS / "tasks" / "superresolution_2x.yaml"),
        *("--config", tmp_path / "prior.yaml", "--trainer.accelerator=cpu", "--data.shards", shard),
        *("--data.batch_size=2", "--out", tmp_path / out, *options),
    )


def unet(folder: Path, **arguments: Any) -> dict[str, Any]:
    return {"class_path": "reddiff_pl.priors.UNet", "init_args": {"path": str(folder), **arguments}}


@pytest.mark.parametrize("kind", ["AutoencoderKL", "VQModel"])
def test_from_yaml(reddiff, tmp_path: Path, kind: str) -> None:
    """Restored, evolution and all; steps bring the image nearer to its measurement."""
    pipeline(tmp_path / "ldm", kind)
    prior = {"prior": unet(tmp_path / "ldm"), "autoencoder": str(tmp_path / "ldm")}
    misfits = []
    for steps in (1, 40):
        options = ["--config", str(CONFIGS / "samplers" / "reddiff_paper.yaml")]
        options += [f"--model.sampler.init_args.steps={steps}", "--model.sampler.init_args.lam=0"]
        code, printed = restore(reddiff, tmp_path, prior, f"out{steps}", *options, "--model.keep_steps=3")
        assert code == 0, printed
        output = tmp_path / f"out{steps}" / "shards" / "in.tar"
        assert restored_keys(output) == ["a", "b"]
        files = read_tar(output)
        misfits.append([json.loads(files[f"{key}.reddiff.json"])["misfit"] for key in "ab"])
        assert "a.steps.png" in files
    if kind == "AutoencoderKL":  # a random codebook has nothing near these latents
        assert all(late < 0.95 * early for early, late in zip(*misfits, strict=True))


def test_larger_images(reddiff, tmp_path: Path) -> None:
    """Tiles of latents; images whose sides the autoencoder does not divide are padded, and come back as they were."""
    pipeline(tmp_path / "ldm", sample_size=4)
    tiled = {"class_path": "reddiff_pl.priors.Tiled", "init_args": {"prior": unet(tmp_path / "ldm")}}
    prior = {"prior": tiled, "autoencoder": str(tmp_path / "ldm")}
    options = ["--data.size=32", "--model.sampler.init_args.steps=2"]
    code, printed = restore(reddiff, tmp_path, prior, "out", *options)
    assert code == 0, printed
    code, printed = restore(reddiff, tmp_path, prior, "out2", *options, "--data.size=30")
    assert code == 0, printed
    picture = read_tar(tmp_path / "out2" / "shards" / "in.tar")["a.png"]
    assert Image.open(io.BytesIO(picture)).size == (30, 30)
    with pytest.raises(ConfigError, match="inside Latent"):
        Tiled(Latent(UNet(str(tmp_path / "ldm")), str(tmp_path / "ldm")))


@pytest.mark.parametrize("how", ["missing", "another kind", "other channels", "scaling"])
def test_autoencoders_that_do_not_fit(tmp_path: Path, how: str) -> None:
    channels = 3 if how == "other channels" else 4
    pipeline(tmp_path, in_channels=channels, out_channels=channels)
    path = {"missing": tmp_path / "nowhere", "another kind": tmp_path / "unet"}.get(how, tmp_path)
    with pytest.raises(
        ConfigError, match=r"^model\.prior\.init_args\.(autoencoder|scaling_factor|path): [^\n]*$"
    ):
        Latent(UNet(str(tmp_path)), str(path), scaling_factor=-1.0 if how == "scaling" else None)


@pytest.mark.parametrize("unit_range", [False, True])
def test_the_data_step_by_way_of_pixels(tmp_path: Path, unit_range: bool) -> None:
    """What the image that fits differs by, encoded: nothing where the image fits already."""
    pipeline(tmp_path)
    prior = Latent(UNet(str(tmp_path)), str(tmp_path), data_step="pixels")
    operator = UnitRange(SuperResolution(2)) if unit_range else SuperResolution(2)
    physics = prior.observed(operator)
    x = noise(2, 3, 30, 32).clamp(-1, 1)  # a side that the autoencoder does not divide
    z = physics.A_dagger(operator.A(x))
    image = prior.decode(z)[..., :30, :]
    rho = torch.tensor([1e-3, 0.5])
    same = proximal(physics, z, operator.A(image), rho)
    torch.testing.assert_close(same, z, rtol=0, atol=1e-5)
    # the image that fits, by the normal equations of block means: A A^T = 1/4
    scale = 4.0 if unit_range else 1.0  # |y - A((x + 1) / 2)|^2 is a quarter of |(2 y - 1) - A x|^2
    misfit = SuperResolution(2).A(x - image)
    share = 1 / (0.25 + scale * rho)[:, None, None, None]
    expected = image + SuperResolution(2).A_adjoint(share * misfit)
    moved = proximal(physics, z, operator.A(x), rho)
    torch.testing.assert_close(moved - z, prior.encode(expected) - prior.encode(image), rtol=1e-3, atol=1e-4)
    with pytest.raises(ConfigError, match=r"data_step: must be one of decoder, pixels, got words"):
        Latent(UNet(str(tmp_path)), str(tmp_path), data_step="words")  # type: ignore[arg-type]
    plain = Latent(UNet(str(tmp_path)), str(tmp_path))
    assert plain.fingerprint() != prior.fingerprint() and not hasattr(plain.observed(operator), "through")


def test_the_start_is_that_of_images_encoded(tmp_path: Path) -> None:
    """The Wiener estimate, which knows photos' spectra and the noise: nearer than A_dagger(y)."""
    pipeline(tmp_path)
    prior, operator = Latent(UNet(str(tmp_path)), str(tmp_path)), SuperResolution(4)
    y = operator.A(noise(2, 3, 30, 32)) + 0.3 * noise(2, 3, 8, 8, seed=1)
    std = torch.full((2,), 0.3)
    problem = Problem(y, operator, prior, SeededNoise(0, ["a", "b"]), noise_std=std)
    physics = prior.observed(operator)
    z = start("wiener", replace(problem, physics=physics))
    image = start("wiener", problem)
    assert (image - operator.A_dagger(y)).abs().max() > 0.05
    torch.testing.assert_close(z, prior.encode(image))
    assert physics.A(z).shape == y.shape, "cropped to the images' size"
    torch.testing.assert_close(
        start("pseudo_inverse", replace(problem, physics=physics)), physics.A_dagger(y)
    )
