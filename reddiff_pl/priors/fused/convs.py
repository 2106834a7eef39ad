"""Convolutions of feature maps in 8-bit floats, with the sums of what they write."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from reddiff_pl.priors.fused import conv_kernels as kernels
from reddiff_pl.priors.fused.ops import OPERAND_SCALE, ceil, halves, places, power, residual_kind

Weights8: TypeAlias = list[tuple[Tensor, Tensor]]
"""Of a 3x3 convolution, or of the four 2x2 ones of an enlarged map: the weight in 8 bits, (C_out, k k C), each row on a
scale of its own, and what its products are to be multiplied by, float32 (C_out,)."""


def weights8(weight: Tensor, dtype: torch.dtype, enlarged: bool = False) -> Weights8:
    """A 3x3 convolution's weight for `conv`.

    Args:
        weight: (C_out, C, 3, 3).
        dtype: float8_e4m3fn; types of more bits are not scaled.
        enlarged: of a map doubled to nearest neighbours.
    """
    exact = weight.float()
    return [_scaled(each, dtype) for each in (halves(exact) if enlarged else [exact])]


def _scaled(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    rows = weight.permute(0, 2, 3, 1).flatten(1)
    if dtype.itemsize > 1:
        return rows.to(dtype).contiguous(), torch.ones(len(rows), device=rows.device)
    scale = rows.abs().amax(1).clamp(min=1e-30) / torch.finfo(dtype).max  # each row uses the whole range
    return (rows / scale[:, None]).to(dtype).contiguous(), scale / OPERAND_SCALE


def conv(
    x: Tensor,
    weights: Weights8,
    dtype: torch.dtype,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    scale: float = 1.0,
    sums: bool = True,
) -> tuple[Tensor, Tensor]:
    """(conv(x) + bias + residual) * scale, (B, H, W, C_out), or (B, 2 H, 2 W, C_out), and its sums.

    Args:
        x: an operand of `ops.activate`, (B, H + 1, W + 1, C).
        weights: of `weights8`.
        dtype: of the result.
        bias: (C_out,).
        residual: of the size of the result, or of half its height and width, which is enlarged to nearest neighbours.
        sums: of the result are wanted; without, they are empty.
    """
    B, H, W, C = x.shape[0], x.shape[1] - 1, x.shape[2] - 1, x.shape[3]
    pieces = len(weights)
    times = 2 if pieces == 4 else 1
    N = len(weights[0][0])
    out = torch.empty(B, times * H, times * W, N, device=x.device, dtype=dtype)
    kind = residual_kind(residual, out.shape)
    # found by trial on an H100: the larger tile pays where there are many channels to add up
    rows = power(H * (W + 1), 256 if C >= 512 else 128)
    rows, cols = max(rows, 16), max(power(N, 128), 16)
    line = 128 // x.element_size()  # what a descriptor moves at a time
    depth = line if C % line == 0 else max(C & -C, 32 // x.element_size(), 16)
    parts = ceil(H * (W + 1), rows)
    partial = torch.empty(B, parts * pieces if sums else 0, 2, N, device=x.device)
    pixels = TensorDescriptor.from_tensor(x.view(-1, C), [rows, depth])
    for i, ((weight, factor), to) in enumerate(zip(weights, places(out, pieces), strict=True)):
        above, left = (1, 1) if pieces == 1 else (1 - i // 2, 1 - i % 2)
        kernels.conv_kernel[(parts * ceil(N, cols), B)](
            *(pixels, TensorDescriptor.from_tensor(weight, [cols, depth]), factor),
            *(factor if bias is None else bias, out if residual is None else residual),
            *(to, *to.stride()[:3], partial, i * parts, parts * pieces, H, W, C, N, above, left, scale),
            *(3 if pieces == 1 else 2, bias is not None, kind, sums, rows, cols, depth, ceil(C, depth)),
            num_warps=8 if rows == 256 else 4,
            num_stages=3,
        )
    return out, partial
