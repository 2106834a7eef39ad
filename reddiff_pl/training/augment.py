"""Changes of crops that make few photos last longer: other colours, other orientations.

A network that sees the same photos too often learns them instead of images: its held-out error rises again, at large t
first. A share of the crops stays as it is, so that the prior remains one of natural photos.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a batch of crops, each crop's its own, on the device of the crops.

    Colours: exposure (the image, in [0, 1], times a factor), contrast (its distance from the crop's mean grey) and
    saturation (its distance from the pixel's own grey) are each multiplied by a factor between 1 / (1 + color_jitter)
    and 1 + color_jitter, log-uniform, then cut off at black and white, as a camera does it.

    Orientation: upside down, or on its left or right side (where crops are mirrored at random, all eight are reached).

    Args:
        color_jitter: largest change of exposure, contrast and saturation; 0: none, and no random number is drawn.
        color_share: share of the crops whose colours are changed.
        turn_share: share of the crops that are turned, by one, two or three quarters; 0: none, as above.
    """

    color_jitter: float = 0.0
    color_share: float = 0.5
    turn_share: float = 0.0

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The crops changed.

        Args:
            x: (B, C, S, S) in [-1, 1].
            generator: of the crops' device.
        """
        if self.turn_share:
            x = turned(x, _chosen(x, self.turn_share, generator) * _quarters(x, generator))
        if self.color_jitter:
            u = torch.rand(3, len(x), 1, 1, 1, generator=generator, device=x.device)
            exposure, contrast, saturation = (1 + self.color_jitter) ** (2 * u - 1)
            chosen = _chosen(x, self.color_share, generator)[:, None, None, None]
            x = torch.where(chosen, recolored(x, exposure, contrast, saturation), x)
        return x.contiguous(memory_format=torch.channels_last)  # as the crops are, whatever was done


def recolored(x: Tensor, exposure: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Images in [-1, 1], (B, C, H, W), with other colours; the factors broadcast against them."""
    x = (x + 1) / 2 * exposure
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + contrast * (x - mean)
    grey = x.mean(1, keepdim=True)
    x = grey + saturation * (x - grey)
    return x.clamp(0, 1) * 2 - 1


def turned(x: Tensor, quarters: Tensor) -> Tensor:
    """Square images (B, C, S, S), each turned by so many quarters, long (B,) in 0..3."""
    quarters = quarters[:, None, None, None]
    x = torch.where(quarters >= 2, x.flip(2, 3), x)
    return torch.where(quarters % 2 == 1, x.transpose(2, 3).flip(2), x)


def _chosen(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    return torch.rand(len(x), generator=generator, device=x.device) < share


def _quarters(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(1, 4, (len(x),), generator=generator, device=x.device)
