"""Classical phase retrieval: relaxed averaged alternating reflections between the magnitudes and the image's frame.

With P_M the projection onto the measured magnitudes and P_S the one onto images within [-1, 1] that are zero outside of
their frame, R = 2 P - 1,

    u <- beta / 2 (R_S R_M + 1) u + (1 - beta) P_M u

wanders until it finds a point of both sets; error reduction u <- P_S P_M u then settles there.

Each channel is retrieved by itself, from several random starts. The channels of a photo resemble each other: the one
that fits best becomes a further start of the others, and says which of x, -x and their half turns the others are.

References:
    Relaxed averaged alternating reflections for diffraction imaging | https://doi.org/10.1088/0266-5611/21/1/004
    Phase retrieval algorithms: a comparison | https://doi.org/10.1364/AO.21.002758
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

BETA = 0.9  # of .7 to .95 the one that ends nearest to photos
SETTLING = 10  # error reductions at the end


class Frames:
    """The two sets between which an image is sought.

    Args:
        y: centred magnitudes, (B, C, H + 2 pad, W + 2 pad).
        pad: zeros on each side, in pixels.
    """

    def __init__(self, y: Tensor, pad: int) -> None:
        self.pad, self.sides = pad, (y.shape[-2], y.shape[-1])
        half = y.shape[-1] // 2 + 1
        self.magnitudes = torch.fft.ifftshift(y, dim=(-2, -1))[..., :half].contiguous()
        inside = torch.ones(y.shape[-2] - 2 * pad, y.shape[-1] - 2 * pad, device=y.device, dtype=y.dtype)
        self.inside = self.embed(inside)

    def embed(self, x: Tensor) -> Tensor:
        """Images (..., H, W) in their frame of zeros, the centre at the corner."""
        return torch.fft.ifftshift(F.pad(x, (self.pad,) * 4), dim=(-2, -1))

    def crop(self, u: Tensor) -> Tensor:
        """What lies inside the frame, the way back from `embed`."""
        height, width = self.sides
        u = torch.fft.fftshift(u, dim=(-2, -1))
        return u[..., self.pad : height - self.pad, self.pad : width - self.pad].contiguous()

    def fitted(self, u: Tensor) -> Tensor:
        """P_M u."""
        spectrum = torch.fft.rfft2(u, norm="ortho")
        size = spectrum.abs()
        phase = torch.where(size > 0, spectrum / torch.where(size > 0, size, 1), 1)
        return torch.fft.irfft2(self.magnitudes * phase, s=self.sides, norm="ortho")

    def framed(self, u: Tensor) -> Tensor:
        """P_S u."""
        return u.clamp(-1, 1) * self.inside

    def misfit(self, u: Tensor) -> Tensor:
        """Root mean square error of the magnitudes of each channel, (..., B, C)."""
        size = torch.fft.rfft2(u, norm="ortho").abs()
        return (size - self.magnitudes).square().mean((-2, -1)).sqrt()

    def relax(self, u: Tensor, iterations: int) -> Tensor:
        """So many relaxed reflections from u, then a few error reductions."""
        for _ in range(iterations):
            fitted = self.fitted(u)
            reflected = 2 * fitted - u
            u = BETA / 2 * (2 * self.framed(reflected) - reflected + u) + (1 - BETA) * fitted
        for _ in range(SETTLING):
            u = self.framed(self.fitted(u))
        return u


def retrieve(
    y: Tensor, pad: int, draw: Callable[[int], Tensor], starts: int = 8, iterations: int = 300
) -> Tensor:
    """Images whose magnitudes are near y, up to a common sign and half turn, (B, C, H, W).

    Args:
        y: centred magnitudes, (B, C, H + 2 pad, W + 2 pad).
        pad: zeros on each side, in pixels.
        draw: standard normal images number k, (B, C, H, W).
        starts: random starts of each channel.
        iterations: relaxed reflections from each.
    """
    frames = Frames(y, pad)
    best = misfit = None
    for k in range(starts):
        u = frames.relax(frames.embed(draw(k) / 2), iterations)
        best, misfit = (u, frames.misfit(u)) if best is None else _better(frames, best, misfit, u)
    assert best is not None and misfit is not None
    scale = frames.magnitudes.square().mean((-2, -1)).sqrt().clamp(min=1e-12)
    for _ in range(2):
        lead = _lead(best, misfit / scale).expand_as(best)
        best, misfit = _better(frames, best, misfit, frames.relax(lead, iterations // 2))
    x = frames.crop(best)
    lead = _lead(x, misfit / scale)
    forms = torch.stack(equivalents(x))
    choice = (forms - lead).square().mean((-2, -1)).argmin(0)
    return forms.gather(0, choice[None, ..., None, None].expand(1, *x.shape))[0]


def equivalents(x: Tensor) -> list[Tensor]:
    """The images with the same measurement, (B, C, H, W) each: x, its negative, and both turned by 180 degrees."""
    turned = x.flip((-2, -1))
    return [x, -x, turned, -turned]


def _better(frames: Frames, old: Tensor, misfit: Tensor | None, new: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel the one that fits better, and its misfit."""
    assert misfit is not None
    its = frames.misfit(new)
    return torch.where((its < misfit)[..., None, None], new, old), torch.minimum(its, misfit)


def _lead(x: Tensor, misfit: Tensor) -> Tensor:
    """The channel of each image that fits best, (B, 1, ...)."""
    return x.gather(1, misfit.argmin(1)[:, None, None, None].expand(-1, 1, *x.shape[-2:]))
