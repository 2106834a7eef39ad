"""The kernels of transformers on tokens, (B, N, C) and contiguous."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reddiff_pl.priors.fused import token_kernels as kernels
from reddiff_pl.priors.fused.ops import ceil, power

TILE = 4096  # elements of a tile


def norm(x: Tensor, by: nn.LayerNorm) -> Tensor:
    """LayerNorm of x, like x."""
    return _add_norm(x, None, None, by)[1]


def add_norm(
    x: Tensor, update: Tensor, bias: Tensor | None, by: nn.LayerNorm | None
) -> tuple[Tensor, Tensor]:
    """x + update + bias, and its LayerNorm: the sum itself where there is none.

    Args:
        x: (B, N, C).
        update: like x.
        bias: (C,).
        by: the norm that comes next.
    """
    return _add_norm(x, update, bias, by)


def _add_norm(
    x: Tensor, update: Tensor | None, bias: Tensor | None, by: nn.LayerNorm | None
) -> tuple[Tensor, Tensor]:
    C = x.shape[-1]
    rows = x.numel() // C
    out = x if update is None else torch.empty_like(x)
    normed = out if by is None else torch.empty_like(x)
    columns = power(C, 1 << 16)
    at_once = max(TILE // columns, 1)
    kernels.add_norm_kernel[(ceil(rows, at_once),)](
        *(x, x if update is None else update.contiguous(), x if bias is None else bias),
        *(x if by is None else by.weight, x if by is None else by.bias, out, normed),
        *(rows, C, 0.0 if by is None else by.eps),
        *(bias is not None, by is not None, update is not None, at_once, columns),
        num_warps=4 if columns <= 1024 else 8,
    )
    return out, normed


def gated(h: Tensor, bias: Tensor | None) -> Tensor:
    """(a + bias) gelu(b + bias) of the halves a and b of h's last dimension, (B, N, C).

    Args:
        h: (B, N, 2 C), contiguous.
        bias: (2 C,).
    """
    B, N, C = h.shape[0], h.shape[1], h.shape[2] // 2
    out = h.new_empty(B, N, C)
    columns = 128 if C % 128 == 0 else power(C, 128)
    at_once = TILE // 2 // columns
    kernels.gated_kernel[(ceil(B * N, at_once), ceil(C, columns))](
        *(h, h if bias is None else bias, out, B * N, C, bias is not None, at_once, columns), num_warps=4
    )
    return out
