"""How natural an image looks, without a reference: NIQE, by deepinv, fitted on the project's own training photos.

Its numbers are not those of the published model, whose file would have to be downloaded and whose photos are others':
tables call it so, and show the references' own beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from reddiff_pl.metrics.scale import luminance, unit

NIQE_SIDE = 192  # pixels: four patches of 96, fewer have no covariance
FITTED = Path(__file__).parents[1] / "assets" / "niqe" / "train_photos.safetensors"


def niqe(images: Tensor) -> Tensor:
    """Distance of an image's statistics to those of photos, (B,); lower is more natural.

    Args:
        images: (B, C, H, W), C 1 or 3, uint8 or floats on the [0, 1] scale; at least `NIQE_SIDE` pixels a side.

    References:
        Making a "Completely Blind" Image Quality Analyzer | https://doi.org/10.1109/LSP.2012.2227726
    """
    from deepinv.loss.metric import NIQE

    mean, covariance = _fitted()
    measure = NIQE(weights_path=None, device=images.device)
    measure.mu_p, measure.cov_p = mean.to(images.device), covariance.to(images.device)
    # one at a time: a flat image has no patches to judge, and must not take the others along
    return torch.stack([_one(measure, image) for image in _grey(images)])


def _one(measure: torch.nn.Module, image: Tensor) -> Tensor:
    try:
        return measure(image[None, None]).reshape(())
    except torch.linalg.LinAlgError:  # not one whole patch in it: its statistics are NaN
        return torch.tensor(torch.nan, device=image.device)


def fit(photos: Iterable[Tensor]) -> dict[str, Tensor]:
    """Statistics of photos, {mean: (36,), covariance: (36, 36)}, of the sharpest patches of each.

    Args:
        photos: (C, H, W) each, C 1 or 3, as `niqe` takes them.
    """
    from deepinv.loss.metric import NIQE

    measure = NIQE(weights_path=None)
    mean, covariance = measure.create_weights([_grey(photo[None]) for photo in photos])
    return {"mean": mean, "covariance": covariance}


def _grey(images: Tensor) -> Tensor:
    """Luminance from 0 to 255, float32 (B, H, W), in which the measure's constants are given."""
    return (255 * luminance(unit(images))).float()


@functools.lru_cache(maxsize=1)
def _fitted() -> tuple[Tensor, Tensor]:
    stored = load_file(FITTED)
    return stored["mean"], stored["covariance"]
