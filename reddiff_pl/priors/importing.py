"""`reddiff prior import`: a checkpoint of the OpenAI ADM family becomes a folder that the priors read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from reddiff_pl.errors import ConfigError
from reddiff_pl.options.prior import BETAS

# what the tensors do not tell: schedule, order of qkv. All other published files are linear and legacy.
_KNOWN = {"64x64_diffusion": ("cosine", "new"), "64x64_classifier": ("cosine", "legacy")}
_LINEAR_LEGACY = (
    *("256x256_diffusion", "256x256_diffusion_uncond", "512x512_diffusion", "ffhq_10m"),
    *("lsun_bedroom", "lsun_cat", "lsun_horse", "lsun_horse_nodropout"),
    *("128x128_classifier", "256x256_classifier", "512x512_classifier"),
)
_KNOWN |= dict.fromkeys(_LINEAR_LEGACY, ("linear", "legacy"))
# four heads whatever the level's width, which a UNet2DModel cannot have
_REFUSED = ("128x128_diffusion", "64_256_upsampler")


def import_checkpoint(
    file: str,
    out: str,
    dtype: str = "float32",
    image_size: int | None = None,
    head_channels: int = 64,
    attention_order: str | None = None,
    schedule: str | None = None,
    timesteps: int | None = None,
) -> list[str]:
    """Write the folder; returns what was recognised, as lines. The arguments are the command's options.

    Raises:
        ConfigError: the file is none of the family, or damaged; or the folder cannot be made.
    """
    import torch
    from safetensors.torch import save_file

    from reddiff_pl.priors import adm, adm_weights, classifier
    from reddiff_pl.priors.checkpoints import read_checkpoint
    from reddiff_pl.priors.loading import wide_unet

    name, folder = Path(file).stem, Path(out)
    if name in _REFUSED:
        raise ConfigError(
            f"{file}: {name} has four heads whatever the width, which a UNet2DModel cannot have"
        )
    if timesteps is not None and timesteps < 1:
        raise ConfigError(f"--timesteps: must be at least 1, got {timesteps}")
    if head_channels < 1:
        raise ConfigError(f"--head-channels: must be at least 1, got {head_channels}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--out: {folder} is there already and not an empty folder")
    tensors, said = read_checkpoint(file)
    named_schedule, named_order = _KNOWN.get(name, ("linear", "legacy"))
    schedule, order = schedule or named_schedule, attention_order or named_order
    if size := re.search(r"(\d+)x\1(?!\d)", name):
        image_size = image_size or int(size.group(1))
    try:
        config = adm.unet_config(tensors, image_size, head_channels)
        converted = adm_weights.convert(tensors, head_channels, legacy=order == "legacy")
        with torch.device("meta"):  # shapes only
            if adm.is_classifier(tensors):
                config = classifier.config_of(config, tensors)
                converted = {f"encoder.{key}": value for key, value in converted.items()}
                converted |= classifier.head_tensors(tensors)
                network = classifier.classifier_from(config)
            else:
                network = wide_unet(config)
        adm_weights.check_shapes(converted, network)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    except Exception as error:  # tensors of strange shapes make indexing and diffusers fail in their own ways
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{file}: not a checkpoint of the ADM family: {reason}") from error

    try:
        folder.mkdir(parents=True, exist_ok=True)
        kind = getattr(torch, dtype)
        del tensors  # each goes as its copy is made: the large ones are 2 GB
        weights = {key: converted.pop(key).to(kind, copy=True).contiguous() for key in list(converted)}
        save_file(weights, folder / classifier.WEIGHTS, metadata={"format": "pt"})
        (folder / "scheduler_config.json").write_text(_json(_scheduler(schedule, config, timesteps or 1000)))
        (folder / "config.json").write_text(_json(config))
    except OSError as error:
        raise ConfigError(f"--out: cannot write {folder}: {error.strerror}") from error
    lines = _summary(config, schedule, order, timesteps, name in _KNOWN, folder)
    return [*said, *lines]


def _scheduler(schedule: str, config: dict[str, Any], timesteps: int) -> dict[str, Any]:
    learned = config.get("out_channels") == 2 * config.get("in_channels", 0)
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": timesteps,
        "beta_schedule": BETAS[schedule],
        # the same noise in the end, in however many steps
        "beta_start": 0.0001 * 1000 / timesteps,
        "beta_end": min(0.02 * 1000 / timesteps, 0.999),
        "prediction_type": "epsilon",
        "variance_type": "learned_range" if learned else "fixed_small",
        "clip_sample": True,
    }


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _summary(
    config: dict[str, Any], schedule: str, order: str, timesteps: int | None, known: bool, folder: Path
) -> list[str]:
    unet, head = config.get("encoder", config), config.get("head")
    classes = head["classes"] if head else unet["num_class_embeds"]
    attention = [
        unet["sample_size"] >> level
        for level, kind in enumerate(unet["down_block_types"])
        if kind.startswith("Attn")
    ]
    lines = [
        f"{'classifier' if head else 'prior'} of {unet['sample_size']}x{unet['sample_size']} images, "
        f"{f'{classes} classes' if classes else 'no classes'}",
        f"levels {unet['block_out_channels']}, {unet['layers_per_block']} blocks each, attention at {attention}",
        f"{schedule} schedule of {timesteps or 1000} steps, {order} order of qkv, "
        f"{unet['attention_head_dim']} channels a head"
        + ("" if known else " (assumed: these leave no trace in the tensors; see --help)"),
    ]
    if head:
        return [*lines, f"use it as classifier of reddiff_pl.priors.ClassifierGuidance, with path {folder}"]
    return [*lines, f"use it with --model.prior.init_args.path {folder}"]
