"""`reddiff prior measure`: the error of a prior's eps on photos, by timestep and precision, into its folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.priors import Prior, UNet, eps_error
from reddiff_pl.priors.base import host_abar
from reddiff_pl.priors.forward import EXACT_BLOCKS
from reddiff_pl.samplers.timesteps import levels
from reddiff_pl.shards import decode, metadata
from reddiff_pl.shards.plan import plan
from reddiff_pl.shards.reader import RawSample, read_shard

log = logging.getLogger(__name__)

LEVELS = 16


def measure(
    folder: str,
    shards: list[str] | None = None,
    images: str | None = None,
    count: int = 128,
    draws: int = 4,
    modulus: int = 1,
) -> list[str]:
    """Leave the table in the folder; returns it as lines. The arguments are the command's options.

    Raises:
        ConfigError: no prior, no photos, or a folder that cannot be written to.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ConfigError(f"{place}: no such folder")
    table = measured(place, shards, images, count, draws, modulus)
    try:
        eps_error.write(place, table)
    except OSError as error:
        raise ConfigError(f"{place}: cannot be written to: {error.strerror}") from error
    lines = [f"| t | {' | '.join(map(str, table.timesteps))} |", f"|---|{'---|' * len(table.timesteps)}"]
    for name, values in table.errors.items():
        lines.append(f"| {name} | {' | '.join(f'{value:#.4g}' for value in values)} |")
    good = table.good_range("fp8")
    said = "nowhere" if "fp8" in table.errors else "not measured here"
    if good is not None:
        said = f"from t = {good[0]} to {good[1]}"
    return [*lines, f"8 bits within {100 * eps_error.BOUND:g} % of float32: {said}"]


def measured(
    folder: Path,
    shards: list[str] | None,
    images: str | None = None,
    count: int = 128,
    draws: int = 4,
    modulus: int = 1,
) -> eps_error.EpsError:
    """The table of a folder's prior, in float32 and in what else this machine has.

    Raises:
        ConfigError: no prior, or no photos.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    errors: dict[str, list[float]] = {}
    x = timesteps = None
    for precision in ("32", "bf16", "fp8") if has_bf16 else ("32",):
        try:
            prior = UNet(str(folder), precision=precision).to(device)
        except ConfigError:
            if precision != "fp8":
                raise
            continue  # the device or the network cannot
        prior.forward_pass.exact_blocks = EXACT_BLOCKS
        if x is None:
            x = photos(shards, images, prior.shape, modulus, count)
            abar = host_abar(prior)
            r = ((1 - abar) / abar).sqrt()
            timesteps = sorted(set(levels("log_snr", abar, LEVELS, float(r[-1]), float(r[0]))))
        assert timesteps is not None
        losses = eps_errors(prior, x, timesteps, draws)
        errors[precision] = losses.mean(0).tolist()
    assert x is not None and timesteps is not None
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return eps_error.EpsError(timesteps, errors, len(x), draws, name)


def photos(
    shards: Sequence[str] | None,
    images: str | None,
    shape: tuple[int, int, int],
    modulus: int = 1,
    count: int | None = None,
) -> Tensor:
    """Photos centre-cropped and reduced as `reddiff restore` does it, uint8 (N, C, H, W).

    Args:
        shards: tars of photos.
        images: a folder of photos instead.
        shape: (C, H, W).
        modulus: take those whose photo_id it divides.
        count: take so many of these, spread evenly.

    Raises:
        ConfigError: there is none that can be read.
    """
    out = []
    for shard in plan(None if shards is None else list(shards), images):
        for raw in read_shard(shard):
            try:
                if not isinstance(raw, RawSample):
                    raise SampleError(raw.reason)
                if modulus > 1:
                    meta = metadata.parse(decode.member_bytes(raw.members["json"]), "json")
                    if meta["photo_id"] % modulus:
                        continue
                name = next(s for s in decode.IMAGE_MEMBERS if s in raw.members)
                picture = decode.image(decode.member_bytes(raw.members[name]), name, shape[0])
                fitted = decode.fitted(picture, shape[1], shape[2], name).pil()
                out.append(np.asarray(fitted).reshape(*shape[1:], shape[0]).transpose(2, 0, 1).copy())
            except (SampleError, StopIteration, KeyError, TypeError) as error:
                log.warning("%s is left out: %s", raw.key, " ".join(str(error).split())[:200])
    if not out:
        raise ConfigError("--shards, --images: no photo that can be read")
    step = max(len(out) / (count or len(out)), 1)
    chosen = [out[int(i * step)] for i in range(min(count or len(out), len(out)))]
    return torch.from_numpy(np.stack(chosen))


@torch.no_grad()
def eps_errors(
    prior: Prior, x: Tensor, timesteps: Sequence[int], draws: int = 2, batch_size: int = 64
) -> Tensor:
    """Each photo's mean of (eps - z)^2 over its pixels and the draws: float64 (N, timesteps).

    Args:
        prior: on the device to compute on.
        x: photos, uint8 (N, C, H, W).
        timesteps: to look at.
        draws: of z for each photo and timestep; drawn on the CPU, seeded by t: the same on every device.
        batch_size: photos at a time.
    """
    device = prior.abar.device
    out = torch.zeros(len(x), len(timesteps), dtype=torch.float64)
    for i, t in enumerate(timesteps):
        generator = torch.Generator().manual_seed(t)
        alpha, sigma = prior.abar[t].sqrt().item(), (1 - prior.abar[t]).sqrt().item()
        for _ in range(draws):
            noise = torch.randn(x.shape, generator=generator)
            losses = []
            for images, z in zip(x.split(batch_size), noise.split(batch_size), strict=True):
                z = z.to(device)
                x_t = alpha * (images.to(device).float() / 127.5 - 1) + sigma * z
                label = torch.zeros(len(z), dtype=torch.long, device=device) if prior.classes else None
                eps = prior.eps(x_t, torch.full((len(z),), t, device=device), label)
                losses.append((eps - z).square().mean((1, 2, 3)))
            out[:, i] += torch.cat(losses).double().cpu() / draws
    return out
