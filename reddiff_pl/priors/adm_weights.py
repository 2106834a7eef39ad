"""The tensors of an OpenAI ADM checkpoint under the names of a diffusers UNet2DModel.

The rows of the qkv projections are either all q, all k, all v ("new"), or for each head its q, k, v ("legacy", in all
published checkpoints but 64x64_diffusion.pt). The tensors do not tell which.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.adm import is_classifier, recognise

Tensors = dict[str, Tensor]


def convert(tensors: Mapping[str, Tensor], head_channels: int, legacy: bool) -> Tensors:
    """The tensors under the names of UNet2DModel; a classifier's without its head.

    Args:
        tensors: the checkpoint's.
        head_channels: channels of an attention head.
        legacy: the rows of qkv come head by head.

    Raises:
        ConfigError: tensors are missing or superfluous.
    """
    found, left, out = recognise(tensors), dict(tensors), {}

    def take(source: str, target: str, optional: bool = False) -> None:
        for kind in ("weight", "bias"):
            if f"{source}.{kind}" in left:
                out[f"{target}.{kind}"] = left.pop(f"{source}.{kind}")
            elif not optional:
                raise ConfigError(f"not a whole checkpoint of the ADM family: no tensor {source}.{kind}")

    def resnet(source: str, target: str) -> None:
        take(f"{source}.in_layers.0", f"{target}.norm1")
        take(f"{source}.in_layers.2", f"{target}.conv1")
        take(f"{source}.emb_layers.1", f"{target}.time_emb_proj")
        take(f"{source}.out_layers.0", f"{target}.norm2")
        take(f"{source}.out_layers.3", f"{target}.conv2")
        take(f"{source}.skip_connection", f"{target}.conv_shortcut", optional=True)

    def attention(source: str, target: str) -> None:
        take(f"{source}.norm", f"{target}.group_norm")
        take(f"{source}.qkv", f"{target}.qkv")
        take(f"{source}.proj_out", f"{target}.to_out.0")
        for kind in ("weight", "bias"):
            rows = out.pop(f"{target}.qkv.{kind}").flatten(1 if kind == "weight" else 0)
            for name, part in zip("qkv", split_qkv(rows, head_channels, legacy), strict=True):
                out[f"{target}.to_{name}.{kind}"] = part
        out[f"{target}.to_out.0.weight"] = out[f"{target}.to_out.0.weight"].flatten(1)

    def resample(source: str, target: str, convolution: str) -> None:
        if found.resblock_updown:
            resnet(source, target)
        else:
            take(f"{source}.{convolution}", f"{target}.conv")

    take("time_embed.0", "time_embedding.linear_1")
    take("time_embed.2", "time_embedding.linear_2")
    take("label_emb", "class_embedding", optional=True)
    take("input_blocks.0.0", "conv_in")
    levels = len(found.channels)
    for level, attends in enumerate(found.attention):
        first = 1 + level * (found.blocks + 1)
        for j in range(found.blocks):
            resnet(f"input_blocks.{first + j}.0", f"down_blocks.{level}.resnets.{j}")
            if attends:
                attention(f"input_blocks.{first + j}.1", f"down_blocks.{level}.attentions.{j}")
        if level < levels - 1:
            resample(f"input_blocks.{first + found.blocks}.0", f"down_blocks.{level}.downsamplers.0", "op")
    resnet("middle_block.0", "mid_block.resnets.0")
    attention("middle_block.1", "mid_block.attentions.0")
    resnet("middle_block.2", "mid_block.resnets.1")
    if is_classifier(tensors):
        left = {name: value for name, value in left.items() if not name.startswith("out.")}
    else:
        for i, attends in enumerate(reversed(found.attention)):
            for j in range(found.blocks + 1):
                source = f"output_blocks.{i * (found.blocks + 1) + j}"
                resnet(f"{source}.0", f"up_blocks.{i}.resnets.{j}")
                if attends:
                    attention(f"{source}.1", f"up_blocks.{i}.attentions.{j}")
            if i < levels - 1:
                resample(f"{source}.{1 + attends}", f"up_blocks.{i}.upsamplers.0", "conv")
        take("out.0", "conv_norm_out")
        take("out.2", "conv_out")
    if left:
        raise ConfigError(f"not a checkpoint of the ADM family: nothing takes its tensor {min(left)}")
    return out


def split_qkv(rows: Tensor, head_channels: int, legacy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, (C, ...) each, from the rows (3C, ...) of their common projection.

    Raises:
        ConfigError: the rows are no whole number of heads.
    """
    if not legacy:
        q, k, v = rows.chunk(3)
        return q, k, v
    if len(rows) % (3 * head_channels):
        raise ConfigError(f"--head-channels: {head_channels} does not divide {len(rows) // 3} channels")
    heads = rows.reshape(-1, 3, head_channels, *rows.shape[1:])
    return heads[:, 0].flatten(0, 1), heads[:, 1].flatten(0, 1), heads[:, 2].flatten(0, 1)


def check_shapes(tensors: Tensors, network: torch.nn.Module) -> None:
    """Stop unless the tensors are exactly the network's.

    Raises:
        ConfigError: which one is not.
    """
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ConfigError(
                f"not a whole checkpoint of the ADM family: {name} has shape {found.get(name)}, expected "
                f"{expected.get(name)}"
            )
