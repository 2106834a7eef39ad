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
from reddiff_pl.physics.cosines import cosine_basis
from reddiff_pl.physics.pointwise import straight_through
from reddiff_pl.physics.sizes import SameSize

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

# rows and columns of pixels that make one of a colour plane
_SAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:4:0": (2, 1), "4:2:0": (2, 2), "4:1:1": (1, 4)}

# EXIF orientation -> the flips that, after an exchange of rows and columns from 5 on, turn what is stored upright
_FLIPS = {1: (), 2: (-1,), 3: (-2, -1), 4: (-2,), 5: (), 6: (-1,), 7: (-2, -1), 8: (-2,)}


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

    JPEG files serve as measurements: `KEY.y.jpg`, with the quantisation tables, the reduction of colours and the
    orientation that the file has.

    Args:
        quality: 1 to 100, on the scale of the Independent JPEG Group. Two numbers: drawn between them for each
            image when images are degraded. Samples may bring their tables (`KEY.tables.npy`, (2, 8, 8), luminance and
            chrominance, or (3, 8, 8), a table for each of the two colour planes).
        chroma: resolution of the colours: "4:4:4" (full), "4:2:2" (half the columns), "4:4:0" (half the rows),
            "4:2:0" (half of both), "4:1:1" (a quarter of the columns).

    Two further parameters speak by their shape alone, so that images of one batch have them in common: `sampling`,
    (v, h), how many pixels make one of a colour plane; `turn`, (k,), the file's EXIF orientation k.

    References:
        Information technology, digital compression and coding of continuous-tone still images (T.81)
        | https://www.w3.org/Graphics/JPEG/itu-t81.pdf
    """

    complete = True
    rounds = True
    tables: Tensor
    sampling: Tensor
    turn: Tensor

    def __init__(
        self,
        quality: int | tuple[int, int] = 10,
        chroma: Literal["4:2:0", "4:4:4", "4:2:2", "4:4:0", "4:1:1"] = "4:2:0",
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
        self.quality = (low, high)
        self.register_buffer("tables", quantization_tables(low)[None], persistent=False)
        self.register_buffer("sampling", torch.zeros(1, *_SAMPLINGS[chroma]), persistent=False)
        self.register_buffer("turn", torch.zeros(1, 1), persistent=False)

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Operator parameters of one image: {"tables": (2, 8, 8)}, or none where quality is one number."""
        low, high = self.quality
        if low == high:
            return {}
        return {"tables": quantization_tables(int(torch.randint(low, high + 1, (), generator=generator)))}

    def parameter_shapes(self, shape: tuple[int, int, int]) -> dict[str, list[tuple[int, ...]]]:
        return {
            "tables": [(2, 8, 8), (3, 8, 8)],
            "sampling": list(_SAMPLINGS.values()),
            "turn": [(k,) for k in _FLIPS],
        }

    def parameters_of_file(self, content: bytes) -> dict[str, Tensor]:
        """The parameters that a measurement's own file tells: tables, sampling and turn; none if it is not JPEG.

        Raises:
            SampleError: its colours are not stored as luminance and two reduced planes.
        """
        with Image.open(io.BytesIO(content)) as picture:
            if not isinstance(picture, JpegImagePlugin.JpegImageFile):
                return {}
            planes = picture.layer  # (name, columns, rows, number of its table) of each
            quantization, orientation = picture.quantization, picture.getexif().get(0x0112, 1)
            transformed = picture.info.get("adobe_transform", 1) == 1
        turn = torch.zeros(orientation if orientation in _FLIPS else 1)
        tables = [torch.tensor(quantization[plane[3]]).float().reshape(8, 8) for plane in planes]
        if len(planes) == 1:
            return {"tables": torch.stack(tables * 2), "turn": turn}
        across, down = ([plane[i] for plane in planes] for i in (1, 2))
        reduction = (down[0] // down[-1], across[0] // across[-1])
        if (
            len(planes) != 3
            or not transformed
            or reduction not in _SAMPLINGS.values()
            or [across[0] / reduction[1], down[0] / reduction[0]] != [across[1], down[1]]
            or (across[1], down[1]) != (across[2], down[2])
        ):
            raise SampleError(
                "the JPEG file does not store its colours as luminance and two planes reduced by 1, 2 or 4; store it "
                "as another kind of picture, and take another operator than JPEG"
            )
        if torch.equal(tables[1], tables[2]):
            tables.pop()
        return {"tables": torch.stack(tables), "sampling": torch.zeros(reduction), "turn": turn}

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise ConfigError(f"model.physics: JPEG takes 1 or 3 channels, the images have {x.shape[1]}")
        orientation = self.turn.shape[1]
        levels = _eight_bit(127.5 * (_laid(x, orientation) + 1))
        return _upright(2 * (self._file(levels) / 255) - 1, orientation)

    def _file(self, levels: Tensor) -> Tensor:
        """What a file gives of levels 0..255, (B, C, H, W) as it stores them."""
        tables = self.tables.to(levels.dtype)
        if levels.shape[1] == 1:
            return self._code(levels, tables[:, :1])
        height, width = levels.shape[-2:]
        rows, columns = self.sampling.shape[-2:]
        ycc = _mix(levels, _TO_YCC)
        luminance = self._code(_eight_bit(ycc[:, :1]), tables[:, :1])
        # the last pixels are repeated: to the right before colours are reduced, downwards before and after
        padding = (0, -width % (8 * columns), 0, -height % rows)
        chrominance = _reduced(F.pad(_eight_bit(ycc[:, 1:] + 128), padding, mode="replicate"), rows, columns)
        chrominance = self._code(chrominance, tables[:, 1:])[..., : -(-width // columns)]
        chrominance = _enlarged(chrominance, rows, columns)[..., :height, :width]
        return _eight_bit(_mix(torch.cat([luminance, chrominance - 128], dim=1), _TO_RGB))

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y.clone()

    def stand_in(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """What y says of each pixel, and the standard deviation left open beside y's noise, both (B, C, H, W)."""
        return y.clone(), torch.zeros_like(y)

    def _code(self, plane: Tensor, table: Tensor) -> Tensor:
        """Levels 0..255 (B, C, H, W) through the DCT and its rounding, tables (B or 1, 1 or C, 8, 8)."""
        height, width = plane.shape[-2:]
        padded = F.pad(plane - 128, (0, -width % 8, 0, -height % 8), mode="replicate")
        blocks = padded.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)
        basis = (8**0.5 * cosine_basis(8, device=plane.device)).to(plane.dtype)
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


def _reduced(plane: Tensor, rows: int, columns: int) -> Tensor:
    """Means of rows x columns pixels, rounded as libjpeg does it."""
    if rows == columns == 1:
        return plane
    mean = F.avg_pool2d(plane, (rows, columns))
    if columns == 2:  # down in even columns and up in odd ones, where there are two ways
        odd = torch.arange(mean.shape[-1], device=plane.device) % 2
        bias = (rows - 1 + odd) / (rows * columns)
    else:
        bias = torch.full((1,), 0.5, device=plane.device)
    return straight_through(lambda v: (v + bias.to(v)).floor(), mean)


def _enlarged(plane: Tensor, rows: int, columns: int) -> Tensor:
    """The way back: 3/4 of the near pixel and 1/4 of the far one, rounded as libjpeg does it.

    Planes of one or two columns, and those reduced by 4, are repeated.
    """
    if rows == columns == 1:
        return plane
    if max(rows, columns) > 2 or (columns == 2 and plane.shape[-1] <= 2):
        return plane.repeat_interleave(rows, -2).repeat_interleave(columns, -1)
    large = F.interpolate(plane, scale_factor=(rows, columns), mode="bilinear", align_corners=False)
    if columns == 1:
        bias = (1 + torch.arange(large.shape[-2], device=plane.device)[:, None] % 2) / 4
    else:
        odd = torch.arange(large.shape[-1], device=plane.device) % 2
        bias = (8 - odd) / 16 if rows == 2 else (1 + odd) / 4
    return straight_through(lambda v: (v + bias.to(v)).floor(), large)


def _laid(x: Tensor, orientation: int) -> Tensor:
    """An upright image as a file of this EXIF orientation stores it."""
    x = x.flip(_FLIPS[orientation]) if _FLIPS[orientation] else x
    return x.mT if orientation >= 5 else x


def _upright(x: Tensor, orientation: int) -> Tensor:
    """The way back."""
    x = x.mT if orientation >= 5 else x
    return (x.flip(_FLIPS[orientation]) if _FLIPS[orientation] else x).contiguous()
