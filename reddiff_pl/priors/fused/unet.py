"""The forward pass of a `diffusers.UNet2DModel`, over its own weights, through the kernels of this folder.

Differences to diffusers' own: feature maps are channels last in bfloat16 or float16 throughout; biases, residuals and
the statistics of the next normalisation are one pass; concatenations of skip connections are never made; the
projections of t of all residual blocks are one product; a learned variance is not computed.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reddiff_pl.priors.fused import convs, ops, products
from reddiff_pl.priors.fused.ops import Map, Pieces

EIGHT_BITS_FROM = 32 * 32  # pixels of a map; convolutions of smaller ones take little time, and cuDNN less


class FusedUNet:
    """Evaluates a network; takes over its weights, which are converted in place so that they are there once.

    The network's own forward pass still works under autocast.

    Args:
        network: a UNet2DModel without an `obstacle`, on a CUDA device.
        dtype: bfloat16 or float16.
        channels: of the output that are wanted; further ones (a learned variance) are not computed.
        operands: float8_e4m3fn: what the convolutions of residual blocks multiply, on maps of `EIGHT_BITS_FROM` pixels
            or more. Default: as `dtype`.
        exact_blocks: of how many of the first residual blocks both convolutions multiply in `dtype` all the same, and
            of how many of the last the second one. The first make most of the error where there is little noise, the
            last where there is much; the last ones' first convolutions make less of it, and are the largest of all.
    """

    def __init__(
        self,
        network: Any,
        dtype: torch.dtype,
        channels: int,
        operands: torch.dtype | None = None,
        exact_blocks: tuple[int, int] = (0, 0),
    ) -> None:
        self.network = network
        self.dtype, self.channels, self.operands, self.exact_blocks = dtype, channels, operands, exact_blocks
        names = ("time_embedding", "class_embedding", "add_embedding")
        embeddings = [getattr(network, name, None) for name in names]
        exact = {module for part in embeddings if part is not None for module in part.modules()}
        modules: list[Any] = list(network.modules())
        self.halves = {
            id(conv): [
                w.to(dtype, memory_format=torch.channels_last) for w in ops.halves(conv.weight.float())
            ]
            for conv in map(_enlarged_conv, modules)
            if conv is not None
        }
        self.eight = {} if operands is None else self._eight_bits(modules, operands)
        # Rounded to bfloat16, what comes in and these few weights would make most of the network's error, nearly all of
        # it in an image's mean colour; float16 costs nothing here, and normalised numbers are within its range.
        finer = torch.float16 if dtype == torch.bfloat16 else dtype
        self.conv_in = products.few_in(network.conv_in.weight.to(finer))
        self.conv_out = products.few_out(network.conv_out.weight[:channels].to(finer))
        for module in modules:
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.to(dtype, memory_format=torch.channels_last)
            elif isinstance(module, nn.Linear) and module not in exact:
                module.weight.data = module.weight.to(dtype)
        self._join(modules)

    def _eight_bits(
        self, modules: list[Any], dtype: torch.dtype
    ) -> dict[int, tuple[convs.Weights8 | None, convs.Weights8 | None]]:
        """The two convolutions of each residual block that can be; descriptors of memory need rows of 16 bytes."""
        down, up = (
            [id(resnet) for block in blocks for resnet in block.resnets]
            for blocks in (self.network.down_blocks, self.network.up_blocks)
        )
        first, last = self.exact_blocks
        exact, half_exact = down[:first], up[len(up) - last :]
        return {
            id(m): (
                convs.weights8(m.conv1.weight, dtype, enlarged=m.upsample is not None),
                None if id(m) in half_exact else convs.weights8(m.conv2.weight, dtype),
            )
            for m in modules
            if type(m).__name__ == "ResnetBlock2D"
            and id(m) not in exact
            and m.in_channels * dtype.itemsize % 16 == 0
            and m.out_channels * dtype.itemsize % 16 == 0
        }

    def _join(self, modules: list[Any]) -> None:
        """One matrix for q, k and v, and one for the projections of t of all residual blocks."""
        resnets = [m for m in modules if type(m).__name__ == "ResnetBlock2D"]
        attentions = [m for m in modules if type(m).__name__ == "Attention" and not m.is_cross_attention]
        projections = [resnet.time_emb_proj for resnet in resnets]
        self.project = joined(projections)
        starts = list(itertools.accumulate((p.out_features for p in projections), initial=0))
        self.columns = {id(resnet): starts[i : i + 2] for i, resnet in enumerate(resnets)}
        self.qkv = {id(a): joined([a.to_q, a.to_k, a.to_v]) for a in attentions}
        # of the two convolutions that are added at the end of a block
        self.biases = {id(r): _sum(r.conv2.bias, getattr(r.conv_shortcut, "bias", None)) for r in resnets}

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None, eight_bits: bool = True) -> Tensor:
        """The network's output, float32 (B, channels, H, W).

        Args:
            x: noisy images, (B, C, H, W).
            t: timesteps, (B,).
            labels: class labels, (B,), for class-conditional networks.
            eight_bits: false leaves `operands` unused.
        """
        net, self._now = self.network, self.eight if eight_bits else {}
        modulation = self._modulation(t, labels)
        if net.config.center_input_sample:
            x = 2 * x - 1
        h = products.conv_in(x, self.conv_in, net.conv_in.bias, self.dtype)
        skips = [h]
        for block in net.down_blocks:
            attentions = getattr(block, "attentions", [None] * len(block.resnets))
            for resnet, attention in zip(block.resnets, attentions, strict=True):
                h = self._attention(self._resnet([h], resnet, modulation), attention)
                skips.append(h)
            for sampler in block.downsamplers or ():
                h = self._downsample(h, sampler, modulation)
                skips.append(h)
        if (block := net.mid_block) is not None:
            h = self._resnet([h], block.resnets[0], modulation)
            for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
                h = self._resnet([self._attention(h, attention)], resnet, modulation)
        for block in net.up_blocks:
            attentions = getattr(block, "attentions", [None] * len(block.resnets))
            for resnet, attention in zip(block.resnets, attentions, strict=True):
                h = self._attention(self._resnet([h, skips.pop()], resnet, modulation), attention)
            for sampler in block.upsamplers or ():
                h = self._upsample(h, sampler, modulation)
        scales = ops.affine([h.sums], h.x.shape[1] * h.x.shape[2], net.conv_norm_out)
        return products.conv_out(h.x, scales, self.conv_out, net.conv_out.bias[: self.channels])

    def _modulation(self, t: Tensor, labels: Tensor | None) -> Tensor:
        """What t and the label are to all residual blocks, (B, all their channels)."""
        net = self.network
        embedding = net.time_embedding(net.time_proj(t).float())
        if net.class_embedding is not None:
            if net.config.class_embed_type == "timestep":
                labels = net.time_proj(labels)
            embedding = embedding + net.class_embedding(labels).float()
        weight, bias = self.project
        return F.linear(F.silu(embedding).to(self.dtype), weight, bias)

    def _resnet(self, maps: list[Map], resnet: Any, modulation: Tensor) -> Map:
        """A residual block on one map, or on the concatenation of two."""
        xs = [each.x for each in maps]
        pixels = xs[0].shape[1] * xs[0].shape[2]
        scales = ops.affine([each.sums for each in maps], pixels, resnet.norm1)
        if resnet.downsample is not None:
            pixels //= 4
        elif resnet.upsample is not None:
            pixels *= 4
        first, second = self._now.get(id(resnet), (None, None)) if pixels >= EIGHT_BITS_FROM else (None, None)
        operand = None if first is None else self.operands
        if resnet.downsample is not None:
            hidden, residual = ops.halve(xs[0], scales, operand)
        else:
            hidden, residual = ops.activate(xs, scales, operand=operand), xs[0]
        h: Tensor | Pieces
        if first is not None:
            h, sums = convs.conv(hidden, first, self.dtype)
        else:
            if resnet.upsample is not None:
                h = ops.conv_enlarged(hidden, self.halves[id(resnet.conv1)])
            else:
                h = ops.conv(hidden, resnet.conv1.weight)
            sums = ops.sums_of(h)
        del hidden
        start, end = self.columns[id(resnet)]
        by = {"shift" if resnet.time_embedding_norm == "default" else "modulation": modulation[:, start:end]}
        scales = ops.affine([sums], pixels, resnet.norm2, resnet.conv1.bias, **by)
        hidden = ops.activate([h], scales, operand=None if second is None else self.operands)
        bias, scale, shortcut = self.biases[id(resnet)], 1 / resnet.output_scale_factor, resnet.conv_shortcut
        if second is None:
            h = ops.conv(hidden, resnet.conv2.weight)
        elif shortcut is None:
            return Map(*convs.conv(hidden, second, self.dtype, bias, residual, scale))
        else:
            h, _ = convs.conv(hidden, second, self.dtype, sums=False)
        if shortcut is None:
            return ops.add(h, bias, residual, scale)
        inputs = xs
        if resnet.downsample is not None or resnet.upsample is not None:
            inputs = [residual if resnet.upsample is None else ops.double(residual)]
        return products.shortcut(inputs, shortcut.weight.flatten(1), h, bias, scale)

    def _attention(self, h: Map, attention: Any) -> Map:
        if attention is None:
            return h
        B, H, W, C = h.x.shape
        norm = attention.group_norm
        tokens = h.x if norm is None else ops.activate([h.x], ops.affine([h.sums], H * W, norm), silu=False)
        heads = attention.heads
        q, k, v = (
            part.unflatten(2, (heads, -1)).transpose(1, 2)
            for part in F.linear(tokens.view(B, H * W, C), *self.qkv[id(attention)]).chunk(3, dim=2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H * W, -1)
        out = F.linear(mixed, attention.to_out[0].weight).view(B, H, W, C)
        residual = h.x if attention.residual_connection else None
        return ops.add(out, attention.to_out[0].bias, residual, 1 / attention.rescale_output_factor)

    def _downsample(self, h: Map, sampler: Any, modulation: Tensor) -> Map:
        if type(sampler).__name__ == "ResnetBlock2D":
            return self._resnet([h], sampler, modulation)
        if not sampler.use_conv:
            reduced = ops.halve(h.x, None)[0]
            return Map(reduced, ops.sums_of(reduced))
        x = F.pad(h.x, (0, 0, 0, 1, 0, 1)) if sampler.padding == 0 else h.x
        out = ops.conv(x, sampler.conv.weight, stride=2, padding=sampler.padding)
        return ops.add(out, sampler.conv.bias)

    def _upsample(self, h: Map, sampler: Any, modulation: Tensor) -> Map:
        if type(sampler).__name__ == "ResnetBlock2D":
            return self._resnet([h], sampler, modulation)
        if sampler.use_conv:
            return ops.add(ops.conv_enlarged(h.x, self.halves[id(sampler.conv)]), sampler.conv.bias)
        large = ops.double(h.x)
        return Map(large, ops.sums_of(large))


def _enlarged_conv(module: Any) -> Any:
    """The 3x3 convolution that a module has behind its enlargement, or None."""
    if type(module).__name__ == "ResnetBlock2D" and module.upsample is not None:
        return module.conv1
    return module.conv if type(module).__name__ == "Upsample2D" and module.use_conv else None


def _sum(a: Tensor, b: Tensor | None) -> Tensor:
    return a if b is None else a + b


def joined(layers: list[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """The layers as one, (sum of outputs, inputs) and its bias; their own weights become views of it."""
    weight = torch.cat([layer.weight.data for layer in layers])
    for layer, part in zip(layers, weight.split([layer.out_features for layer in layers]), strict=True):
        layer.weight.data = part
    if layers[0].bias is None:
        return weight, None
    return weight, torch.cat([layer.bias.data for layer in layers]).to(weight.dtype)
