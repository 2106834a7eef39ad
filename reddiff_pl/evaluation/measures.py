"""The measures of single images that `evaluate` knows, and which images each can judge."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from reddiff_pl.evaluation.weights import Missing
from reddiff_pl.metrics import niqe, perceptual, psnr, spectrum, ssim

Columns = dict[str, Tensor]
COLOURS = (1, 3)


@dataclass(frozen=True)
class Measure:
    """A family of columns.

    Attributes:
        columns: gives them, {column: (B,)}, of images and references (B, C, H, W).
        side: pixels that an image needs.
        channels: that it takes; None: any.
        reference: whether it compares with a reference. One that does not judges the references, too.
        version: changes when its numbers do.
    """

    columns: Callable[[Tensor, Tensor], Columns]
    side: int = 1
    channels: Sequence[int] | None = COLOURS
    reference: bool = True
    version: str = "1"

    def refuses(self, image: Tensor) -> str | None:
        """Why an image (..., C, H, W) cannot be judged; None where it can."""
        channels, height, width = image.shape[-3:]
        if self.channels is not None and channels not in self.channels:
            return f"{channels} channels"
        return f"smaller than {self.side} pixels" if min(height, width) < self.side else None


def _msssim(images: Tensor, references: Tensor) -> Columns:
    """Five scales where they fit; fewer are another measure, and called so."""
    side = min(images.shape[-2:])
    scales = next(n for n, needed in perceptual.SCALES.items() if side >= needed)
    name = "msssim" if scales == 5 else f"msssim-{scales}"
    return {name: perceptual.msssim(images, references, scales)}


def _spectrum(images: Tensor, references: Tensor) -> Columns:
    found = spectrum.spectrum(images, references)
    return {f"spectrum-{k + 1}" if k else "spectrum": found[:, k] for k in range(found.shape[1])}


MEASURES = {
    "psnr": Measure(lambda a, b: {"psnr": psnr(a, b)}, channels=None),
    "ssim": Measure(lambda a, b: {"ssim": ssim(a, b)}, channels=None),
    "msssim": Measure(_msssim, min(perceptual.SCALES.values()), None),
    "haarpsi": Measure(lambda a, b: {"haarpsi": perceptual.haarpsi(a, b)}, perceptual.HAARPSI_SIDE),
    "gmsd": Measure(lambda a, b: {"gmsd": perceptual.gmsd(a, b)}, perceptual.GMSD_SIDE, None),
    "flip": Measure(lambda a, b: {"flip": perceptual.flip(a, b)}),
    "spectrum": Measure(_spectrum, spectrum.SPECTRUM_SIDE),
    "niqe": Measure(
        lambda a, _: {"niqe": niqe.niqe(a)},
        niqe.NIQE_SIDE,
        reference=False,
        version=hashlib.sha256(niqe.FITTED.read_bytes()).hexdigest()[:16],
    ),
}


def check(name: str) -> None:
    """Whether a measure can be had here.

    Raises:
        Missing: its package is not installed.
    """
    if name == "flip" and importlib.util.find_spec("flip_evaluator") is None:
        raise Missing("no flip-evaluator: pip install flip-evaluator")
