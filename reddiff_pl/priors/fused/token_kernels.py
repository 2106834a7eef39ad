"""What a transformer does between its matrix products, each in one pass over memory. Imports Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_norm_kernel(
    x, update, bias, gamma, beta, out, normed, N, C, eps,
    BIAS: tl.constexpr, NORM: tl.constexpr, UPDATE: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """BR of N rows of C numbers: out = x + update + bias, normed = its LayerNorm."""
    rows = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    cols = tl.arange(0, BC)
    in_cols = cols < C
    inside = (rows < N)[:, None] & in_cols[None, :]
    at = rows[:, None] * C + cols[None, :]
    v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if UPDATE:
        v += tl.load(update + at, mask=inside, other=0.0).to(tl.float32)
        if BIAS:
            v += tl.load(bias + cols, mask=in_cols, other=0.0).to(tl.float32)[None, :]
        rounded = v.to(out.dtype.element_ty)
        tl.store(out + at, rounded, mask=inside)
        v = rounded.to(tl.float32)
    if NORM:
        mean = tl.sum(v, 1)[:, None] / C
        v = tl.where(inside, v - mean, 0.0)
        variance = tl.sum(v * v, 1)[:, None] / C
        scale = tl.load(gamma + cols, mask=in_cols, other=0.0).to(tl.float32)[None, :]
        shift = tl.load(beta + cols, mask=in_cols, other=0.0).to(tl.float32)[None, :]
        v = v / tl.sqrt(variance + eps) * scale + shift
        tl.store(normed + at, v.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def gated_kernel(h, bias, out, N, C, BIAS: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr):
    """BR of N rows and BC of C columns: out = (a + bias) gelu(b + bias), where h's rows are a and b, C each."""
    rows = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    cols = tl.program_id(1) * BC + tl.arange(0, BC)
    in_cols = cols < C
    inside = (rows < N)[:, None] & in_cols[None, :]
    at = rows[:, None] * 2 * C + cols[None, :]
    a = tl.load(h + at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(h + at + C, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        a += tl.load(bias + cols, mask=in_cols, other=0.0).to(tl.float32)[None, :]
        b += tl.load(bias + C + cols, mask=in_cols, other=0.0).to(tl.float32)[None, :]
    v = a * 0.5 * b * (1 + tl.erf(b * 0.7071067811865476))
    tl.store(out + rows[:, None] * C + cols[None, :], v.to(out.dtype.element_ty), mask=inside)
