"""The forward pass of a `diffusers.UNet2DConditionModel`: as `FusedUNet`, with transformers that see a text.

The texts' keys and values of all transformers are one product; biases, residuals and the norm that comes next are one
pass.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reddiff_pl.priors.fused import ops, tokens
from reddiff_pl.priors.fused.ops import Map
from reddiff_pl.priors.fused.unet import FusedUNet, joined


class FusedConditionUNet(FusedUNet):
    """Evaluates a network; takes over its weights, as `FusedUNet` does.

    Args:
        network: a UNet2DConditionModel without an `obstacle`, on a CUDA device.
        dtype: bfloat16 or float16.
        channels: of the output that are wanted.
    """

    def __init__(self, network: Any, dtype: torch.dtype, channels: int) -> None:
        super().__init__(network, dtype, channels)
        crosses = [m.attn2 for m in network.modules() if type(m).__name__ == "BasicTransformerBlock"]
        layers = [layer for attention in crosses for layer in (attention.to_k, attention.to_v)]
        self.from_words = joined(layers)
        starts = list(itertools.accumulate((layer.out_features for layer in layers), initial=0))
        self.of_words = {id(a): starts[2 * i : 2 * i + 3] for i, a in enumerate(crosses)}

    def __call__(self, x: Tensor, t: Tensor, words: Tensor, **given: Any) -> Tensor:  # type: ignore[override]
        """The network's output, float32 (B, channels, H, W).

        Args:
            x: noisy images, (B, C, H, W).
            t: timesteps, (B,).
            words: encoder_hidden_states, (B, L, D).
            given: timestep_cond and added_cond_kwargs, as the network takes them.
        """
        self._given = given
        self._words = F.linear(words.to(self.dtype), *self.from_words)
        return super().__call__(x.float(), t)

    def _modulation(self, t: Tensor, labels: Tensor | None) -> Tensor:
        net, given = self.network, self._given
        dtype = net.time_embedding.linear_1.weight.dtype
        told = given.get("timestep_cond")
        embedding = net.time_embedding(net.time_proj(t).to(dtype), None if told is None else told.to(dtype))
        more = net.get_aug_embed(embedding, None, given.get("added_cond_kwargs"))
        if more is not None:
            embedding = embedding + more
        weight, bias = self.project
        return F.linear(F.silu(embedding).to(self.dtype), weight, bias)

    def _attention(self, h: Map, attention: Any) -> Map:
        if type(attention).__name__ != "Transformer2DModel":
            return super()._attention(h, attention)
        B, H, W, C = h.x.shape
        normed = ops.activate([h.x], ops.affine([h.sums], H * W, attention.norm), silu=False)
        x = _linear(normed.view(B, H * W, C), attention.proj_in)
        blocks = attention.transformer_blocks
        normed = tokens.norm(x, blocks[0].norm1)
        for i, block in enumerate(blocks):
            own, cross, forward = block.attn1, block.attn2, block.ff.net
            q, k, v = F.linear(normed, *self.qkv[id(own)]).chunk(3, dim=2)
            x, normed = tokens.add_norm(x, *_mixed(own, q, k, v), block.norm2)
            start, middle, end = self.of_words[id(cross)]
            q = _linear(normed, cross.to_q)
            k, v = self._words[..., start:middle], self._words[..., middle:end]
            x, normed = tokens.add_norm(x, *_mixed(cross, q, k, v), block.norm3)
            hidden = tokens.gated(F.linear(normed, forward[0].proj.weight), forward[0].proj.bias)
            update = F.linear(hidden, forward[2].weight)
            then = blocks[i + 1].norm1 if i + 1 < len(blocks) else None
            x, normed = tokens.add_norm(x, update, forward[2].bias, then)
        out = F.linear(x, attention.proj_out.weight.flatten(1)).view(B, H, W, C)
        return ops.add(out, attention.proj_out.bias, h.x)


def _linear(x: Tensor, layer: Any) -> Tensor:
    """A linear layer, or a convolution of single pixels, on tokens; its bias may be finer than its weight."""
    return F.linear(x, layer.weight.flatten(1), None if layer.bias is None else layer.bias.to(x.dtype))


def _mixed(attention: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
    """What an attention adds to its tokens, without its bias; and that."""
    q, k, v = (part.unflatten(2, (attention.heads, -1)).transpose(1, 2) for part in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return F.linear(mixed, attention.to_out[0].weight), attention.to_out[0].bias
