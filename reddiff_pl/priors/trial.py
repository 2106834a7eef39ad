"""Networks whose class nobody here knows, asked once before any work: what cannot run stops with its option."""

from __future__ import annotations

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import Prior

SIDE = 64  # pixels that suffice for a prior of images of any size


def try_out(prior: Prior) -> None:
    """Ask every prior in this one that has a `foreign` part about two images, at once and alone.

    Raises:
        ConfigError: it fails, gives something of another shape or not finite, or mixes the images of a batch.
    """
    for part in prior.modules():
        if isinstance(part, Prior) and (option := part.foreign()) is not None:
            _ask(part, option)


def _ask(prior: Prior, option: str) -> None:
    channels, height, width = prior.shape
    if prior.any_size:
        height, width = min(height, SIDE), min(width, SIDE)
    shape = (2, channels, height, width)
    t = torch.tensor([len(prior.abar) // 4, len(prior.abar) // 2])
    label = torch.zeros(2, dtype=torch.long) if prior.classes else None
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            both = prior.eps(x, t, label)
            first = prior.eps(x[:1], t[:1], None if label is None else label[:1])
    except ConfigError:
        raise
    except Exception as error:  # every network fails in its own way
        what = " ".join(str(error).split())[:200]
        raise ConfigError(f"{option}: fails on images {shape}: {type(error).__name__}: {what}") from error
    if not isinstance(both, Tensor) or tuple(both.shape) != shape:
        found = str(tuple(both.shape)) if isinstance(both, Tensor) else type(both).__name__
        raise ConfigError(f"{option}: gives {found} for images {shape}, expected the same shape")
    if not both.isfinite().all():
        raise ConfigError(f"{option}: gives NaN or infinite values for two images of noise")
    difference = float((both[:1] - first).norm() / first.norm().clamp(min=1e-6))
    if difference > 0.1:  # of one kind of arithmetic and another there may be some
        raise ConfigError(
            f"{option}: an image's result depends on the others of its batch (by {difference:.0%} for two images of "
            "noise); give a network that treats each alone, without batch statistics or randomness"
        )
