"""What a sampler returns of its iterates: the last, or a mean over the last ones; and when an image has arrived."""

from __future__ import annotations

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.physics.binding import measured
from reddiff_pl.priors.base import per_image


class Iterates:
    """Averages the last iterates of each image, and holds images still that fit their measurement to its noise.

    Stochastic steps leave an iterate some way off its optimum; a mean over some of them is nearer to it.

    Discrepancy principle: fitting a measurement better than its noise is fitting the noise. An image stands still from
    the first iterate on whose misfit has come down to tolerance * noise_std from above; the start, which may fit
    exactly, does not count.

    Args:
        steps: steps in all.
        average: share of the steps, counted from the end, whose iterates are averaged; 0: the last iterate.
        tolerance: see above; None: no image is held.
        physics: the operator, bound.
        like: images, (B, C, H, W); only their shape, type and device count.
        noise_std: standard deviation of each measurement's noise, (B,). An image without noise is never held.

    Attributes:
        held: which images stand still, bool (B,).
    """

    def __init__(
        self,
        steps: int,
        average: float,
        tolerance: float | None,
        physics: Physics,
        like: Tensor,
        noise_std: Tensor | None,
    ) -> None:
        self.first = steps - round(average * steps) if average else steps - 1
        self.total, self.count = torch.zeros_like(like), 0
        self.held = torch.zeros(len(like), dtype=torch.bool, device=like.device)
        self.threshold: Tensor | None = None
        if tolerance is not None and noise_std is not None:
            rows = measured(physics, like)[0].flatten(1).sum(1)
            self.threshold = rows * (tolerance * noise_std.to(like)).square()  # of the squared residual
            self._above = torch.zeros_like(self.held)

    def look(self, residual: Tensor) -> bool:
        """See whether images have arrived; returns whether all have.

        Args:
            residual: y - A(x) of the current iterate, (B, ...).
        """
        if self.threshold is None:
            return False
        above = residual.abs().square().flatten(1).sum(1) > self.threshold
        self.held |= ~above & self._above & (self.threshold > 0)
        self._above |= above
        return bool(self.held.all())

    def keep_held(self, new: Tensor, old: Tensor) -> Tensor:
        """The new iterate, but the old one where an image is held, (B, C, H, W)."""
        return new if self.threshold is None else torch.where(per_image(self.held, new), old, new)

    def add(self, x: Tensor, step: int) -> Tensor:
        """Count in the iterate after step `step` (from 0); returns what would be returned now, (B, C, H, W)."""
        if step < self.first:
            return x
        self.total += x
        self.count += 1
        mean = self.total / self.count
        return mean if self.threshold is None else torch.where(per_image(self.held, x), x, mean)
