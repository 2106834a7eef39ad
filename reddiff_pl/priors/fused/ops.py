"""The kernels on feature maps: what is allocated, and how the work is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reddiff_pl.priors.fused import kernels

# Found by trial on an H100, at 256x256 pixels and 256 channels; others lose up to a third.
PARTS = 64  # an image's sums are taken in at most so many parts
SUMMED = 4096  # elements of a tile that is summed
ACTIVATED = 2048  # elements of a tile that is not, or twice as many of 8 bits
OPERAND_SCALE = 4.0  # of activations in 8 bits: full precision from .004 to 112


Pieces: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
"""A map of twice the size in four views (B, H, W, C): its pixels in even and odd rows and columns, (2 r + i, 2 c + j)
in piece 2 i + j."""


@dataclass
class Map:
    """A feature map and what its normalisation needs to know.

    Attributes:
        x: (B, H, W, C), contiguous.
        sums: sums and sums of squares of each channel over parts of the image, float32 (B, parts, 2, C).
    """

    x: Tensor
    sums: Tensor


def ceil(a: int, b: int) -> int:
    return -(-a // b)


def power(n: int, largest: int) -> int:
    """The least power of two that holds n, at most `largest`."""
    return min(1 << max(n - 1, 0).bit_length(), largest)


def _tile(C: int, elements: int) -> tuple[int, int]:
    """Pixels and channels that a program works on at a time."""
    channels = 128 if C % 128 == 0 else power(C, 64)
    return elements // channels, channels


def conv(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    """A convolution of (B, H, W, C) without its bias, by cuDNN.

    Args:
        weight: (C_out, C, k, k), channels last in memory.
    """
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, stride=stride, padding=padding)
    return y.permute(0, 2, 3, 1).contiguous()


def halves(weight: Tensor) -> list[Tensor]:
    """What a 3x3 convolution of an enlarged map is to the map itself: four 2x2 convolutions, for `conv_enlarged`.

    Rows 2r of the enlarged map see rows r - 1, r, r of the map, rows 2r + 1 see r, r, r + 1; columns likewise.

    Args:
        weight: (C_out, C, 3, 3), float32.
    """
    even = torch.tensor([[1.0, 0, 0], [0, 1, 1]], device=weight.device)
    odd = torch.tensor([[1.0, 1, 0], [0, 0, 1]], device=weight.device)
    return [torch.einsum("ocij,ai,bj->ocab", weight, a, b) for a in (even, odd) for b in (even, odd)]


def conv_enlarged(x: Tensor, weights: list[Tensor]) -> Pieces:
    """A 3x3 convolution of x doubled to nearest neighbours, without its bias, in 4/9 of the work.

    Args:
        x: (B, H, W, C).
        weights: of `halves`, channels last in memory.
    """
    _, H, W, _ = x.shape
    pieces = []
    for i, weight in enumerate(weights):
        row, column = i // 2, i % 2
        pieces.append(conv(x, weight)[:, row : row + H, column : column + W])
    return pieces[0], pieces[1], pieces[2], pieces[3]


def add(h: Tensor | Pieces, bias: Tensor | None, residual: Tensor | None = None, scale: float = 1.0) -> Map:
    """(h + bias + residual) * scale, with its sums.

    Args:
        h: (B, H, W, C), or a map in pieces.
        bias: (C,).
        residual: of the size of h, or of half its height and width, which is enlarged to nearest neighbours.
    """
    out = torch.empty(_shape(h), device=_first(h).device, dtype=_first(h).dtype)
    return Map(out, _sums(h, bias, residual, out, scale))


def sums_of(h: Tensor | Pieces) -> Tensor:
    """The sums of a map as it is."""
    return _sums(h, None, None, None, 1.0)


def _sums(
    h: Tensor | Pieces, bias: Tensor | None, residual: Tensor | None, out: Tensor | None, scale: float
) -> Tensor:
    views = _views(h)
    to_views = views if out is None else places(out, len(views))
    kind = residual_kind(residual, _shape(h))
    B, H, W, C = views[0].shape
    pixels, channels = _tile(C, SUMMED)
    part = ceil(ceil(H * W, PARTS), pixels) * pixels
    parts = ceil(H * W, part)
    sums = torch.empty(B, parts * len(views), 2, C, device=views[0].device)
    for i, (view, to) in enumerate(zip(views, to_views, strict=True)):
        kernels.add_kernel[(parts, ceil(C, channels), B)](
            *(
                view,
                *view.stride()[:2],
                view if bias is None else bias,
                view if residual is None else residual,
            ),
            *(to, *to.stride()[:3], sums, i * parts, parts * len(views), H, W, C, part, scale),
            *(len(views) > 1, bias is not None, kind, out is not None, pixels, channels, 3),
            num_warps=4,
        )
    return sums


def _first(h: Tensor | Pieces) -> Tensor:
    return h if isinstance(h, Tensor) else h[0]


def _views(h: Tensor | Pieces) -> tuple[Tensor, ...]:
    return (h,) if isinstance(h, Tensor) else h


def _shape(h: Tensor | Pieces) -> tuple[int, int, int, int]:
    """(B, H, W, C) of a map, in pieces or not."""
    B, H, W, C = _first(h).shape
    return (B, H, W, C) if isinstance(h, Tensor) else (B, 2 * H, 2 * W, C)


def residual_kind(residual: Tensor | None, shape: Sequence[int]) -> int:
    """RESIDUAL of the kernels: 0 none, 1 of this shape, 2 of half its height and width."""
    return 0 if residual is None else 1 if tuple(residual.shape) == tuple(shape) else 2


def places(out: Tensor, pieces: int) -> list[Tensor]:
    """Where in `out` the pixels of a map in so many pieces go, 1 or 4."""
    return [out] if pieces == 1 else [out[:, i // 2 :: 2, i % 2 :: 2] for i in range(4)]


def affine(
    sums: Sequence[Tensor],
    pixels: int,
    norm: nn.GroupNorm,
    bias: Tensor | None = None,
    shift: Tensor | None = None,
    modulation: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """a, b, float32 (B, C), of the GroupNorm of one map, or of two behind each other: norm(x) = a x + b.

    Args:
        sums: of the maps.
        pixels: H W.
        bias: (C,), what is still to be added to the map.
        shift: likewise for each image, (B, C), rows of any stride.
        modulation: scale and shift of the normalised map, (B, 2 C), rows of any stride: norm (1 + scale) + shift.
    """
    first, second = sums[0], sums[-1]
    B, parts, _, C1 = first.shape
    C2 = second.shape[3] if len(sums) == 2 else 0
    group = (C1 + C2) // norm.num_groups
    a, b = torch.empty(2, B, C1 + C2, device=first.device)
    by = modulation if modulation is not None else shift
    kernels.affine_kernel[(B, norm.num_groups)](
        *(first, parts, C1, second, second.shape[1], C2),
        *(
            first if bias is None else bias,
            first if shift is None else shift,
            norm.weight,
            norm.bias,
        ),
        *(first if modulation is None else modulation, 0 if by is None else by.stride(0), a, b),
        *(pixels, group, norm.eps),
        *(bias is not None, shift is not None, modulation is not None, C2 > 0),
        *(power(max(parts, second.shape[1]), 64), power(group, 1 << 16)),
    )
    return a, b


def activate(
    xs: Sequence[Tensor | Pieces],
    scales: tuple[Tensor, Tensor],
    silu: bool = True,
    operand: torch.dtype | None = None,
) -> Tensor:
    """silu(a x + b) of one map, or of two behind each other, (B, H, W, C).

    Args:
        xs: (B, H, W, C) each, or a map in pieces.
        scales: a, b.
        operand: makes it one of `convs.conv`: of this type, times OPERAND_SCALE, and with a column and a row of zeros
            behind, (B, H + 1, W + 1, C); not of pieces.
    """
    B, H, W, _ = _shape(xs[0])
    pad = int(operand is not None)
    out = _first(xs[0]).new_empty(B, H + pad, W + pad, sum(_shape(x)[3] for x in xs), dtype=operand)
    at = 0
    for x in xs:
        C, views = _shape(x)[3], _views(x)
        for view, to in zip(views, places(out[..., at : at + C], len(views)), strict=True):
            _activate(view, to, out, (scales[0][:, at:], scales[1][:, at:]), silu, 0, pad)
        at += C
    return out


def halve(
    x: Tensor, scales: tuple[Tensor, Tensor] | None, operand: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Means over 2x2 pixels of silu(a x + b), and of x, (B, H/2, W/2, C).

    Args:
        x: (B, H, W, C).
        scales: a, b; None: the first is that of x, too.
        operand: makes the first one of `convs.conv`, as in `activate`.
    """
    B, H, W, C = x.shape
    pad = int(operand is not None)
    out = x.new_empty(B, H // 2 + pad, W // 2 + pad, C, dtype=operand)
    reduced = x.new_empty(B, H // 2, W // 2, C)
    _activate(x, out, reduced, scales, scales is not None, 1, pad)
    return out, reduced


def double(x: Tensor) -> Tensor:
    """x enlarged to nearest neighbours, (B, 2 H, 2 W, C)."""
    B, H, W, C = x.shape
    out = x.new_empty(B, 2 * H, 2 * W, C)
    _activate(x, out, out, None, False, 2, 0)
    return out


def _activate(
    x: Tensor,
    out: Tensor,
    reduced: Tensor,
    scales: tuple[Tensor, Tensor] | None,
    silu: bool,
    resize: int,
    pad: int,
) -> None:
    B, H, W, C = x.shape
    eight = out.element_size() == 1
    pixels, channels = _tile(C, 2 * ACTIVATED if eight else ACTIVATED)
    height, width = (H // 2, W // 2) if resize == 1 else (H, W)
    a, b = (x, x) if scales is None else scales
    kernels.activate_kernel[(ceil((height + pad) * (width + pad), pixels), ceil(C, channels), B)](
        *(x, *x.stride()[:2], a, b, out, *out.stride()[:3], reduced, H, W, C, a.stride(0), OPERAND_SCALE),
        *(not x.is_contiguous(), scales is not None, silu, resize, pad, eight, pixels, channels),
        num_warps=4 if eight else 8,
    )
