"""Which networks the kernels of this folder know. No Triton: any machine can ask."""

from __future__ import annotations

from typing import Any

from torch import nn

_BLOCKS = {
    "DownBlock2D",
    "AttnDownBlock2D",
    "ResnetDownsampleBlock2D",
    "UpBlock2D",
    "AttnUpBlock2D",
    "ResnetUpsampleBlock2D",
    "UNetMidBlock2D",
}
_CONDITION_BLOCKS = {*_BLOCKS, "CrossAttnDownBlock2D", "CrossAttnUpBlock2D", "UNetMidBlock2DCrossAttn"}
_CONDITIONS: dict[str, tuple[Any, ...]] = {
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "encoder_hid_dim_type": (None,),
    "encoder_hid_dim": (None,),
    "addition_embed_type": (None, "text_time"),
    "time_embedding_act_fn": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
}


def obstacle(network: nn.Module) -> str | None:
    """What in a network the fused forward pass does not know; None: it can be fused."""
    net: Any = network
    kind = type(network).__name__
    if kind not in ("UNet2DModel", "UNet2DConditionModel"):
        return kind
    if net.config.time_embedding_type not in ("positional", "learned"):
        return f"time_embedding_type {net.config.time_embedding_type}"
    for block in [*net.down_blocks, *net.up_blocks, *([net.mid_block] if net.mid_block is not None else [])]:
        if type(block).__name__ not in (_BLOCKS if kind == "UNet2DModel" else _CONDITION_BLOCKS):
            return type(block).__name__
    if kind == "UNet2DConditionModel" and (reason := _of_conditions(net)) is not None:
        return reason
    return next(filter(None, (_of_module(name, module) for name, module in net.named_modules())), None)


def _of_module(name: str, module: nn.Module) -> str | None:
    """What of one module is not known."""
    kind: Any = module
    if isinstance(module, nn.GroupNorm) and module.num_channels % 8:
        return f"{name}: {module.num_channels} channels, not a multiple of 8"
    if type(module).__name__ == "ResnetBlock2D":
        resampler = kind.upsample or kind.downsample
        if kind.time_embedding_norm not in ("default", "scale_shift") or kind.time_emb_proj is None:
            return f"{name}: time_embedding_norm {kind.time_embedding_norm}"
        if not isinstance(kind.nonlinearity, nn.SiLU) or kind.skip_time_act:
            return f"{name}: activation {type(kind.nonlinearity).__name__}"
        if resampler is not None and not isinstance(resampler, nn.Module):
            return f"{name}: FIR resampling"
    if type(module).__name__ == "Attention" and (kind.spatial_norm is not None or kind.norm_q is not None):
        return f"{name}: its normalisation"
    if type(module).__name__ in ("Downsample2D", "Upsample2D") and (
        kind.norm is not None or getattr(kind, "use_conv_transpose", False)
    ):
        return f"{name}: its normalisation or transposed convolution"
    return None


def _of_conditions(net: Any) -> str | None:
    """What of a UNet2DConditionModel alone is not known."""
    for option, known in _CONDITIONS.items():
        if (value := getattr(net.config, option, known[0])) not in known:
            return f"{option} {value}"
    for name, module in net.named_modules():
        if type(module).__name__ != "BasicTransformerBlock":
            continue
        if module.norm_type != "layer_norm" or module.only_cross_attention or module.pos_embed is not None:
            return f"{name}: its normalisation, attention or positions"
        if module.attn2 is None or not module.attn2.is_cross_attention:
            return f"{name}: no text"
        if type(module.ff.net[0]).__name__ != "GEGLU":
            return f"{name}: feed-forward {type(module.ff.net[0]).__name__}"
    return None
