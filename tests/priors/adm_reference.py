"""The ADM networks in plain PyTorch, from their paper, with the published checkpoints' names of tensors.

References:
    Diffusion Models Beat GANs on Image Synthesis | https://arxiv.org/abs/2105.05233
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


def sinusoids(t: Tensor, width: int) -> Tensor:
    """cos, then sin, of t at width/2 frequencies from 1 down to nearly 1/10000."""
    frequency = 10000 ** (-torch.arange(width // 2) / (width // 2))
    angle = t[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


def attend(qkv: Tensor, head: int, legacy: bool) -> Tensor:
    """Softmax attention over the last dimension, written out head by head: (B, 3C, N) -> (B, C, N)."""
    channels = qkv.shape[1] // 3
    out = []
    for h in range(channels // head):
        if legacy:
            q, k, v = qkv[:, 3 * h * head : 3 * (h + 1) * head].split(head, 1)
        else:
            q, k, v = (qkv[:, i * channels + h * head : i * channels + (h + 1) * head] for i in range(3))
        weight = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(head), -1)
        out.append((weight @ v.transpose(1, 2)).transpose(1, 2))
    return torch.cat(out, 1)


class Res(nn.Module):
    def __init__(self, inputs: int, outputs: int, emb: int, scale_shift: bool, step: str = "") -> None:
        super().__init__()
        self.scale_shift, self.step = scale_shift, step
        self.in_layers = nn.Sequential(norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, (1 + scale_shift) * outputs))
        self.out_layers = nn.Sequential(
            norm(outputs), nn.SiLU(), nn.Dropout(0.3), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def resize(self, x: Tensor) -> Tensor:
        if self.step == "down":
            return F.avg_pool2d(x, 2)
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3) if self.step == "up" else x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[2](self.resize(self.in_layers[1](self.in_layers[0](x))))
        moved = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = moved.chunk(2, 1)
            h = self.out_layers[3](F.silu(self.out_layers[0](h) * (1 + scale) + shift))
        else:
            h = self.out_layers(h + moved)
        return self.skip_connection(self.resize(x)) + h


class Attention(nn.Module):
    def __init__(self, channels: int, head: int, legacy: bool) -> None:
        super().__init__()
        self.head, self.legacy = head, legacy
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        places = x.flatten(2)
        h = self.proj_out(attend(self.qkv(self.norm(places)), self.head, self.legacy))
        return (places + h).reshape(x.shape)


class Down(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))


class Stem(nn.Conv2d):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class Pool(nn.Module):
    def __init__(self, side: int, channels: int, head: int, classes: int) -> None:
        super().__init__()
        self.head = head
        self.positional_embedding = nn.Parameter(torch.randn(channels, side**2 + 1))
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.cat([x.mean((2, 3))[:, :, None], x.flatten(2)], 2) + self.positional_embedding
        return self.c_proj(attend(self.qkv_proj(places), self.head, legacy=False))[:, :, 0]


class ADM(nn.Module):
    """An ADM UNet with random weights, or its classifier.

    Args:
        width: base width.
        mults: the levels' widths relative to it.
        blocks: residual blocks a level.
        attention: levels with attention.
        head: channels of an attention head.
        legacy: order of qkv.
        scale_shift: how the embedding enters.
        updown: levels change by residual blocks.
        outputs: 3, or 6 with a learned variance.
        classes: number of classes; 0: none.
        classify: side of the images of a classifier; 0: a UNet.
    """

    def __init__(
        self,
        width: int = 32,
        mults: tuple[float, ...] = (1, 2),
        blocks: int = 1,
        attention: tuple[int, ...] = (1,),
        head: int = 16,
        legacy: bool = True,
        scale_shift: bool = True,
        updown: bool = True,
        outputs: int = 6,
        classes: int = 0,
        classify: int = 0,
    ) -> None:
        super().__init__()
        self.width, emb = width, 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        if classes and not classify:
            self.label_emb = nn.Embedding(classes, emb)

        def stage(inputs: int, outputs: int, level: int) -> list[nn.Module]:
            layers: list[nn.Module] = [Res(inputs, outputs, emb, scale_shift)]
            return layers + [Attention(outputs, head, legacy)] * (level in attention)

        channels = first = int(mults[0] * width)
        self.input_blocks = nn.ModuleList([nn.ModuleList([Stem(3, channels, 3, padding=1)])])
        kept = [channels]
        for level, mult in enumerate(mults):
            for _ in range(blocks):
                self.input_blocks.append(nn.ModuleList(stage(channels, int(mult * width), level)))
                channels = int(mult * width)
                kept.append(channels)
            if level < len(mults) - 1:
                step = Res(channels, channels, emb, scale_shift, "down") if updown else Down(channels)
                self.input_blocks.append(nn.ModuleList([step]))
                kept.append(channels)
        self.middle_block = nn.ModuleList(
            [
                Res(channels, channels, emb, scale_shift),
                Attention(channels, head, legacy),
                Res(channels, channels, emb, scale_shift),
            ]
        )
        if classify:
            pool = Pool(classify >> (len(mults) - 1), channels, head, classes)
            self.out = nn.Sequential(norm(channels), nn.SiLU(), pool)
            return
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(mults))):
            for block in range(blocks + 1):
                layers = stage(channels + kept.pop(), int(mult * width), level)
                channels = int(mult * width)
                if level and block == blocks:
                    layers.append(Res(channels, channels, emb, scale_shift, "up") if updown else Up(channels))
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(first, outputs, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        emb = self.time_embed(sinusoids(t, self.width))
        if label is not None:
            emb = emb + self.label_emb(label)
        kept = []
        for block in self.input_blocks:
            for layer in block:
                x = layer(x, emb)
            kept.append(x)
        for layer in self.middle_block:
            x = layer(x, emb)
        for block in getattr(self, "output_blocks", []):
            x = torch.cat([x, kept.pop()], 1)
            for layer in block:
                x = layer(x, emb)
        return self.out(x)
