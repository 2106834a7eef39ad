"""How much detail of each size an image has, beside its reference."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from reddiff_pl.metrics.scale import luminance

OCTAVES = 4  # from half a cycle a pixel down
SPECTRUM_SIDE = 32  # pixels: the fourth octave then has frequencies of its own


def spectrum(image: Tensor, reference: Tensor) -> Tensor:
    """Power of an image over that of its reference by octave, in dB, (B, OCTAVES), the finest detail first.

    Column k holds the radial frequencies above 2^-(k+2) and up to 2^-(k+1) cycles a pixel: the first one a quarter to
    a half. Of the luminance without its mean, under a Hann window. Not finite where one of the two has no power.

    Args:
        image: (B, C, H, W), C 1 or 3, uint8 or floats on the [0, 1] scale; at least `SPECTRUM_SIDE` pixels a side.
        reference: the same.

    References:
        The use of fast Fourier transform for the estimation of power spectra
        | https://doi.org/10.1109/TAU.1967.1161901
    """
    ours, theirs = (_power(luminance(v)) for v in (image, reference))
    return 10 * (ours / theirs).log10()


def _power(values: Tensor) -> Tensor:
    """Power in each octave, (B, OCTAVES), of (B, H, W)."""
    window, rings = _rings(values.shape[-2], values.shape[-1], values.device)
    values = (values - values.mean((1, 2), keepdim=True)) * window
    power = torch.fft.fft2(values).abs().square().flatten(1)
    return power @ rings


@functools.lru_cache(maxsize=8)
def _rings(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The window, (H, W), and which frequency belongs to which octave, (H W, OCTAVES)."""
    rows, columns = (torch.hann_window(n, dtype=torch.float64, device=device) for n in (height, width))
    down, across = (torch.fft.fftfreq(n, dtype=torch.float64, device=device) for n in (height, width))
    radius = (down[:, None] ** 2 + across[None, :] ** 2).sqrt().flatten()
    octaves = [(radius > 2.0 ** -(k + 2)) & (radius <= 2.0 ** -(k + 1)) for k in range(OCTAVES)]
    return rows[:, None] * columns, torch.stack(octaves, 1).double()
