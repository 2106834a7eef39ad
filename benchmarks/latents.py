"""A small latent model trained in minutes, and what it restores: photos of 128 pixels by latents of 32x32.

    python -m benchmarks.latents --shards 'photos/train-*.tar' --out runs/latents        # on a GPU: four minutes
    python -m benchmarks.latents --shards tests/data/val-000000.tar --out /tmp/l --tiny --limit 2

First an AutoencoderKL (a quarter of the height and width, 4 channels; mean absolute error of pixels and of their
differences), then `reddiff fit` on the latents of crops, written as KEY.npy: (z + 1) / 2, since a fit takes arrays on
[0, 1] as images on [-1, 1]. Then val photos, reduced to 128 pixels, by `priors.Latent` with both data steps, and by the
bundled 64x64 prior in windows of the pixels.
"""

from __future__ import annotations

import argparse
import copy
import io
import itertools
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.eps_mse import VAL
from benchmarks.minutes import train
from benchmarks.precision import RunFailed
from benchmarks.precision import restored as psnr_of

CONFIGS = Path(__file__).parent.parent / "configs"
TASKS = ("superresolution_4x", "inpainting_random")
SIZE, FACTOR, CHANNELS = 128, 4, 4


def autoencoder(tiny: bool) -> Any:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    widths = (8, 8, 8) if tiny else (64, 128, 192)
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        layers_per_block=1,
        norm_num_groups=4 if tiny else 16,
        latent_channels=CHANNELS,
        sample_size=SIZE,
        mid_block_add_attention=False,  # photos of any size
    )


def differences(x: Tensor) -> list[Tensor]:
    """Of neighbours, in both directions, and of means over 2x2 and 4x4 pixels."""
    out = [x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]]
    for size in (2, 4):
        out.append(torch.nn.functional.avg_pool2d(x, size))
    return out


def train_autoencoder(shards: list[str], seconds: float, batch: int, out: Path, tiny: bool) -> Tensor:
    """Leaves OUT/vae; returns latents of crops, (N, C, h, w), of about unit variance."""
    from reddiff_pl.training.photos import PhotoCrops

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = PhotoCrops(
        shards=shards, min_scale=SIZE, scale_power=-0.75, workers=8, levels=6, shape=(3, SIZE, SIZE)
    )
    data.setup("fit")
    pyramid = data.pyramid.to(device)
    network = autoencoder(tiny).to(device, memory_format=torch.channels_last).train()
    average = copy.deepcopy(network).requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)

    def loss() -> Tensor:
        x = pyramid.draw(batch, SIZE, generator)
        with torch.autocast(device.type, torch.bfloat16, device.type == "cuda"):
            posterior = network.encode(x).latent_dist
            z = posterior.mean + posterior.std * torch.randn(
                posterior.mean.shape, generator=generator, device=device
            )
            decoded = network.decode(z).sample.float()
        terms = zip([decoded, *differences(decoded)], [x, *differences(x)], strict=True)
        return sum((a - b).abs().mean() for a, b in terms) + 1e-6 * posterior.kl().float().mean()

    def after(step: int) -> None:
        for mine, theirs in zip(average.parameters(), network.parameters(), strict=True):
            mine.lerp_(theirs, max(0.005, 1 / step))

    losses = train(network, loss, after, seconds, lr=1e-3, warmup=100)
    with torch.no_grad():
        crops = 16 if tiny else 6144
        means = [
            average.encode(pyramid.draw(min(crops, 64), SIZE, generator)).latent_dist.mean
            for _ in range(max(crops // 64, 1))
        ]
    latents = torch.cat(means).float()
    scale = 1 / latents.std().item()
    average.register_to_config(scaling_factor=scale)
    average.save_pretrained(out / "vae", safe_serialization=True)
    print(
        f"autoencoder: {len(losses)} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}, scale {scale:.3f}",
        flush=True,
    )
    return (latents * scale).cpu()


def write_latents(latents: Tensor, path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for i, z in enumerate(latents):
            file = io.BytesIO()
            np.save(file, ((z + 1) / 2).numpy().astype(np.float32))
            member = tarfile.TarInfo(f"{i:06d}.npy")
            member.size = file.tell()
            file.seek(0)
            archive.addfile(member, file)


def fit(out: Path, minutes: float, tiny: bool) -> None:
    """`reddiff fit` on the latents, which leaves OUT/fit/prior."""
    options = {
        "data.shards": out / "latents.tar", "out": out / "fit", "model.sample_images": 0,
        "model.network.init_args.sample_size": SIZE // FACTOR, "model.network.init_args.in_channels": CHANNELS,
        "model.network.init_args.out_channels": CHANNELS, "data.max_scale": SIZE // FACTOR, "data.batch_size": 256,
        "model.compile": "false", "model.max_minutes": minutes, "model.lr": 6e-4, "model.warmup_steps": 100,
        "model.ema_decays": "[0.99, 0.998]", "data.max_heldout": 128,
        "model.network.init_args.block_out_channels": "[128, 192, 256]",
        "model.network.init_args.down_block_types": "[DownBlock2D, AttnDownBlock2D, AttnDownBlock2D]",
        "model.network.init_args.up_block_types": "[AttnUpBlock2D, AttnUpBlock2D, UpBlock2D]",
    }  # fmt: skip
    if tiny:
        options |= {
            "data.batch_size": 2, "model.max_steps": 2, "trainer.precision": "32-true",
            "model.network.init_args.block_out_channels": "[32, 32, 32]",
        }  # fmt: skip
    command = [sys.executable, "-m", "reddiff_pl", "fit", "--config", str(CONFIGS / "fit" / "photos64.yaml")]
    command += [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print("\n".join(done.stdout.splitlines()[-3:]), flush=True)
    done.check_returncode()


def reconstructed(out: Path, limit: int | None) -> float:
    """PSNR of val photos encoded and decoded: what a latent model cannot beat by much."""
    from reddiff_pl.metrics import psnr as decibels
    from reddiff_pl.priors import Latent, UNet
    from reddiff_pl.shards.encode import to_uint8
    from reddiff_pl.training.measuring import photos

    device = "cuda" if torch.cuda.is_available() else "cpu"
    prior = Latent(UNet(str(out / "fit" / "prior"), precision="32"), str(out / "vae")).to(device)
    x = photos([str(VAL)], None, (3, SIZE, SIZE), 1, limit)
    with torch.no_grad():
        found = [
            to_uint8(prior.decode(prior.encode(some.to(device).float() / 127.5 - 1))) for some in x.split(8)
        ]
    return decibels(torch.cat(found).cpu(), x).mean().item()


def restored(out: Path, task: str, name: str, options: list[str], limit: int | None) -> str:
    """PSNR and seconds of a run."""
    began = time.perf_counter()
    more = [f"--data.size={SIZE}", *options, *([f"--limit={limit}"] if limit else [])]
    try:
        values = psnr_of(out / f"{task}-{name}", task, more)
    except RunFailed as error:
        return str(error)
    return f"{sum(values) / len(values):.2f} ({time.perf_counter() - began:.1f} s)"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.latents", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--shards", nargs="+", required=True, help="photos to train on")
    parser.add_argument("--seconds", type=float, default=65.0, help="of the autoencoder's training")
    parser.add_argument("--minutes", type=float, default=1.3, help="of the fit, imports included")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="val photos (default: all)")
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="of configs/tasks (default: %(default)s)")
    parser.add_argument("--samplers", nargs="+", default=("reddiff", "diffpir"), help="one or both (default)")
    parser.add_argument(
        "--tiny", action="store_true", help="networks and budgets that show nothing but that it runs"
    )
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "latents.tar").is_file():
        seconds, batch = (2.0, 2) if options.tiny else (options.seconds, 48)
        latents = train_autoencoder(options.shards, seconds, batch, options.out, options.tiny)
        write_latents(latents, options.out / "latents.tar")
    fit(options.out, options.minutes, options.tiny)
    print(f"val photos encoded and decoded: {reconstructed(options.out, options.limit):.2f} dB", flush=True)
    prior = [
        "--model.prior=reddiff_pl.priors.Latent",
        f"--model.prior.init_args.autoencoder={options.out / 'vae'}",
        "--model.prior.init_args.prior=reddiff_pl.priors.UNet",
        f"--model.prior.init_args.prior.init_args.path={options.out / 'fit' / 'prior'}",
    ]
    ways: dict[str, list[str]] = {"bundled prior, pixels": []}
    for step, sampler in itertools.product(("pixels", "decoder"), options.samplers):
        # a sampler's file counts over the task's where it comes later
        more = ["--config", str(CONFIGS / "samplers" / "diffpir.yaml"), "--evaluations=20"]
        ways[f"latents, {sampler}, {step}"] = [
            *(more if sampler == "diffpir" else []), *prior, f"--model.prior.init_args.data_step={step}"
        ]  # fmt: skip
    lines = [f"| task | {' | '.join(ways)} |", "|---" * (len(ways) + 1) + "|"]
    for task in options.tasks:
        cells = [
            restored(options.out, task, name.replace(", ", "-").replace(" ", "_"), way, options.limit)
            for name, way in ways.items()
        ]
        lines.append(f"| {task} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    (options.out / "latents.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
