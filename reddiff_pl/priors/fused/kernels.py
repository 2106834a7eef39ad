"""What a UNet does between its convolutions, in as few passes over memory as it takes.

A network of 256x256 images moves gigabytes from one convolution to the next; normalising, activating and adding them
takes as long as the convolutions themselves when each is a pass of its own. Here a feature map carries the sums of
each channel from the moment it is written, so that GroupNorm needs no pass to find its mean and variance:

    add        out = (h + bias + residual) / s, and the sums of out
    affine     sums, gamma, beta, timestep's scale and shift -> a, b with  norm(x) = a x + b  for each image and channel
    activate   out = silu(a x + b), reduced or enlarged twofold on the way

Feature maps are (B, H, W, C) and contiguous, in bfloat16 or float16; sums, a and b are float32. Sums are added in an
order that depends on H, W and C alone, so an image's numbers do not depend on its batch.

Imports Triton, so only where there is a CUDA device.

References:
    Group Normalization | https://arxiv.org/abs/1803.08494
    Triton: an intermediate language and compiler for tiled neural network computations
    | https://doi.org/10.1145/3315508.3329973
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def store_sums(sums, part, C, cols, total, squares):
    """What a part of a map adds to the sums of its channels: {sum, sum of squares} of C, of the columns `cols`."""
    to = sums + part * 2 * C + cols
    tl.store(to, tl.sum(total, 0), mask=cols < C)
    tl.store(to + C, tl.sum(squares, 0), mask=cols < C)


@triton.jit
def add_kernel(
    h, h_image, h_row, bias, residual, out, out_image, out_row, out_pixel, sums, first_part, parts, H, W, C, PX, scale,
    VIEW: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, STORE: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One part of PX pixels and BC channels of an image. RESIDUAL: 0 none, 1 as it is, 2 of half the size.

    VIEW: h and out are views, whose images, rows and (out) pixels are so many elements apart.
    """
    part, n = tl.program_id(0), tl.program_id(2).to(tl.int64)
    cols = tl.program_id(1) * BC + tl.arange(0, BC)
    in_cols = (cols < C)[None, :]
    total = tl.zeros((BP, BC), tl.float32)
    squares = tl.zeros((BP, BC), tl.float32)
    for first in tl.range(0, PX, BP, num_stages=STAGES):
        pixels = part * PX + first + tl.arange(0, BP)
        inside = (pixels < H * W)[:, None] & in_cols
        whole = n * H * W * C + pixels[:, None] * C + cols[None, :]
        row, column = pixels // W, pixels % W
        at = whole
        if VIEW:
            at = n * h_image + (row * h_row + column * C)[:, None] + cols[None, :]
        v = tl.load(h + at, mask=inside, other=0.0).to(tl.float32)
        if BIAS:
            v += tl.load(bias + cols, mask=cols < C, other=0.0).to(tl.float32)[None, :]
        if RESIDUAL == 1:
            v += tl.load(residual + whole, mask=inside, other=0.0).to(tl.float32)
        if RESIDUAL == 2:
            source = row // 2 * (W // 2) + column // 2
            at = n * (H // 2) * (W // 2) * C + source[:, None] * C + cols[None, :]
            v += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        if STORE:
            rounded = (v * scale).to(out.dtype.element_ty)
            to = whole
            if VIEW:
                to = n * out_image + (row * out_row + column * out_pixel)[:, None] + cols[None, :]
            tl.store(out + to, rounded, mask=inside)
            v = rounded.to(tl.float32)
        v = tl.where(inside, v, 0.0)
        total += v
        squares += v * v
    store_sums(sums, n * parts + first_part + part, C, cols, total, squares)


@triton.jit
def _channel_sums(sums, n, parts, C, channel, inside, BS: tl.constexpr, BG: tl.constexpr):
    """Sum and sum of squares of channels, over the parts of an image."""
    total = tl.zeros((BG,), tl.float32)
    squares = tl.zeros((BG,), tl.float32)
    for first in range(0, parts, BS):
        part = first + tl.arange(0, BS)
        at = (n * parts + part)[:, None] * 2 * C + channel[None, :]
        here = (part < parts)[:, None] & inside[None, :]
        total += tl.sum(tl.load(sums + at, mask=here, other=0.0), 0)
        squares += tl.sum(tl.load(sums + at + C, mask=here, other=0.0), 0)
    return total, squares


@triton.jit
def affine_kernel(
    sums1, parts1, C1, sums2, parts2, C2, bias, shift_bias, gamma, beta, modulation, row, a, b, HW, CG, eps,
    BIAS: tl.constexpr, SHIFT: tl.constexpr, MODULATE: tl.constexpr, SECOND: tl.constexpr,
    BS: tl.constexpr, BG: tl.constexpr,
):  # fmt: skip
    """One group of one image; its channels are those of one map, or of two behind each other."""
    n, g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    C = C1 + C2
    lane = tl.arange(0, BG)
    c = g * CG + lane
    inside = lane < CG
    total, squares = _channel_sums(sums1, n, parts1, C1, c, inside & (c < C1), BS, BG)
    if SECOND:
        total2, squares2 = _channel_sums(sums2, n, parts2, C2, c - C1, inside & (c >= C1), BS, BG)
        total += total2
        squares += squares2
    # what was left out of the map when its sums were taken: h = x + d
    d = tl.zeros((BG,), tl.float32)
    if BIAS:
        d += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
    if SHIFT:
        d += tl.load(shift_bias + n * row + c, mask=inside, other=0.0).to(tl.float32)
    squares += 2 * d * total + HW * d * d
    total += HW * d
    mean = tl.sum(tl.where(inside, total, 0.0), 0) / (HW * CG)
    variance = tl.sum(tl.where(inside, squares, 0.0), 0) / (HW * CG) - mean * mean
    scale = tl.load(gamma + c, mask=inside, other=0.0).to(tl.float32) / tl.sqrt(
        tl.maximum(variance, 0.0) + eps
    )
    offset = tl.load(beta + c, mask=inside, other=0.0).to(tl.float32) + (d - mean) * scale
    if MODULATE:
        by = 1 + tl.load(modulation + n * row + c, mask=inside, other=0.0).to(tl.float32)
        scale *= by
        offset = offset * by + tl.load(modulation + n * row + C + c, mask=inside, other=0.0).to(tl.float32)
    tl.store(a + n * C + c, scale, mask=inside)
    tl.store(b + n * C + c, offset, mask=inside)


@triton.jit
def activated(v, scale, offset, NORM: tl.constexpr, SILU: tl.constexpr):
    if NORM:
        v = v * scale + offset
    if SILU:
        v = v * tl.sigmoid(v)
    return v


@triton.jit
def _stored(v, real, scale, dtype: tl.constexpr, PAD: tl.constexpr, EIGHT: tl.constexpr):
    """v as it is written: in 8 bits times `scale` and kept finite, zero where there is no pixel."""
    if EIGHT:
        v = tl.minimum(tl.maximum(v * scale, -448.0), 448.0)
    if PAD:
        v = tl.where(real, v, 0.0)
    return v.to(dtype)


@triton.jit
def activate_kernel(
    x, x_image, x_row, a, b, out, out_image, out_row, out_pixel, reduced, H, W, C, row_ab, out_scale,
    VIEW: tl.constexpr, NORM: tl.constexpr, SILU: tl.constexpr, RESIZE: tl.constexpr, PAD: tl.constexpr,
    EIGHT: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """BP pixels and BC channels of an image. RESIZE: 0 none, 1 halved (`reduced`: x itself halved), 2 doubled.

    H and W are those of x; for RESIZE 1 the pixels of a program are the output's, else x's. x's images and rows, out's
    and its pixels are so many elements apart; VIEW: with gaps. a and b hold `row_ab` channels an image. PAD: 1 where
    out has a column and a row of zeros behind its own; not with views, nor doubled.
    """
    n = tl.program_id(2).to(tl.int64)
    cols = tl.program_id(1) * BC + tl.arange(0, BC)
    pixels = tl.program_id(0) * BP + tl.arange(0, BP)
    in_cols = cols < C
    scale = tl.zeros((1, BC), tl.float32)
    offset = tl.zeros((1, BC), tl.float32)
    if NORM:
        scale = tl.load(a + n * row_ab + cols, mask=in_cols, other=0.0)[None, :]
        offset = tl.load(b + n * row_ab + cols, mask=in_cols, other=0.0)[None, :]
    dtype = out.dtype.element_ty
    x += n * x_image
    out += n * out_image
    height, width = H, W
    if RESIZE == 1:
        height, width = H // 2, W // 2
    row, column = pixels // (width + PAD), pixels % (width + PAD)
    real = (row < height)[:, None]
    if PAD:
        real = real & (column < width)[:, None]
    inside = real & in_cols[None, :]
    written = (row < height + PAD)[:, None] & in_cols[None, :]
    if RESIZE == 1:
        mean = tl.zeros((BP, BC), tl.float32)
        plain = tl.zeros((BP, BC), tl.float32)
        for i in tl.static_range(4):
            at = (2 * row + i // 2) * x_row + (2 * column + i % 2) * C
            v = tl.load(x + at[:, None] + cols[None, :], mask=inside, other=0.0).to(tl.float32)
            plain += v
            mean += activated(v, scale, offset, NORM, SILU)
        to = row * out_row + column * out_pixel
        v = _stored(mean / 4, real, out_scale, dtype, PAD, EIGHT)
        tl.store(out + to[:, None] + cols[None, :], v, mask=written)
        to = (n * height * width + row * width + column) * C
        tl.store(reduced + to[:, None] + cols[None, :], (plain / 4).to(reduced.dtype.element_ty), mask=inside)
    else:
        at = pixels * C
        if VIEW or PAD:
            at = row * x_row + column * C
        v = tl.load(x + at[:, None] + cols[None, :], mask=inside, other=0.0).to(tl.float32)
        v = _stored(activated(v, scale, offset, NORM, SILU), real, out_scale, dtype, PAD, EIGHT)
        if RESIZE == 0:
            to = pixels * out_pixel
            if VIEW:
                to = row * out_row + column * out_pixel
            tl.store(out + to[:, None] + cols[None, :], v, mask=written)
        else:
            for i in tl.static_range(4):
                to = (2 * row + i // 2) * out_row + (2 * column + i % 2) * out_pixel
                tl.store(out + to[:, None] + cols[None, :], v, mask=inside)
