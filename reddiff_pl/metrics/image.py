"""Metrics of single images, all on the 8-bit image as it is written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.physics.binding import measured, measurement_scale


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,); infinite for equal images.

    Args:
        image: uint8, (B, C, H, W).
        reference: the same.
    """
    error = (image.double() - reference.double()) / 255
    return -10 * error.square().flatten(1).mean(1).log10()


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity, (B,), mean over the full map and the channels.

    Gaussian window of 11x11 pixels, sigma 1.5, population covariance, images in [0, 1], borders mirrored: the
    numbers of scikit-image with gaussian_weights=True, use_sample_covariance=False, data_range=1, full=True.

    Args:
        image: uint8, (B, C, H, W); at least 6 pixels a side.
        reference: the same.

    References:
        Image Quality Assessment: From Error Visibility to Structural Similarity
        | https://doi.org/10.1109/TIP.2003.819861
    """
    a, b = image.double() / 255, reference.double() / 255
    offsets = torch.arange(-5, 6, dtype=torch.float64, device=a.device)
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = window / window.sum()
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = (_blur(v, window) for v in (a, b, a * a, b * b, a * b))
    c1, c2 = 0.01**2, 0.03**2
    var_a, var_b, cov = mean_aa - mean_a**2, mean_bb - mean_b**2, mean_ab - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    denominator = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return (numerator / denominator).flatten(1).mean(1)


def _blur(x: Tensor, window: Tensor) -> Tensor:
    """Separable filter with borders mirrored about the edge of the last pixel (d c b a | a b c d)."""
    half = len(window) // 2
    for dim in (-2, -1):
        head, tail = x.narrow(dim, 0, half).flip(dim), x.narrow(dim, x.shape[dim] - half, half).flip(dim)
        padded = torch.cat([head, x, tail], dim)
        kernel = window.reshape([1, 1, -1, 1] if dim == -2 else [1, 1, 1, -1]).expand(x.shape[1], 1, -1, -1)
        x = F.conv2d(padded, kernel, groups=x.shape[1])
    return x


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
