"""The text-to-image pipelines of diffusers that are known: what is in their folders, and how their networks are called.

A folder is read by these classes alone, whatever it names, from safetensors: no code of it is ever run.

References:
    High-Resolution Image Synthesis with Latent Diffusion Models | https://arxiv.org/abs/2112.10752
    SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis | https://arxiv.org/abs/2307.01952
    Latent Consistency Models | https://arxiv.org/abs/2310.04378
    Scaling Rectified Flow Transformers for High-Resolution Image Synthesis | https://arxiv.org/abs/2403.03206
    FLUX | https://github.com/black-forest-labs/flux
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.loading import read_json

CLIP, CLIP_PROJECTED, T5 = "CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"
_TOKENIZERS = {
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "t5": ("T5Tokenizer", "T5TokenizerFast"),
}


@dataclass(frozen=True)
class Call:
    """What a network is asked, beside its weights.

    Attributes:
        x: what it sees, (B, C, H, W).
        time: what it is told of the noise, (B,): a timestep, or for a flow t in [0, 1].
        words: embeddings of the texts, (B, L, D).
        pooled: of the texts as a whole, (B, P), where there are such.
        pixels: how many pixels of the image a number of x stands for, along an axis.
        strength: guidance that the network itself was distilled with.
    """

    x: Tensor
    time: Tensor
    words: Tensor
    pooled: Tensor | None
    pixels: int
    strength: float


@dataclass(frozen=True)
class Family:
    """A kind of pipeline.

    Attributes:
        pipeline: diffusers' class whose `encode_prompt` makes the embeddings.
        part: the folder of its network.
        network: the network's class.
        encoders: the classes of its text encoders, by folder.
        optional: encoders that may be missing.
        call: the network's output, (B, C, H, W).
        tokens: how many tokens of a text the T5 encoder sees.
    """

    pipeline: str
    part: str
    network: str
    encoders: Mapping[str, str]
    call: Callable[[Any, Call], Tensor]
    optional: tuple[str, ...] = ()
    tokens: int | None = None


def stable_diffusion(network: Any, asked: Call) -> Tensor:
    """What a UNet2DConditionModel predicts, (B, C, H, W)."""
    given = stable_diffusion_conditions(network, asked)
    return network(asked.x, asked.time, encoder_hidden_states=asked.words, return_dict=False, **given)[0]


def stable_diffusion_conditions(network: Any, asked: Call) -> dict[str, Any]:
    """What a UNet2DConditionModel is told beside the time and the words: SDXL's sizes, an LCM's guidance."""
    given: dict[str, Any] = {}
    if (width := network.config.time_cond_proj_dim) is not None:
        given["timestep_cond"] = _strength(asked.strength - 1, width, asked.x)
    if asked.pooled is not None:
        # filled where it is: a captured graph takes nothing from the host
        sizes = asked.x.new_zeros(6)
        for i, side in enumerate(asked.x.shape[-2:]):
            sizes[i::4] = side * asked.pixels
        given["added_cond_kwargs"] = {
            "text_embeds": asked.pooled,
            "time_ids": sizes.expand(len(asked.x), -1),
        }
    return given


def _strength(strength: float, width: int, like: Tensor) -> Tensor:
    """The sinusoids of a guidance that an LCM network is told, (B, width)."""
    half = width // 2
    rates = torch.exp(
        torch.arange(half, dtype=torch.float32, device=like.device) * (-math.log(10000) / (half - 1))
    )
    angles = 1000 * strength * rates
    out = torch.cat([angles.sin(), angles.cos(), angles.new_zeros(width % 2)])
    return out.to(like.dtype).expand(len(like), -1)


def _stable_diffusion_3(network: Any, asked: Call) -> Tensor:
    return network(
        hidden_states=asked.x,
        timestep=1000 * asked.time,
        encoder_hidden_states=asked.words,
        pooled_projections=asked.pooled,
        return_dict=False,
    )[0]


def _flux(network: Any, asked: Call) -> Tensor:
    B, C, height, width = asked.x.shape
    # 2x2 patches as tokens
    packed = asked.x.reshape(B, C, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    rows, columns = torch.meshgrid(
        torch.arange(height // 2, device=asked.x.device),
        torch.arange(width // 2, device=asked.x.device),
        indexing="ij",
    )
    places = torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).to(asked.x.dtype)
    strength = None
    if network.config.guidance_embeds:
        strength = torch.full((B,), asked.strength, device=asked.x.device)
    output = network(
        hidden_states=packed.reshape(B, -1, 4 * C),
        timestep=asked.time,
        guidance=strength,
        pooled_projections=asked.pooled,
        encoder_hidden_states=asked.words,
        txt_ids=places.new_zeros(asked.words.shape[1], 3),
        img_ids=places,
        return_dict=False,
    )[0]
    output = output.reshape(B, height // 2, width // 2, C, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return output.reshape(B, C, height, width)


_SD = Family(
    "StableDiffusionPipeline", "unet", "UNet2DConditionModel", {"text_encoder": CLIP}, stable_diffusion
)
FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": _SD,
    "LatentConsistencyModelPipeline": _SD,
    "StableDiffusionXLPipeline": Family(
        "StableDiffusionXLPipeline",
        "unet",
        "UNet2DConditionModel",
        {"text_encoder": CLIP, "text_encoder_2": CLIP_PROJECTED},
        stable_diffusion,
    ),
    "StableDiffusion3Pipeline": Family(
        "StableDiffusion3Pipeline",
        "transformer",
        "SD3Transformer2DModel",
        {"text_encoder": CLIP_PROJECTED, "text_encoder_2": CLIP_PROJECTED, "text_encoder_3": T5},
        _stable_diffusion_3,
        optional=("text_encoder_3",),
        tokens=256,
    ),
    "FluxPipeline": Family(
        "FluxPipeline",
        "transformer",
        "FluxTransformer2DModel",
        {"text_encoder": CLIP, "text_encoder_2": T5},
        _flux,
        tokens=512,
    ),
}
"""By the class that model_index.json names."""


def family_of(folder: Path, option: str) -> tuple[Family, dict[str, Any]]:
    """Which pipeline a folder holds, and its model_index.json.

    Raises:
        ConfigError: it is none, or one of a class that is not known, or with a part of another class.
    """
    if not (folder / "model_index.json").is_file():
        raise ConfigError(
            f"{option}: {folder} has no model_index.json; it is not a diffusers pipeline's folder"
        )
    index = read_json(folder / "model_index.json", option)
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ConfigError(f"{option}: {folder} is a {name}; known are {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    wanted: dict[str, tuple[str, tuple[str, ...]]] = {family.part: ("diffusers", (family.network,))}
    for place, kind in family.encoders.items():
        wanted[place] = ("transformers", (kind,))
        words = place.replace("text_encoder", "tokenizer")
        wanted[words] = ("transformers", _TOKENIZERS["t5" if kind == T5 else "tokenizer"])
    for place, (library, kinds) in wanted.items():
        found = index.get(place)
        if found in (None, [None, None]) and place.replace("tokenizer", "text_encoder") in family.optional:
            continue
        if not isinstance(found, list) or len(found) != 2 or found[0] != library or found[1] not in kinds:
            raise ConfigError(
                f"{option}: {folder} has {found} as its {place}, expected {library}'s {' or '.join(kinds)}; classes of "
                "a folder's own are never run"
            )
    return family, index
