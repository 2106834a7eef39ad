"""Matrix products of feature maps: shortcuts, and convolutions from and to few channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from reddiff_pl.priors.fused import product_kernels as kernels
from reddiff_pl.priors.fused.ops import Map, ceil, power


def shortcut(xs: list[Tensor], weight: Tensor, h: Tensor, bias: Tensor, scale: float = 1.0) -> Map:
    """(h + bias + [x1, x2] W^T) * scale, with its sums.

    Args:
        xs: one or two maps, (B, H, W, C_i).
        weight: (C, C_1 + C_2).
        h: (B, H, W, C).
        bias: (C,).
    """
    out = torch.empty_like(h)
    return Map(out, _product(xs, weight, out, h=h, bias=bias, scale=scale))


def conv_in(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Map:
    """A 3x3 convolution of an image of few channels, with its sums.

    Args:
        x: float32 (B, C, H, W).
        weight: (C_out, K), see `few_in`; x is rounded to its type.
        bias: (C_out,).
        dtype: of the map.
    """
    x = x.contiguous()  # an operator may give its images transposed, which the kernel would take for others
    B, C, H, W = x.shape
    K = weight.shape[1]
    patches = torch.empty(B, H, W, K, device=x.device, dtype=weight.dtype)
    pixels = max(4096 // K, 1)
    kernels.patches_kernel[(ceil(H * W, pixels), B)](x, patches, H, W, C, K, pixels)
    out = torch.empty(B, H, W, weight.shape[0], device=x.device, dtype=dtype)
    return Map(out, _product([patches], weight, out, bias=bias))


def conv_out(x: Tensor, scales: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """A 3x3 convolution of silu(a x + b) to an image of few channels, float32 (B, C_out, H, W).

    Args:
        x: (B, H, W, C).
        scales: a, b.
        weight: (K, C), see `few_out`; the activations are rounded to its type.
        bias: (C_out,).
    """
    B, H, W, _ = x.shape
    C, K = len(bias), len(weight)
    products = torch.empty(B, H, W, K, device=x.device)
    _product([x], weight, products, scales=scales, sums=False)
    out = torch.empty(B, C, H, W, device=x.device)
    kernels.gather_kernel[(ceil(H * W, 256), B)](products, bias, out, H, W, C, K, 256, power(C, 1 << 16))
    return out


def few_in(weight: Tensor) -> Tensor:
    """The weight of a 3x3 convolution, (C_out, C, 3, 3), for `conv_in`: (C_out, 9 C and zeros to a power of two)."""
    flat = weight.permute(0, 2, 3, 1).flatten(1)
    return F.pad(flat, (0, max(16, power(flat.shape[1], 1 << 16)) - flat.shape[1]))


def few_out(weight: Tensor) -> Tensor:
    """The weight of a 3x3 convolution, (C_out, C, 3, 3), for `conv_out`: (9 C_out and zeros to a multiple of 16, C)."""
    flat = weight.permute(2, 3, 0, 1).flatten(0, 2)
    return F.pad(flat, (0, 0, 0, -len(flat) % 16)).contiguous()


def _product(
    xs: list[Tensor],
    weight: Tensor,
    out: Tensor,
    h: Tensor | None = None,
    bias: Tensor | None = None,
    scales: tuple[Tensor, Tensor] | None = None,
    scale: float = 1.0,
    sums: bool = True,
) -> Tensor:
    """out = (h + bias + [x1, x2] W^T) * scale, of silu(a x1 + b) where there are `scales`; the sums of out."""
    B, H, W, C = out.shape
    rows, cols = (max(power(n, 128), 16) for n in (H * W, C))
    depth = max(power(xs[0].shape[3], 64), 16)
    parts = ceil(H * W, rows)
    partial = torch.empty(B, parts, 2, C, device=out.device) if sums else out
    a, b = (out, out) if scales is None else scales

    def tiles(x: Tensor, channels: int) -> TensorDescriptor:
        return TensorDescriptor.from_tensor(x.view(B * H * W, -1), [rows, channels])

    kernels.product_kernel[(parts * ceil(C, cols), B)](
        *(tiles(xs[0], depth), xs[0].shape[3], tiles(xs[-1], depth), xs[-1].shape[3], a, b),
        TensorDescriptor.from_tensor(weight, [cols, depth]),
        *(tiles(out if h is None else h, cols), out if bias is None else bias, out, partial, H * W, C, scale),
        *(scales is not None, len(xs) == 2, h is not None, bias is not None, sums),
        *(rows, cols, depth),
        num_warps=4,
        num_stages=3,
    )
    return partial
