"""Normal draws of a whole batch in one launch, each image from its own stream.

Imports Triton, so only where there is a CUDA device.

References:
    Parallel random numbers: as easy as 1, 2, 3 (Philox) | https://doi.org/10.1145/2063384.2063405
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def _uniform(bits):
    """In (0, 1], from 32 random bits; never 0, whose logarithm is infinite."""
    return (bits.to(tl.float32) + 1.0) * 2.3283064365386963e-10


@triton.jit(do_not_specialize=["draw_low", "draw_high"])  # they differ from step to step
def _normal_kernel(seeds, out, size, draw_low, draw_high, BLOCK: tl.constexpr):
    """Four draws a counter: by Box and Muller, from two pairs of uniform numbers."""
    row = tl.program_id(1).to(tl.int64)
    seed = tl.load(seeds + row)
    counter = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    low = (counter * 0 + draw_low).to(tl.uint32, bitcast=True)
    high = (counter * 0 + draw_high).to(tl.uint32, bitcast=True)
    a, b, c, d = tl.philox(seed, counter.to(tl.uint32, bitcast=True), low, high, low * 0)
    out += row * size
    for i in tl.static_range(2):
        radius = tl.sqrt(-2.0 * tl.log(_uniform(a if i == 0 else c)))
        angle = 6.283185307179586 * _uniform(b if i == 0 else d)
        at = counter * 4 + 2 * i
        tl.store(out + at, radius * tl.cos(angle), mask=at < size)
        tl.store(out + at + 1, radius * tl.sin(angle), mask=at + 1 < size)


def normal(seeds: Tensor, draw: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers, float32 (B, *shape).

    Element i of an image's draw depends on its seed, the draw and i alone: not on the batch, nor on the device.

    Args:
        seeds: of the images, long (B,).
        draw: names the draw, 63 bits.
        shape: of an image.
    """
    out = torch.empty(len(seeds), *shape, device=seeds.device)
    size = out[0].numel()
    low, high = ((draw >> shift & 0xFFFFFFFF) - (1 << 31) for shift in (0, 32))
    grid = (-(-size // (4 * _BLOCK)), len(seeds))
    _normal_kernel[grid](seeds, out, size, low, high, _BLOCK)
    return out
