"""Convolutions in 8-bit floats, which cuDNN offers only through interfaces that torch does not have.

A map with a column and a row of zeros behind its own, (B, H + 1, W + 1, C), is a matrix with a row for each pixel in
which a pixel's eight neighbours are the rows at fixed distances, zeros where they lie beyond a border: the zeros
behind a row of pixels are also those before the next one. So a 3x3 convolution is nine matrix products added up.

Imports Triton, so only where there is a CUDA device.
"""

from __future__ import annotations

import triton
import triton.language as tl

from reddiff_pl.priors.fused.kernels import store_sums


@triton.jit
def conv_kernel(
    x, weight, weight_scale, bias, residual, out, out_image, out_row, out_pixel, sums, first_part, parts,
    H, W, C, N, above, left, scale,
    TAPS: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, SUMS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """BM pixels, borders counted in, and BN of the N output channels of an image.

    x and weight are descriptors of matrices: a row a pixel, and a row an output channel with TAPS x TAPS times C
    columns; DEPTH = ceil(C / BK). What lies beyond a matrix is read as zero. The first tap looks `above` rows and
    `left` columns away. RESIDUAL: 0 none, 1 as it is, 2 of half the size. The pixels, rows and images of out are so
    many elements apart; residual and sums are as in `add_kernel`.
    """
    n = tl.program_id(1)
    blocks = tl.cdiv(N, BN)
    part = tl.program_id(0) // blocks
    col = tl.program_id(0) % blocks * BN
    cols = col + tl.arange(0, BN)
    first = n * (H + 1) * (W + 1) + part * BM
    acc = tl.zeros((BM, BN), tl.float32)
    for step in range(TAPS * TAPS * DEPTH):
        tap, k = step // DEPTH, step % DEPTH * BK
        there = first + (tap // TAPS - above) * (W + 1) + tap % TAPS - left
        acc = tl.dot(x.load([there, k]), weight.load([col, tap * C + k]).T, acc)
    in_cols = cols < N
    position = part * BM + tl.arange(0, BM)
    row, column = position // (W + 1), position % (W + 1)
    inside = ((row < H) & (column < W))[:, None] & in_cols[None, :]
    v = acc * tl.load(weight_scale + cols, mask=in_cols, other=0.0)[None, :]
    if BIAS:
        v += tl.load(bias + cols, mask=in_cols, other=0.0).to(tl.float32)[None, :]
    if RESIDUAL == 1:
        at = (n.to(tl.int64) * H * W + row * W + column)[:, None] * N + cols[None, :]
        v += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    if RESIDUAL == 2:
        at = n.to(tl.int64) * (H // 2) * (W // 2) + row // 2 * (W // 2) + column // 2
        v += tl.load(residual + at[:, None] * N + cols[None, :], mask=inside, other=0.0).to(tl.float32)
    rounded = (v * scale).to(out.dtype.element_ty)
    to = n.to(tl.int64) * out_image + row * out_row + column * out_pixel
    tl.store(out + to[:, None] + cols[None, :], rounded, mask=inside)
    if SUMS:
        v = tl.where(inside, rounded.to(tl.float32), 0.0)
        store_sums(sums, n.to(tl.int64) * parts + first_part + part, N, cols, v, v * v)
