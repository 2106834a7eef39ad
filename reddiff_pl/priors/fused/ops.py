"""The kernels on tensors: what is allocated, and how the work is cut."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reddiff_pl.priors.fused import kernels

# Found by trial on an H100, at 256x256 pixels and 256 channels; others lose up to a third.
PARTS = 64  # an image's sums are taken in at most so many parts
SUMMED = 8192  # elements of a tile that is summed
ACTIVATED = 2048  # elements of a tile that is not


@dataclass
class Map:
    """A feature map and what its normalisation needs to know.

    Attributes:
        x: (B, H, W, C), contiguous.
        sums: sums and sums of squares of each channel over parts of the image, float32 (B, parts, 2, C).
    """

    x: Tensor
    sums: Tensor


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _power(n: int, largest: int) -> int:
    """The least power of two that holds n, at most `largest`."""
    return min(1 << max(n - 1, 0).bit_length(), largest)


def _tile(C: int, elements: int) -> tuple[int, int]:
    """Pixels and channels that a program works on at a time."""
    channels = 128 if C % 128 == 0 else _power(C, 64)
    return elements // channels, channels


def conv(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    """A convolution of (B, H, W, C) without its bias, by cuDNN.

    Args:
        weight: (C_out, C, k, k), channels last in memory.
    """
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, stride=stride, padding=padding)
    return y.permute(0, 2, 3, 1).contiguous()


def add(h: Tensor, bias: Tensor | None, residual: Tensor | None = None, scale: float = 1.0) -> Map:
    """(h + bias + residual) * scale, with its sums.

    Args:
        h: (B, H, W, C).
        bias: (C,).
        residual: like h, or (B, H/2, W/2, C), which is enlarged to its nearest neighbours.
    """
    out = torch.empty_like(h)
    kind = 0 if residual is None else 1 if residual.shape == h.shape else 2
    return Map(out, _sums(h, bias, residual, out, scale, kind))


def sums_of(h: Tensor) -> Tensor:
    """The sums of a map as it is."""
    return _sums(h, None, None, None, 1.0, 0)


def _sums(
    h: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor | None, scale: float, kind: int
) -> Tensor:
    B, H, W, C = h.shape
    pixels, channels = _tile(C, SUMMED)
    part = _ceil(_ceil(H * W, PARTS), pixels) * pixels
    parts = _ceil(H * W, part)
    sums = torch.empty(B, parts, 2, C, device=h.device)
    grid = (parts, _ceil(C, channels), B)
    kernels.add_kernel[grid](
        *(
            h,
            h if bias is None else bias,
            h if residual is None else residual,
            h if out is None else out,
            sums,
        ),
        *(H * W, W, C, part, scale),
        *(bias is not None, kind, out is not None, pixels, channels, 3),
        num_warps=8,
    )
    return sums


def affine(
    maps: list[Map],
    norm: nn.GroupNorm,
    bias: Tensor | None = None,
    shift: Tensor | None = None,
    modulation: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """a, b, float32 (B, C), of the GroupNorm of one map, or of two behind each other: norm(x) = a x + b.

    Args:
        bias: (C,), what is still to be added to the map.
        shift: likewise for each image, (B, C), rows of any stride.
        modulation: scale and shift of the normalised map, (B, 2 C), rows of any stride: norm (1 + scale) + shift.
    """
    first, second = maps[0], maps[-1]
    B, H, W, C1 = first.x.shape
    C2 = second.x.shape[3] if len(maps) == 2 else 0
    group = (C1 + C2) // norm.num_groups
    a, b = torch.empty(2, B, C1 + C2, device=first.x.device)
    by = modulation if modulation is not None else shift
    kernels.affine_kernel[(B, norm.num_groups)](
        *(first.sums, first.sums.shape[1], C1, second.sums, second.sums.shape[1], C2),
        *(
            first.sums if bias is None else bias,
            first.sums if shift is None else shift,
            norm.weight,
            norm.bias,
        ),
        *(first.sums if modulation is None else modulation, 0 if by is None else by.stride(0), a, b),
        *(H * W, group, norm.eps),
        *(bias is not None, shift is not None, modulation is not None, C2 > 0),
        *(_power(max(first.sums.shape[1], second.sums.shape[1]), 64), _power(group, 1 << 16)),
    )
    return a, b


def activate(
    xs: list[Tensor], scales: tuple[Tensor, Tensor] | None, silu: bool = True, resize: int = 0
) -> tuple[Tensor, Tensor]:
    """silu(a x + b) of one map, or of two behind each other, (B, H', W', C).

    Args:
        xs: (B, H, W, C) each.
        scales: a, b; None: x itself.
        resize: 0; 1: halved by means of 2x2; 2: doubled to nearest neighbours.

    Returns:
        The map, and for `resize` 1 also x itself halved (else x).
    """
    B, H, W, _ = xs[0].shape
    total = sum(x.shape[3] for x in xs)
    size = ((H, W), (H // 2, W // 2), (2 * H, 2 * W))[resize]
    out = xs[0].new_empty(B, *size, total)
    reduced = xs[0].new_empty(B, *size, total) if resize == 1 else xs[0]
    at = 0
    for x in xs:
        C = x.shape[3]
        pixels, channels = _tile(C, ACTIVATED)
        grid = (_ceil(H * W // 4 if resize == 1 else H * W, pixels), _ceil(C, channels), B)
        a, b = (x, x) if scales is None else (scale[:, at:] for scale in scales)
        kernels.activate_kernel[grid](
            *(x, a, b, out[..., at:], reduced, H * W, W, C, total, total),
            *(scales is not None, silu, resize, pixels, channels),
            num_warps=8,
        )
        at += C
    return out, reduced


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


def conv_in(x: Tensor, weight: Tensor, bias: Tensor) -> Map:
    """A 3x3 convolution of an image of few channels, with its sums.

    Args:
        x: float32 (B, C, H, W).
        weight: (C_out, K), see `few_in`.
        bias: (C_out,).
    """
    B, C, H, W = x.shape
    K = weight.shape[1]
    patches = torch.empty(B, H, W, K, device=x.device, dtype=weight.dtype)
    pixels = max(4096 // K, 1)
    kernels.patches_kernel[(_ceil(H * W, pixels), B)](x, patches, H, W, C, K, pixels)
    out = torch.empty(B, H, W, weight.shape[0], device=x.device, dtype=weight.dtype)
    return Map(out, _product([patches], weight, out, bias=bias))


def conv_out(x: Tensor, scales: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """A 3x3 convolution of silu(a x + b) to an image of few channels, float32 (B, C_out, H, W).

    Args:
        x: (B, H, W, C).
        scales: a, b.
        weight: (K, C), see `few_out`.
        bias: (C_out,).
    """
    B, H, W, _ = x.shape
    C, K = len(bias), len(weight)
    products = torch.empty(B, H, W, K, device=x.device)
    _product([x], weight, products, scales=scales, sums=False)
    out = torch.empty(B, C, H, W, device=x.device)
    kernels.gather_kernel[(_ceil(H * W, 256), B)](products, bias, out, H, W, C, K, 256, _power(C, 1 << 16))
    return out


def few_in(weight: Tensor) -> Tensor:
    """The weight of a 3x3 convolution, (C_out, C, 3, 3), for `conv_in`: (C_out, 9 C and zeros to a power of two)."""
    flat = weight.permute(0, 2, 3, 1).flatten(1)
    return F.pad(flat, (0, max(16, _power(flat.shape[1], 1 << 16)) - flat.shape[1]))


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
    rows, cols, warps, stages = _product_tile(H * W, C)
    parts = _ceil(H * W, rows)
    partial = torch.empty(B, parts, 2, C, device=out.device) if sums else out
    a, b = (out, out) if scales is None else scales
    kernels.product_kernel[(parts * _ceil(C, cols), B)](
        *(xs[0], xs[0].shape[3], xs[-1], xs[-1].shape[3] if len(xs) == 2 else 0, a, b, weight),
        *(out if h is None else h, out if bias is None else bias, out, partial, H * W, C, scale),
        *(scales is not None, len(xs) == 2, h is not None, bias is not None, sums),
        *(rows, cols, min(64, _power(xs[0].shape[3], 64))),
        num_warps=warps,
        num_stages=stages,
    )
    return partial


def _product_tile(pixels: int, C: int) -> tuple[int, int, int, int]:
    """Pixels and output channels of a program, its warps, and the stages of its pipeline."""
    rows = max(_power(pixels, 128), 16)
    cols = max(_power(C, 128), 16)
    return rows, cols, 8 if cols <= 32 else 4, 3
