"""JPEG compression, as libjpeg does it."""

from __future__ import annotations

import io
from typing import Any, Literal

import torch
import torch.nn.functional as F
from deepinv.physics import Physics
from PIL import Image, JpegImagePlugin
from torch import Tensor

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.physics.pointwise import straight_through
from reddiff_pl.physics.sizes import SameSize
from reddiff_pl.physics.superresolution import cosine_basis

# the tables of Annex K, for luminance and chrominance
_LUMINANCE = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
_CHROMINANCE = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_TO_YCC = [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]]
_TO_RGB = [[1.0, 0.0, 1.402], [1.0, -0.344136286, -0.714136286], [1.0, 1.772, 0.0]]

_SAMPLINGS = {"4:4:4": 0, "4:2:0": 2}


def quantization_tables(quality: int) -> Tensor:
    """The tables of a quality, 1 to 100, as the Independent JPEG Group scales them; float32 (2, 8, 8)."""
    chrominance = torch.full((8, 8), 99)
    chrominance[:4, :4] = torch.tensor(_CHROMINANCE)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = torch.stack([torch.tensor(_LUMINANCE), chrominance])
    return ((tables * scale + 50) // 100).clamp(1, 255).float()


class JPEG(SameSize, Physics):
    """What is left of an 8-bit image after JPEG: colour transform, chroma reduction, 8x8 DCT, rounding, and back.

    A(x) = D(round(E(x) / table) table), decoded to 8 bit, with the roundings of libjpeg in its default settings.
    A_dagger(y) = y. Roundings and clippings have the derivative 1, so the gradient is that of the linear part: the
    identity, but for the chroma reduction.

    JPEG files serve as measurements: `KEY.y.jpg`, with the quantisation tables that the file was made with.

    Args:
        quality: 1 to 100, on the scale of the Independent JPEG Group. Two numbers: drawn between them for each
            image when images are degraded. Samples may bring their tables (`KEY.tables.npy`, (2, 8, 8)).
        chroma: resolution of the colours, "4:2:0" (half) or "4:4:4" (full).

    References:
        Information technology, digital compression and coding of continuous-tone still images (T.81)
        | https://www.w3.org/Graphics/JPEG/itu-t81.pdf
    """

    complete = True
    tables: Tensor

    def __init__(
        self, quality: int | tuple[int, int] = 10, chroma: Literal["4:2:0", "4:4:4"] = "4:2:0"
    ) -> None:
        super().__init__()
        low, high = quality if isinstance(quality, (tuple, list)) else (quality, quality)
        if not 1 <= low <= high <= 100:
            raise ConfigError(
                f"model.physics.init_args.quality: must be in 1..100 and in order, got {quality}"
            )
        if chroma not in _SAMPLINGS:
            raise ConfigError(
                f"model.physics.init_args.chroma: must be one of {', '.join(_SAMPLINGS)}, got {chroma}"
            )
        self.quality, self.chroma = (low, high), chroma
        self.register_buffer("tables", quantization_tables(low)[None], persistent=False)

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Operator parameters of one image: {"tables": (2, 8, 8)}, or none where quality is one number."""
        low, high = self.quality
        if low == high:
            return {}
        return {"tables": quantization_tables(int(torch.randint(low, high + 1, (), generator=generator)))}

    def parameter_shapes(self, shape: tuple[int, int, int]) -> dict[str, list[tuple[int, ...]]]:
        return {"tables": [(2, 8, 8)]}

    def parameters_of_file(self, content: bytes) -> dict[str, Tensor]:
        """The parameters that a measurement's own file tells: {"tables": (2, 8, 8)}, none if it is not JPEG.

        Raises:
            SampleError: its chroma reduction is not the operator's.
        """
        with Image.open(io.BytesIO(content)) as picture:
            if not isinstance(picture, JpegImagePlugin.JpegImageFile):
                return {}
            tables = [picture.quantization[i] for i in sorted(picture.quantization)]
            sampling = JpegImagePlugin.get_sampling(picture) if picture.mode == "RGB" else None
        if sampling not in (None, _SAMPLINGS[self.chroma]):
            found = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}.get(sampling, "unusual")
            raise SampleError(
                f"the JPEG file has {found} chroma, but model.physics.init_args.chroma is {self.chroma}"
            )
        pair = [tables[0], tables[-1]]  # one table serves for both where there is one only
        return {"tables": torch.tensor(pair, dtype=torch.float32).reshape(2, 8, 8)}

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise ConfigError(f"model.physics: JPEG takes 1 or 3 channels, the images have {x.shape[1]}")
        tables = self.tables.to(x.dtype)
        levels = _eight_bit(127.5 * (x + 1))
        if x.shape[1] == 1:
            return 2 * (self._code(levels, tables[:, :1]) / 255) - 1
        ycc = _mix(levels, _TO_YCC)
        luminance = self._code(_eight_bit(ycc[:, :1]), tables[:, :1])
        chrominance = _eight_bit(ycc[:, 1:] + 128)
        if self.chroma == "4:2:0":
            chrominance = self._code(_halve(chrominance), tables[:, 1:])
            chrominance = _double(chrominance)[..., : x.shape[-2], : x.shape[-1]]
        else:
            chrominance = self._code(chrominance, tables[:, 1:])
        rgb = _mix(torch.cat([luminance, chrominance - 128], dim=1), _TO_RGB)
        return 2 * (_eight_bit(rgb) / 255) - 1

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y.clone()

    def _code(self, plane: Tensor, table: Tensor) -> Tensor:
        """Levels 0..255 (B, C, H, W) through the DCT and its rounding, tables (B or 1, 1, 8, 8)."""
        height, width = plane.shape[-2:]
        padded = F.pad(plane - 128, (0, -width % 8, 0, -height % 8), mode="replicate")
        blocks = padded.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)
        basis = (8**0.5 * cosine_basis(8)).to(plane)
        step = 8 * table[:, :, None, None]
        # libjpeg's integer transforms keep quarters after the first pass; without these roundings one coefficient
        # in 500 falls into another step
        rows = _round(blocks @ basis.mT, 4)
        steps = straight_through(_away_from_zero, _round(basis @ rows) / step)
        columns = _round(basis.mT @ (steps * step / 8), 4)
        blocks = _round(columns @ basis / 8).transpose(-3, -2)
        plane = blocks.flatten(-4, -3).flatten(-2, -1)[..., :height, :width]
        return _eight_bit(plane + 128)


def _eight_bit(levels: Tensor) -> Tensor:
    return straight_through(lambda v: v.round().clamp(0, 255), levels)


def _round(x: Tensor, parts: int = 1) -> Tensor:
    """To multiples of 1 / parts, halves up."""
    return straight_through(lambda v: (v * parts + 0.5).floor() / parts, x)


def _away_from_zero(x: Tensor) -> Tensor:
    """To integers, halves up in magnitude."""
    return x.sign() * (x.abs() + 0.5).floor()


def _mix(x: Tensor, matrix: list[list[float]]) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", torch.tensor(matrix, dtype=x.dtype, device=x.device), x)


def _halve(plane: Tensor) -> Tensor:
    """Means of 2x2 pixels; libjpeg rounds .5 down in even columns and up in odd ones."""
    height, width = plane.shape[-2:]
    mean = F.avg_pool2d(F.pad(plane, (0, width % 2, 0, height % 2), mode="replicate"), 2)
    bias = 0.25 + 0.25 * (torch.arange(mean.shape[-1], device=plane.device) % 2)
    return straight_through(lambda v: (v + bias.to(v)).floor(), mean)


def _double(plane: Tensor) -> Tensor:
    """Linear interpolation, 3/4 of the near pixel and 1/4 of the far one, rounded as libjpeg does."""
    double = F.interpolate(plane, scale_factor=2, mode="bilinear", align_corners=False)
    bias = (8 - torch.arange(double.shape[-1], device=plane.device) % 2) / 16
    return straight_through(lambda v: (v + bias.to(v)).floor(), double)
