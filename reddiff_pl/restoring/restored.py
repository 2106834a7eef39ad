"""What became of a batch, on its way from the device to its files; and how it is judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.devices.copies import Download
from reddiff_pl.errors import SampleError
from reddiff_pl.metrics import misfit, psnr, ssim
from reddiff_pl.restoring.divergence import refuse_divergence
from reddiff_pl.restoring.written import Form, unit


@dataclass
class Part:
    """Rows of a batch restored, on their way to the CPU.

    Attributes:
        places: where they are among the batch's samples.
        images: {what stands in a file's name between key and kind: a row of it an image}: the restored ones, by an
            empty name, uint8 or float32 (rows, C, H, W) as `as_written` makes them; and where asked for `start`,
            A_dagger(y), and `sample0`, ..., the restorations of one measurement.
        extras: {what a file is called after the key: a row of it an image}: `std.npy`, the standard deviation of each
            pixel over several restorations on the [0, 1] scale, float16 (rows, C, H, W); `steps.png`, the evolution,
            uint8 (rows, 1 or 3, 2H, kept * W), x above, x0_hat below.
        metrics: misfit, and psnr and ssim where there are references, (rows,).
        divergence: what `Divergence` found, (rows,).
    """

    places: list[int]
    images: Download
    extras: Download
    metrics: Download
    divergence: Download


class Restored:
    """What became of the samples of a batch.

    Args:
        parts: all of them.
        referenced: which samples have a reference.
        forms: how their images are written.
        refused: samples that have no part, and why.
    """

    def __init__(
        self,
        parts: list[Part],
        referenced: list[bool],
        forms: list[Form],
        refused: Mapping[int, str] | None = None,
    ) -> None:
        self.referenced, self.forms, self.refused = referenced, forms, refused or {}
        self._where = {place: (part, row) for part in parts for row, place in enumerate(part.places)}

    def images(self, i: int) -> dict[str, Tensor]:
        """The images of sample i, once they have arrived on the CPU; written in the form `forms[i]`."""
        if i in self.refused:
            return {}
        part, row = self._where[i]
        return {name: rows[row] for name, rows in part.images.wait().items()}

    def extras(self, i: int) -> dict[str, Tensor]:
        """The other files of sample i, once they have arrived on the CPU."""
        if i in self.refused:
            return {}
        part, row = self._where[i]
        return {name: rows[row] for name, rows in part.extras.wait().items()}

    def check(self, i: int) -> None:
        """
        Raises:
            SampleError: sample i could not be restored, diverged, or its result is not finite.
        """
        if i in self.refused:
            raise SampleError(self.refused[i])
        part, row = self._where[i]
        found = part.divergence.wait()
        refuse_divergence(int(found["first"][row]), bool(found["broken"][row]))

    def metrics(self, i: int) -> dict[str, float | None]:
        """The metrics of sample i, to 4 decimals; None where one is infinite, as the PSNR of equal images is."""
        part, row = self._where[i]
        values = {name: column[row].item() for name, column in part.metrics.wait().items()}
        return {
            name: None if not math.isfinite(value) else round(value, 4)
            for name, value in values.items()
            if name == "misfit" or self.referenced[i]
        }


def best(images: Sequence[Tensor], y: Tensor, physics: Physics) -> Tensor:
    """Of several restorations of each measurement that of the smallest misfit."""
    misfits = torch.stack([misfit(2 * unit(x) - 1, y, physics) for x in images])
    return torch.stack(list(images))[misfits.argmin(0), torch.arange(len(y), device=y.device)]


def judged(images: Tensor, y: Tensor, references: Tensor | None, physics: Physics) -> dict[str, Tensor]:
    """Metrics of the images as they are written, (B,) each; `physics` has their parameters bound."""
    x = images.float() / 127.5 - 1 if images.dtype == torch.uint8 else 2 * images - 1
    metrics = {"misfit": misfit(x, y, physics)}
    if references is not None:
        # a few images at a time: their maps in float64 need more memory than many a network
        pairs = list(zip(images.split(8), references.split(8), strict=True))
        metrics["psnr"] = torch.cat([psnr(*pair) for pair in pairs])
        metrics["ssim"] = torch.cat([ssim(*pair) for pair in pairs])
    return metrics
