"""A prior of one size on larger images: overlapping windows, whose eps are averaged.

eps = sum_k w_k eps_k / sum_k w_k, with w_k a Hann window that is smallest at the window's border, where the prior
sees least of its surroundings. The windows' places change with t, so that no line of the image is always near a border.

References:
    MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation | https://arxiv.org/abs/2302.08113
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import Prior, describe
from reddiff_pl.priors.latent import Latent


class Tiled(Prior):
    """Covers images of any size with windows of the prior's own size, one network evaluation each.

    The outermost windows lie at the image's borders, those between are shifted together by an offset that depends on t
    alone, not on the image or its batch. Images smaller than a window are padded by reflection and cropped.

    Args:
        prior: the prior whose `shape` is that of a window. Its `shape` stays the default of data.size.
        overlap: by how many pixels neighbouring windows overlap on average, at least; half as many at the least
            favourable shift. Default: a quarter of the window. More is smoother, and costs more windows: side L takes
            ceil((L - P) / (P - overlap)) + 1 windows of side P, and 3 at least where L > P.

    Raises:
        ConfigError: an overlap as large as the window.
    """

    shifts: Tensor
    window: Tensor

    def __init__(self, prior: Prior, overlap: int | None = None) -> None:
        super().__init__()
        _, height, width = prior.shape
        overlap = min(height, width) // 4 if overlap is None else overlap
        if not 0 <= overlap < min(height, width):
            raise ConfigError(
                f"model.prior.init_args.overlap: must be from 0 to below the window's {min(height, width)}, "
                f"got {overlap}"
            )
        if isinstance(prior, Latent):
            raise ConfigError("model.prior: put Tiled inside Latent; it is the latents that are tiled")
        self.prior, self.overlap = prior, overlap
        self.shape, self.classes, self.default_label = prior.shape, prior.classes, prior.default_label
        self.register_buffer("abar", prior.abar, persistent=False)
        # one shift for each t and direction, -1..1 of what is possible; drawn once for all, as part of the method
        generator = torch.Generator().manual_seed(0)
        shifts = 2 * torch.rand(len(prior.abar), 2, generator=generator, dtype=torch.float64) - 1
        self.register_buffer("shifts", shifts, persistent=False)
        hann = [((torch.arange(n) + 0.5) * math.pi / n).sin().square() for n in (height, width)]
        self.register_buffer("window", torch.outer(*hann)[..., None], persistent=False)

    def settings(self) -> str:
        return f"overlap {self.overlap} {describe(self.prior)}"

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        height, width = x_t.shape[-2:]
        if (height, width) == self.shape[1:]:
            return self.prior.eps(x_t, t, label)
        missing = [
            max(window - side, 0) for window, side in zip(self.shape[1:], (height, width), strict=True)
        ]
        x = x_t if not any(missing) else F.pad(x_t, (0, missing[1], 0, missing[0]), mode="reflect")
        x = x.permute(0, 2, 3, 1)
        batch = torch.arange(len(x), device=x.device)[:, None, None]
        total = torch.zeros_like(x)
        weight = torch.zeros_like(x[..., :1])
        window = self.window.to(x.dtype)
        # window by window, so that the network always sees the batch it was given, and memory stays that of one
        for top in self._starts(x.shape[1], 0, t):
            rows = (top[:, None] + torch.arange(self.shape[1], device=x.device))[:, :, None]
            for left in self._starts(x.shape[2], 1, t):
                columns = (left[:, None] + torch.arange(self.shape[2], device=x.device))[:, None, :]
                place = (batch, rows, columns)
                patch = x[place].permute(0, 3, 1, 2).contiguous()
                eps = self.prior.eps(patch, t, label).permute(0, 2, 3, 1)
                total[place] = total[place] + window * eps.to(x.dtype)
                weight[place] = weight[place] + window
        return (total / weight).permute(0, 3, 1, 2)[..., :height, :width].contiguous()

    def _starts(self, side: int, axis: int, t: Tensor) -> list[Tensor]:
        """First pixels of the windows along an axis, for each image by its t: long (B,) each."""
        length = self.shape[1 + axis]
        shift = self.shifts[t, axis]
        room = side - length
        if room == 0:
            return [torch.zeros_like(t)]
        # three at least: two alone would leave their border where it is
        count = max(math.ceil(room / (length - self.overlap)) + 1, 3)
        step = room / (count - 1)
        reach = min(step, length - self.overlap / 2 - step)
        places = [(k * step + reach * shift).round().long().clamp(0, room) for k in range(1, count - 1)]
        return [torch.zeros_like(t), *places, torch.full_like(t, room)]
