"""Metrics of single images, all on the image as it is written."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reddiff_pl.metrics.scale import unit

if TYPE_CHECKING:
    from deepinv.physics import Physics

REACH = 5  # of SSIM's window of 11 pixels to either side
BLOCK = 512  # pixels a side that SSIM is computed of at a time


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,); infinite for equal images.

    Args:
        image: (B, C, H, W), uint8, or floats on the [0, 1] scale, whose peak is 1.
        reference: the same, or the other.
    """
    if image.dtype == reference.dtype == torch.uint8:  # exact, in half the memory
        square = (image.int() - reference.int()).square().flatten(1)
        return -10 * (square.sum(1).double() / (square.shape[1] * 255**2)).log10()
    error = unit(image) - unit(reference)
    return -10 * error.square().flatten(1).mean(1).log10()


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity, (B,), mean over the full map and the channels.

    Gaussian window of 11x11 pixels, sigma 1.5, population covariance, images in [0, 1], borders mirrored: the
    numbers of scikit-image with gaussian_weights=True, use_sample_covariance=False, data_range=1, full=True.

    Args:
        image: (B, C, H, W), uint8, or floats on the [0, 1] scale. Images smaller than the window are mirrored as often
            as that takes.
        reference: the same, or the other.

    References:
        Image Quality Assessment: From Error Visibility to Structural Similarity
        | https://doi.org/10.1109/TIP.2003.819861
    """
    height, width = image.shape[-2:]
    total = torch.zeros(len(image), dtype=torch.float64, device=image.device)
    # block by block: in float64 the maps of a large image would take gigabytes
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            blocks = []
            for start, side in ((top, height), (left, width)):
                end = min(start + BLOCK, side)
                # of smaller images all is seen, as mirrored pixels may be any
                low, high = (0, side) if side <= BLOCK else (max(start - REACH, 0), min(end + REACH, side))
                blocks.append((slice(low, high), _window(side, start, end, low, high, image.device)))
            (rows, down), (columns, across) = blocks
            total += _similarity(image[..., rows, columns], reference[..., rows, columns], down, across)
    return total / (image[0].numel())


def _similarity(image: Tensor, reference: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sum of the map over a block, (B,), whose window sums are rows @ block @ columns^T."""
    a, b = unit(image), unit(reference)
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = (rows @ v @ columns.T for v in (a, b, a * a, b * b, a * b))
    c1, c2 = 0.01**2, 0.03**2
    var_a, var_b, cov = mean_aa - mean_a**2, mean_bb - mean_b**2, mean_ab - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    denominator = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return (numerator / denominator).flatten(1).sum(1)


@functools.lru_cache(maxsize=32)
def _window(n: int, start: int, end: int, low: int, high: int, device: torch.device) -> Tensor:
    """SSIM's window along a side of n pixels, borders mirrored about the edge of the last one (d c b a | a b c d).

    As a matrix, (end - start, high - low), from pixels low..high to the means about pixels start..end: in float64
    products of matrices are several times faster than convolutions.
    """
    offsets = torch.arange(-REACH, REACH + 1, device=device)
    weights = torch.exp(-(offsets.double() ** 2) / (2 * 1.5**2))
    places = (torch.arange(start, end, device=device)[:, None] + offsets) % (2 * n)
    places = torch.where(places >= n, 2 * n - 1 - places, places) - low
    matrix = torch.zeros(end - start, high - low, dtype=torch.float64, device=device)
    return matrix.scatter_add_(1, places, (weights / weights.sum()).expand(end - start, -1))


def misfit(x: Tensor, y: Tensor, physics: Physics) -> Tensor:
    """Root mean square of y - A(x) over what is measured, on the [0, 1] scale, (B,).

    What is measured: the elements of y that the image can change; masked ones do not count.

    Args:
        x: images, (B, C, H, W) in [-1, 1].
        y: measurements, (B, ...).
        physics: the operator, its per-image parameters bound.
    """
    from reddiff_pl.physics.binding import measured, measurement_scale  # deepinv

    square = (y - physics.A(x)).abs().square().flatten(1).sum(1)
    moved, _ = measured(physics, x)
    return (square / moved.flatten(1).sum(1).clamp(min=1)).sqrt() / measurement_scale(physics)
