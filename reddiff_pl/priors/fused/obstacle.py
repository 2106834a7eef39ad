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


def obstacle(network: nn.Module) -> str | None:
    """What in a network the fused forward pass does not know; None: it can be fused."""
    net: Any = network
    if net.config.time_embedding_type not in ("positional", "learned"):
        return f"time_embedding_type {net.config.time_embedding_type}"
    for block in [*net.down_blocks, *net.up_blocks, *([net.mid_block] if net.mid_block is not None else [])]:
        if type(block).__name__ not in _BLOCKS:
            return type(block).__name__
    for name, module in net.named_modules():
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
        if type(module).__name__ == "Attention" and (
            kind.spatial_norm is not None or kind.norm_q is not None
        ):
            return f"{name}: its normalisation"
        if type(module).__name__ in ("Downsample2D", "Upsample2D") and (
            kind.norm is not None or getattr(kind, "use_conv_transpose", False)
        ):
            return f"{name}: its normalisation or transposed convolution"
    return None
