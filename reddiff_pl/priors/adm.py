"""The architecture of checkpoints of the OpenAI ADM family, recognised from the names and shapes of their tensors.

The channels of an attention head and the order of qkv leave no trace there, and are told.

References:
    Diffusion Models Beat GANs on Image Synthesis | https://arxiv.org/abs/2105.05233
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from reddiff_pl.errors import ConfigError

# image size by the levels' widths, relative to the base
_SIZES = {
    (1, 2, 3, 4): 64,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
    (0.5, 1, 1, 2, 2, 4, 4): 512,
}
_GROUPS = 32


@dataclass
class Architecture:
    """What the tensors say.

    Attributes:
        channels: width of each level.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: whether a level has attention.
        resblock_updown: levels change by residual blocks, not by convolutions.
        width: number of sinusoids of t, the base width.
    """

    channels: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    resblock_updown: bool
    width: int


def recognise(tensors: Mapping[str, Tensor]) -> Architecture:
    """The architecture of an ADM UNet, or of a classifier, which is its first half.

    Raises:
        ConfigError: the tensors are not one's; says what is missing or strange.
    """
    for name in (
        "time_embed.0.weight",
        "input_blocks.0.0.weight",
        "middle_block.1.qkv.weight",
        "out.2.weight",
    ):
        if name not in tensors and not (name == "out.2.weight" and is_classifier(tensors)):
            raise ConfigError(f"not a checkpoint of the ADM family: it has no tensor {name}")
    count = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("input_blocks."))
    fits = [found for levels in range(1, count) if (found := _with_levels(tensors, levels, count))]
    if len(fits) != 1:
        raise ConfigError(f"not a checkpoint of the ADM family: its {count} input blocks make no levels")
    return fits[0]


def is_classifier(tensors: Mapping[str, Tensor]) -> bool:
    """Whether it ends in the attention pool of a classifier instead of the way up."""
    return "out.2.positional_embedding" in tensors


def _with_levels(tensors: Mapping[str, Tensor], levels: int, count: int) -> Architecture | None:
    """The architecture if the blocks are those of so many levels."""
    blocks = count // levels - 1
    if count % levels or blocks < 1:
        return None

    def sides(block: int) -> tuple[int, int] | None:
        weight = tensors.get(f"input_blocks.{block}.0.in_layers.2.weight")
        return None if weight is None else (weight.shape[1], weight.shape[0])

    channels, attention, resampling = [], [], []
    for level in range(levels):
        first = 1 + level * (blocks + 1)
        inside = [sides(block) for block in range(first, first + blocks)]
        width = inside[0][1] if inside[0] else 0
        seen = {f"input_blocks.{block}.1.qkv.weight" in tensors for block in range(first, first + blocks)}
        if any(side != (width, width) for side in inside[1:]) or not width or len(seen) > 1:
            return None
        channels.append(width)
        attention.append(seen.pop())
        if level == levels - 1:
            break
        down = first + blocks
        resampling.append(sides(down))
        is_convolution = f"input_blocks.{down}.0.op.weight" in tensors
        if not (is_convolution or resampling[-1] == (width, width)):
            return None
        if f"input_blocks.{down}.1.qkv.weight" in tensors:
            return None
    if len({side is None for side in resampling}) > 1:
        return None
    if not is_classifier(tensors):
        # on the way up a level's last block carries the step to the next one
        ups = {
            int(name.split(".")[1])
            for name in tensors
            if name.startswith("output_blocks.")
            and name.split(".")[2] != "0"
            and name.endswith((".conv.weight", ".in_layers.0.weight"))
        }
        if ups != {(level + 1) * (blocks + 1) - 1 for level in range(levels - 1)}:
            return None
    width = tensors["time_embed.0.weight"].shape[1]
    updown = not resampling or resampling[0] is not None
    return Architecture(tuple(channels), blocks, tuple(attention), updown, width)


def unet_config(tensors: Mapping[str, Tensor], size: int | None, head_channels: int) -> dict[str, Any]:
    """The config.json of the UNet2DModel.

    Args:
        tensors: the checkpoint's.
        size: side of its images in pixels; None: from the levels' widths.
        head_channels: channels of an attention head.

    Raises:
        ConfigError: not a UNet of this family, or its size or heads must be told.
    """
    found = recognise(tensors)
    size = size or _SIZES.get(tuple(c / found.width for c in found.channels))
    if size is None:
        raise ConfigError("--image-size: the levels' widths do not tell the size of the images; give it")
    if size % 2 ** (len(found.channels) - 1):
        raise ConfigError(f"--image-size: {len(found.channels)} levels do not divide images of {size}")
    attending = {c for c, has in zip(found.channels, found.attention, strict=True) if has}
    for channels in attending | {found.channels[-1]}:
        if channels % head_channels:
            raise ConfigError(
                f"--head-channels: {head_channels} does not divide a level's {channels} channels"
            )
    if any(channels % _GROUPS for channels in found.channels):
        raise ConfigError(f"not a checkpoint of the ADM family: levels of {found.channels} channels")
    stem = tensors["input_blocks.0.0.weight"]
    outputs = stem.shape[1] if is_classifier(tensors) else tensors["out.2.weight"].shape[0]
    if outputs not in (stem.shape[1], 2 * stem.shape[1]):
        raise ConfigError(
            f"it takes {stem.shape[1]} channels and gives {outputs}: an upsampler conditioned on a smaller image, not "
            "a prior"
        )
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    down, up = plain if found.resblock_updown else ("DownBlock2D", "UpBlock2D")
    step = "resnet" if found.resblock_updown else "conv"
    projection = tensors["input_blocks.1.0.emb_layers.1.weight"].shape[0]
    labels = tensors.get("label_emb.weight")
    config = {
        "_class_name": "UNet2DModel",
        "sample_size": size,
        "in_channels": stem.shape[1],
        "out_channels": outputs,
        "block_out_channels": list(found.channels),
        "layers_per_block": found.blocks,
        "down_block_types": ["AttnDownBlock2D" if has else down for has in found.attention],
        "up_block_types": ["AttnUpBlock2D" if has else up for has in reversed(found.attention)],
        "downsample_type": step,
        "upsample_type": step,
        "resnet_time_scale_shift": "scale_shift" if projection == 2 * found.channels[0] else "default",
        "attention_head_dim": head_channels,
        "norm_num_groups": _GROUPS,
        "attn_norm_num_groups": _GROUPS,
        "norm_eps": 1e-5,
        "time_embedding_dim": tensors["time_embed.0.weight"].shape[0],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "act_fn": "silu",
        "num_class_embeds": None if labels is None else labels.shape[0],
    }
    if found.width != found.channels[0]:
        config["time_proj_dim"] = found.width  # diffusers' own is the first level's width
    return config
