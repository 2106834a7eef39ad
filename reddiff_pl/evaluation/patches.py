"""Features of the parts of images, so that some fifty photos give thousands of samples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reddiff_pl.evaluation.networks import EfficientNetLite0
from reddiff_pl.metrics.scale import rgb, unit

PATCHES = "patches"  # their family
BLOCKS = (
    5  # of the network that are run: a step of the map is 8 pixels, features are textures rather than things
)
SIDE = 224  # pixels that the shorter side is enlarged to
ROWS = 28  # of places that are taken of a map, and columns
SOME = 8  # rows and columns of places that kernel distances take
PATCHES_SIDE = 16


class Patches(nn.Module):
    """Statistics of EfficientNet-Lite0's features at the places of its map after the fifth block, photo by photo.

    Images are enlarged, bicubic, until their shorter side has 224 pixels; larger ones stay as they are. Of the map 28
    rows and 28 columns are taken, evenly spread, all of them of a square image of up to 224 pixels: every photo gives
    784 patches, whatever its size.

    Args:
        network: its convolutions are used, not copied.
    """

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        whole = network.network
        self.stem, self.norm, self.activation = whole._conv_stem, whole._bn0, whole._swish
        self.blocks = nn.ModuleList(list(whole._blocks)[:BLOCKS])

    def refuses(self, image: Tensor) -> str | None:
        """Why an image (..., C, H, W) has no patches; None where it has."""
        if image.shape[-3] not in (1, 3):
            return f"{image.shape[-3]} channels"
        return f"smaller than {PATCHES_SIDE} pixels" if min(image.shape[-2:]) < PATCHES_SIDE else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Statistics of images (B, C, H, W), uint8 or floats on the [0, 1] scale, with d features a patch.

        Returns:
            `moments`, float64 (B, d + d^2): mean over an image's patches of a feature, and of a product of two;
            `some`, float32 (B, 64, d): the features of 64 patches, evenly spread.
        """
        maps = torch.cat([self.map(part) for part in images.split(8)])
        values = maps.flatten(2).transpose(1, 2).double()
        second = values.transpose(1, 2) @ values / values.shape[1]
        some = _spread(maps, SOME).flatten(2).transpose(1, 2)
        return {"moments": torch.cat([values.mean(1), second.flatten(1)], 1), "some": some.contiguous()}

    def map(self, images: Tensor) -> Tensor:
        """The features' map, (B, d, 28, 28)."""
        x = unit(rgb(images), torch.float32).clamp(0, 1)
        height, width = x.shape[-2:]
        if (factor := SIDE / min(height, width)) > 1:
            size = [max(SIDE, round(n * factor)) for n in (height, width)]
            x = F.interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 1)
        x = self.activation(self.norm(self.stem(2 * x - 1)))
        for block in self.blocks:
            x = block(x)
        return _spread(x, ROWS)


def _spread(maps: Tensor, most: int) -> Tensor:
    """Evenly spread rows and columns of maps (B, d, h, w), each `most`."""
    rows, columns = (
        ((torch.arange(most, device=maps.device) + 0.5) * n / most).long() for n in maps.shape[-2:]
    )
    return maps[..., rows[:, None], columns]
