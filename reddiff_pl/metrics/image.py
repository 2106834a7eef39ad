"""Metrics of single images, all on the image as it is written."""

from __future__ import annotations

import functools

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.physics.binding import measured, measurement_scale


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,); infinite for equal images.

    Args:
        image: (B, C, H, W), uint8, or floats on the [0, 1] scale, whose peak is 1.
        reference: the same, or the other.
    """
    error = _unit(image) - _unit(reference)
    return -10 * error.square().flatten(1).mean(1).log10()


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity, (B,), mean over the full map and the channels.

    Gaussian window of 11x11 pixels, sigma 1.5, population covariance, images in [0, 1], borders mirrored: the
    numbers of scikit-image with gaussian_weights=True, use_sample_covariance=False, data_range=1, full=True.

    Args:
        image: (B, C, H, W), uint8, or floats on the [0, 1] scale; at least 6 pixels a side.
        reference: the same, or the other.

    References:
        Image Quality Assessment: From Error Visibility to Structural Similarity
        | https://doi.org/10.1109/TIP.2003.819861
    """
    a, b = _unit(image), _unit(reference)
    rows, columns = (_window(a.shape[dim], a.device) for dim in (-2, -1))
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = (rows @ v @ columns.T for v in (a, b, a * a, b * b, a * b))
    c1, c2 = 0.01**2, 0.03**2
    var_a, var_b, cov = mean_aa - mean_a**2, mean_bb - mean_b**2, mean_ab - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    denominator = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return (numerator / denominator).flatten(1).mean(1)


def _unit(images: Tensor) -> Tensor:
    """float64 on the [0, 1] scale."""
    return images.double() / 255 if images.dtype == torch.uint8 else images.double()


@functools.lru_cache(maxsize=8)
def _window(n: int, device: torch.device) -> Tensor:
    """SSIM's window along a side of n pixels, borders mirrored about the edge of the last one (d c b a | a b c d).

    As a matrix, (n, n): in float64 products of matrices are several times faster than convolutions.
    """
    offsets = torch.arange(-5, 6, device=device)
    weights = torch.exp(-(offsets.double() ** 2) / (2 * 1.5**2))
    places = torch.arange(n, device=device)[:, None] + offsets
    places = torch.where(places < 0, -1 - places, places)
    places = torch.where(places >= n, 2 * n - 1 - places, places)
    matrix = torch.zeros(n, n, dtype=torch.float64, device=device)
    return matrix.scatter_add_(1, places, (weights / weights.sum()).expand(n, -1))


def misfit(x: Tensor, y: Tensor, physics: Physics) -> Tensor:
    """Root mean square of y - A(x) over what is measured, on the [0, 1] scale, (B,).

    What is measured: the elements of y that the image can change; masked ones do not count.

    Args:
        x: images, (B, C, H, W) in [-1, 1].
        y: measurements, (B, ...).
        physics: the operator, its per-image parameters bound.
    """
    square = (y - physics.A(x)).abs().square().flatten(1).sum(1)
    moved, _ = measured(physics, x)
    return (square / moved.flatten(1).sum(1).clamp(min=1)).sqrt() / measurement_scale(physics)
