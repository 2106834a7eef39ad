"""Matrix products of feature maps, for what cuDNN's convolutions are slow at.

    product    out = h + bias + [x1, x2] W^T, and the sums of out: a 1x1 convolution of a concatenation never made
    patches, gather   around a product: 3x3 convolutions of very few channels, which cuDNN does at a tenth of its speed

Imports Triton, so only where there is a CUDA device.
"""

from __future__ import annotations

import triton
import triton.language as tl

from reddiff_pl.priors.fused.kernels import activated, store_sums


@triton.jit
def _product(x, row, C, a, b, weight, col, first_weight, acc, NORM: tl.constexpr, BK: tl.constexpr):
    """acc + x[rows] W[cols]^T over the C channels of x, those of W counted from first_weight."""
    for k in range(0, C, BK):
        left, right = x.load([row, k]), weight.load([col, first_weight + k])
        if NORM:
            channel = k + tl.arange(0, BK)
            scale = tl.load(a + channel, mask=channel < C, other=0.0)[None, :]
            offset = tl.load(b + channel, mask=channel < C, other=0.0)[None, :]
            left = activated(left.to(tl.float32), scale, offset, True, True).to(right.dtype)
        acc = tl.dot(left, right.T, acc)
    return acc


@triton.jit
def product_kernel(
    x1, C1, x2, C2, a, b, weight, h, bias, out, sums, HW, C, scale,
    NORM: tl.constexpr, SECOND: tl.constexpr, ADD: tl.constexpr, BIAS: tl.constexpr, SUMS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """BM pixels and BN output channels of an image.

    x1, x2, weight and h are descriptors of matrices, a row a pixel; what lies beyond them is read as zero. What is read
    of the next image is not written, and channels beyond x1 are zeros where W holds those of x2.
    """
    n = tl.program_id(1)
    blocks = tl.cdiv(C, BN)
    part = tl.program_id(0) // blocks
    col = tl.program_id(0) % blocks * BN
    row = n * HW + part * BM
    cols = col + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), tl.float32)
    if ADD:
        acc += h.load([row, col]).to(tl.float32)
    if BIAS:
        acc += tl.load(bias + cols, mask=cols < C, other=0.0).to(tl.float32)[None, :]
    first = n.to(tl.int64) * C1
    acc = _product(x1, row, C1, a + first, b + first, weight, col, 0, acc, NORM, BK)
    if SECOND:
        acc = _product(x2, row, C2, a, b, weight, col, C1, acc, False, BK)
    pixels = tl.arange(0, BM)
    inside = (part * BM + pixels < HW)[:, None] & (cols < C)[None, :]
    rounded = (acc * scale).to(out.dtype.element_ty)
    tl.store(out + (row.to(tl.int64) + pixels)[:, None] * C + cols[None, :], rounded, mask=inside)
    if SUMS:
        v = tl.where(inside, rounded.to(tl.float32), 0.0)
        store_sums(sums, n.to(tl.int64) * tl.cdiv(HW, BM) + part, C, cols, v, v * v)


@triton.jit
def patches_kernel(x, out, H, W, C, K: tl.constexpr, BP: tl.constexpr):
    """The 3x3 neighbourhoods of BP pixels: (B, C, H, W) -> (B, H, W, K), of which 9 C are used, zero beyond borders."""
    n = tl.program_id(1).to(tl.int64)
    pixels = tl.program_id(0) * BP + tl.arange(0, BP)
    k = tl.arange(0, K)
    tap, c = k // C, k % C
    row = (pixels // W)[:, None] + (tap // 3 - 1)[None, :]
    column = (pixels % W)[:, None] + (tap % 3 - 1)[None, :]
    there = (pixels < H * W)[:, None] & (tap < 9)[None, :]
    seen = there & (row >= 0) & (row < H) & (column >= 0) & (column < W)
    v = tl.load(x + (n * C + c[None, :]) * H * W + row * W + column, mask=seen, other=0.0)
    tl.store(
        out + (n * H * W + pixels)[:, None] * K + k[None, :],
        v.to(out.dtype.element_ty),
        mask=pixels[:, None] < H * W,
    )


@triton.jit
def gather_kernel(y, bias, out, H, W, C, K, BP: tl.constexpr, BC: tl.constexpr):
    """Sums of what 3x3 neighbours hold for BP pixels: (B, H, W, K), of which 9 C are used -> (B, C, H, W)."""
    n = tl.program_id(1).to(tl.int64)
    pixels = tl.program_id(0) * BP + tl.arange(0, BP)
    c = tl.arange(0, BC)
    inside = (c < C)[:, None] & (pixels < H * W)[None, :]
    total = tl.zeros((BC, BP), tl.float32)
    total += tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)[:, None]
    for tap in tl.static_range(9):
        row, column = pixels // W + tap // 3 - 1, pixels % W + tap % 3 - 1
        seen = inside & ((row >= 0) & (row < H) & (column >= 0) & (column < W))[None, :]
        at = (n * H * W + row * W + column)[None, :] * K + (tap * C + c)[:, None]
        total += tl.load(y + at, mask=seen, other=0.0)
    tl.store(out + (n * C + c[:, None]) * H * W + pixels[None, :], total, mask=inside)
