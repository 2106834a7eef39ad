"""Full-reference measures that follow the eye more than pixel errors do, by the libraries that keep them.

Each takes images and references (B, C, H, W), C 1 or 3, uint8 or floats on the [0, 1] scale, and gives (B,). Libraries
are imported when they are needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reddiff_pl.metrics.scale import rgb, unit

HAARPSI_SIDE = 16  # pixels: its largest filter has 8, on an image that was halved
GMSD_SIDE = 3
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of MS-SSIM's scales, fine to coarse
SCALES = {5: 176, 3: 44}  # pixels that so many scales of MS-SSIM need


def haarpsi(image: Tensor, reference: Tensor) -> Tensor:
    """Haar wavelet-based perceptual similarity, 0 to 1, by deepinv, with the constants for natural images.

    References:
        A Haar Wavelet-Based Perceptual Similarity Index for Image Quality Assessment
        | https://arxiv.org/abs/1607.06140
    """
    from deepinv.loss.metric import HaarPSI

    measure = HaarPSI(C=30.0, alpha=4.2)  # deepinv's defaults are those for medical images
    a, b = (unit(v, torch.float32).clamp(0, 1) for v in (image, reference))
    # of two black images it is 0/0
    return torch.where((a == b).flatten(1).all(1), 1.0, measure(a, b).reshape(len(a)))


def gmsd(image: Tensor, reference: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation, 0 for equal images, by deepinv; mean over the channels.

    References:
        Gradient Magnitude Similarity Deviation: A Highly Efficient Perceptual Image Quality Index
        | https://arxiv.org/abs/1308.3052
    """
    from deepinv.loss.metric import GMSD

    return GMSD()(unit(image, torch.float32), unit(reference, torch.float32)).reshape(len(image))


def msssim(image: Tensor, reference: Tensor, scales: int = 5) -> Tensor:
    """Multi-scale structural similarity, by torchmetrics.

    With fewer than five scales the weights of the finest are taken, scaled to the sum of 1.

    Args:
        image: at least `SCALES[scales]` pixels a side.
        reference: the same.
        scales: 5, as published, or 3, for small images.

    References:
        Multiscale structural similarity for image quality assessment
        | https://doi.org/10.1109/ACSSC.2003.1292216
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    whole = sum(BETAS[:scales])
    betas = BETAS if scales == 5 else tuple(beta / whole for beta in BETAS[:scales])
    found = multiscale_structural_similarity_index_measure(
        unit(image, torch.float32),
        unit(reference, torch.float32),
        reduction="none",
        data_range=1.0,
        betas=betas,
    )
    return found.reshape(len(image))


def flip(image: Tensor, reference: Tensor) -> Tensor:
    """FLIP, the difference seen when two images alternate, 0 to 1, mean over the pixels, by flip-evaluator.

    A screen at .7 m, 67 pixels a degree. Images larger than 1 or below 0 are clipped.

    Raises:
        ImportError: flip-evaluator is not installed.

    References:
        FLIP: A Difference Evaluator for Alternating Images | https://doi.org/10.1145/3406183
    """
    from flip_evaluator import evaluate

    a, b = (
        rgb(unit(v, torch.float32).clamp(0, 1)).permute(0, 2, 3, 1).cpu().contiguous().numpy()
        for v in (image, reference)
    )
    found = [evaluate(y, x, "LDR", applyMagma=False)[1] for x, y in zip(a, b, strict=True)]
    return torch.tensor(found, dtype=torch.float64)
