"""Bicubic super-resolution."""

from __future__ import annotations

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.separable import Separable
from reddiff_pl.physics.sizes import Reduction

MATRICES_KEPT = 8


class BicubicSuperResolution(Reduction, Separable):
    """Reduction by a bicubic filter (a = -0.5) of 4 `factor` taps, borders mirrored (d c b a | a b c d).

    Away from the borders it is Pillow's BICUBIC. A_dagger is the pseudo-inverse; singular values under `cut`
    count as zero in it, which at factors up to 8 none is.

    Args:
        factor: f, how many pixels of the image, a side, make one of the measurement; even. Of sides that it does
            not divide, the last pixel of the measurement lies nearer to the border, or beyond it.
        cut: smallest singular value that the pseudo-inverse divides by.

    References:
        Cubic convolution interpolation for digital image processing
        | https://doi.org/10.1109/TASSP.1981.1163711
    """

    weights: Tensor

    def __init__(self, factor: int = 4, cut: float = 3e-2) -> None:
        super().__init__()
        if factor < 2 or factor % 2:
            raise ConfigError(f"model.physics.init_args.factor: must be even and at least 2, got {factor}")
        if not cut > 0:
            raise ConfigError(f"model.physics.init_args.cut: must be positive, got {cut}")
        self.factor, self.cut = factor, cut
        weights = _cubic((torch.arange(4 * factor) - 2 * factor + 0.5).double() / factor)
        self.register_buffer("weights", weights / weights.sum(), persistent=False)
        self._made: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}

    def matrices(self, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        rows = self._matrix(height, dtype)
        return rows, rows if width == height else self._matrix(width, dtype)

    def _matrix(self, n: int, dtype: torch.dtype) -> Tensor:
        """The reduction of n pixels, (1, ceil(n / f), n); made once."""
        where = (n, dtype, self.weights.device)
        if where not in self._made:
            if len(self._made) >= MATRICES_KEPT:  # images come in many sizes
                self._made.pop(next(iter(self._made)))
            f = self.factor
            # the middle of block i lies between pixels f i + f/2 - 1 and f i + f/2
            count = -(-n // f)
            start = f * torch.arange(count)[:, None] + f // 2 - 2 * f
            place = (start + torch.arange(4 * f)[None, :]) % (2 * n)
            place = torch.where(place < n, place, 2 * n - 1 - place).to(self.weights.device)
            matrix = self.weights.new_zeros(count, n, dtype=torch.float64)
            matrix.scatter_add_(1, place, self.weights.double().expand(count, -1).contiguous())
            self._made[where] = matrix.to(dtype)[None]
        return self._made[where]


def _cubic(t: Tensor, a: float = -0.5) -> Tensor:
    """Keys' cubic kernel, zero from |t| = 2 on."""
    t = t.abs()
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * (t**3 - 5 * t**2 + 8 * t - 4)
    return torch.where(t <= 1, near, torch.where(t < 2, far, 0))
