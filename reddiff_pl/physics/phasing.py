"""Classical phase retrieval: relaxed reflections between the measured magnitudes and smooth images in their frame.

With P_M the projection onto the measured magnitudes and P_S the one onto images within [-1, 1] that are zero outside of
their frame,

    u <- u + beta (P_S(2 P_M u - u) - P_M u)

wanders until it finds a point of both sets; error reduction u <- P_S P_M u then settles there. From random images alone
it seldom finds photos: with a quarter of zeros on each side there are 1.1 equations an unknown. So P_S also takes total
variation away, less and less of it until there is none: the flat parts and edges of a photo come first. The channels
share their edges: what they differ by is smoother still, and a channel whose half turn or negative is nearer to the one
that fits best is exchanged for it on the way, as nothing else would bring them together.

References:
    Searching with iterated maps | https://doi.org/10.1073/pnas.0606359104
    Benchmark problems for phase retrieval | https://doi.org/10.1137/18M1170364
    Phase retrieval algorithms: a comparison | https://doi.org/10.1364/AO.21.002758
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from reddiff_pl.physics.smoothing import Smoothing

BETA = 0.4  # of .1 to 1 the one that most often ends at photos; relaxed averaged reflections (.75, .9) far less often
SMOOTHING = 0.35  # the first weight of total variation; it falls to 0 in a straight line
AGAIN = 0.6  # of that, what the second pass begins with
SETTLING = 10  # error reductions at the end
TURNS = 40  # how often the channels are brought into one orientation


class Frames:
    """The two sets between which an image is sought, of (..., B, C, H + 2 pad, W + 2 pad).

    Args:
        y: centred magnitudes, (B, C, H + 2 pad, W + 2 pad).
        pad: zeros on each side, in pixels.
    """

    def __init__(self, y: Tensor, pad: int) -> None:
        self.sides = (y.shape[-2], y.shape[-1])
        self.height, self.width = y.shape[-2] - 2 * pad, y.shape[-1] - 2 * pad
        half = y.shape[-1] // 2 + 1
        self.magnitudes = torch.fft.ifftshift(y, dim=(-2, -1))[..., :half].contiguous()

    def embed(self, x: Tensor) -> Tensor:
        """Images (..., H, W) in a corner of their frame: where they are the magnitudes do not tell."""
        return F.pad(x, (0, self.sides[1] - self.width, 0, self.sides[0] - self.height))

    def crop(self, u: Tensor) -> Tensor:
        """What lies inside the frame, the way back from `embed`."""
        return u[..., : self.height, : self.width].contiguous()

    def fitted(self, u: Tensor) -> Tensor:
        """P_M u."""
        spectrum = torch.fft.rfft2(u, norm="ortho") + 1e-12  # what is 0 has a phase, too
        return torch.fft.irfft2(self.magnitudes / spectrum.abs() * spectrum, s=self.sides, norm="ortho")

    def framed(self, u: Tensor) -> Tensor:
        """P_S u."""
        return self.embed(self.crop(u).clamp(-1, 1))

    def misfit(self, u: Tensor) -> Tensor:
        """Root mean square error of the magnitudes of each channel over their size, (..., B, C)."""
        size = torch.fft.rfft2(u, norm="ortho").abs()
        scale = self.magnitudes.square().mean((-2, -1)).sqrt().clamp(min=1e-12)
        return (size - self.magnitudes).square().mean((-2, -1)).sqrt() / scale

    def relax(self, u: Tensor, weights: Sequence[float]) -> Tensor:
        """Relaxed reflections from u with these weights of total variation, then a few error reductions."""
        smoothing = Smoothing()
        every = max(len(weights) // TURNS, 1)
        for i, weight in enumerate(weights):
            fitted = self.fitted(u)
            image = smoothing(self.crop(2 * fitted - u), weight) if weight else self.crop(2 * fitted - u)
            u = u - BETA * fitted
            u[..., : self.height, : self.width] += BETA * image.clamp(-1, 1)
            if weight and i % every == every - 1:
                u = self.turned(u, smoothing)
        for _ in range(SETTLING):
            u = self.framed(self.fitted(u))
        return u

    def turned(self, u: Tensor, smoothing: Smoothing | None = None) -> Tensor:
        """u with of each channel, its negative and half turns the one with edges most like the best channel's."""
        x = self.framed(u)
        lead, x = self.crop(_lead(x, self.misfit(x))), self.crop(x)
        upright, upset = _alike(x, lead), _alike(x.flip((-2, -1)), lead)
        turn = (upset.abs() > upright.abs())[..., None, None]
        sign = torch.where(torch.where(turn[..., 0, 0], upset, upright) < 0, -1.0, 1.0).to(u)[..., None, None]
        if smoothing is not None:
            smoothing.turn(turn, sign)
        return sign * torch.where(turn, u.flip((-2, -1)).roll((self.height, self.width), (-2, -1)), u)


def retrieve(
    y: Tensor, pad: int, draw: Callable[[int], Tensor], starts: int = 2, iterations: int = 900
) -> Tensor:
    """Images whose magnitudes are near y, up to a common sign and half turn, (B, C, H, W).

    Of the random starts the one that fits best goes on; in a second pass all its channels begin at the one of them that
    fits best.

    Args:
        y: centred magnitudes, (B, C, H + 2 pad, W + 2 pad).
        pad: zeros on each side, in pixels.
        draw: standard normal images number k, (B, 1 or C, H, W).
        starts: random starts, all at once: their memory is so many times a batch's.
        iterations: relaxed reflections from each; two thirds as many, of the best, follow.
    """
    frames = Frames(y, pad)
    begin = torch.stack([draw(k) for k in range(starts)]) / 2
    u = frames.relax(frames.embed(begin.expand(-1, *y.shape[:2], -1, -1)), _falling(SMOOTHING, iterations))
    misfit = frames.misfit(u)
    choice = misfit.square().mean(-1).argmin(0)[None, :, None].expand(1, *misfit.shape[1:])
    u, misfit = u.gather(0, choice[..., None, None].expand(1, *u.shape[1:]))[0], misfit.gather(0, choice)[0]
    again = frames.relax(_lead(u, misfit).expand_as(u), _falling(AGAIN * SMOOTHING, 2 * iterations // 3))
    u = torch.where((frames.misfit(again) < misfit)[..., None, None], again, u)
    return frames.crop(frames.turned(u))


def equivalents(x: Tensor) -> list[Tensor]:
    """The images with the same measurement, (B, C, H, W) each: x, its negative, and both turned by 180 degrees."""
    turned = x.flip((-2, -1))
    return [x, -x, turned, -turned]


def _falling(weight: float, iterations: int) -> list[float]:
    """From this weight to 0 in a straight line."""
    return [weight * (1 - i / iterations) for i in range(iterations)]


def _alike(x: Tensor, lead: Tensor) -> Tensor:
    """How far the edges of each channel are those of the lead: means and slopes are alike upside down, too."""
    rows, columns = ((x.diff(dim=dim) * lead.diff(dim=dim)).sum((-2, -1)) for dim in (-2, -1))
    return rows + columns


def _lead(x: Tensor, misfit: Tensor) -> Tensor:
    """The channel of each image that fits best, (..., B, 1, H, W)."""
    choice = misfit.argmin(-1)[..., None, None, None]
    return x.gather(-3, choice.expand(*x.shape[:-3], 1, *x.shape[-2:]))
