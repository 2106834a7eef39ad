"""A prior of one size on images of any: overlapping windows, whose eps are averaged.

eps = sum_k w_k eps_k / sum_k w_k, with w_k a Hann window that is smallest at the window's border, where the prior
sees least of its surroundings. The windows' places change with t, so that no line of the image is always near a border.

References:
    MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation | https://arxiv.org/abs/2302.08113
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import Prior, Question, describe
from reddiff_pl.priors.windows import Axis, Cover, Whole, hann

log = logging.getLogger(__name__)

# of all windows of one network evaluation: enough that a larger one would save little
PIXELS_AT_ONCE = {"cuda": 1 << 20, "cpu": 1 << 16}


def pixels_at_once(device: torch.device) -> int:
    """Of all images of one network evaluation on a device: more would save little, and take memory."""
    return PIXELS_AT_ONCE.get(device.type, PIXELS_AT_ONCE["cpu"])


class Tiled(Prior):
    """Covers images of any size with windows of the prior's own size.

    The outermost windows lie at the image's borders, those between are shifted together by an offset that depends on t
    alone, not on the image or its batch. Images smaller than a window are padded by reflection and cropped.

    The windows of all images together are evaluated so many at a time, whatever the images' sizes.

    Args:
        prior: the prior whose `shape` is that of a window. Its `shape` stays the default of data.size.
        overlap: by how many pixels neighbouring windows overlap on average, at least; half as many at the least
            favourable shift. Default: a quarter of the window. More is smoother, and costs more windows: side L takes
            ceil((L - P) / (P - overlap)) + 1 windows of side P, and 3 at least where L > P.

    Attributes:
        usual: how many images usually come at a time; so many of the prior's own size are evaluated together.
        at_once: how many windows are evaluated together, at most; lowered where memory runs out.

    Raises:
        ConfigError: an overlap as large as the window.
    """

    shifts: Tensor
    any_size = True

    def __init__(self, prior: Prior, overlap: int | None = None) -> None:
        super().__init__()
        _, height, width = prior.shape
        overlap = min(height, width) // 4 if overlap is None else overlap
        if not 0 <= overlap < min(height, width):
            raise ConfigError(
                f"model.prior.init_args.overlap: must be from 0 to below the window's {min(height, width)}, "
                f"got {overlap}"
            )
        if prior.latent:
            raise ConfigError("model.prior: put Tiled inside Latent; it is the latents that are tiled")
        self.prior, self.overlap = prior, overlap
        self.shape, self.classes, self.default_label = prior.shape, prior.classes, prior.default_label
        self.usual, self.at_once = 1, 1 << 30
        self.register_buffer("abar", prior.abar, persistent=False)
        # one shift for each t and direction, -1..1 of what is possible; drawn once for all, as part of the method
        generator = torch.Generator().manual_seed(0)
        shifts = 2 * torch.rand(len(prior.abar), 2, generator=generator, dtype=torch.float64) - 1
        self.register_buffer("shifts", shifts, persistent=False)
        self._hann = {n: hann(n) for n in (height, width)}

    def settings(self) -> str:
        return f"overlap {self.overlap} {describe(self.prior)}"

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.eps_many([(x_t, t, label)])[0]

    def eps_many(self, questions: Sequence[Question]) -> list[Tensor]:
        parts = [self._part(*question) for question in questions]
        like, total = questions[0][0], sum(len(part) for part in parts)
        differentiated = torch.is_grad_enabled() and any(x_t.requires_grad for x_t, _, _ in questions)
        done, most, sizes, before = 0, 0, list[int](), self.at_once
        while done < total:
            if not sizes:
                most = self._most(total, like)
                sizes = self.prior.calls(total - done, most, like)
            rows = sizes.pop(0)
            pieces = _between(parts, done, done + rows)
            try:
                eps = self._evaluate(pieces, rows, differentiated and total > rows)
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise
                self.at_once, sizes = rows // 2, []
            else:
                lengths = [end - start for _, start, end in pieces]
                for (part, start, end), values in zip(pieces, eps.split(lengths), strict=True):
                    part.put(start, end, values)
                done += sum(lengths)
                continue
            # outside the handler, which keeps the failed call's tensors alive
            torch.cuda.empty_cache()
        if self.at_once != before:
            log.warning("out of memory: from here on %d windows at a time", self.at_once)
        return [part.eps() for part in parts]

    def calls(self, images: int, most: int, like: Tensor) -> list[int]:
        return self.prior.calls(images, most, like)

    def release(self) -> None:
        self.prior.release()

    def _most(self, windows: int, like: Tensor) -> int:
        """How many of so many windows are evaluated together, at most."""
        most = self.usual
        if windows > most:
            most = max(pixels_at_once(like.device) // (self.shape[1] * self.shape[2]), most)
        return min(most, self.at_once)

    def _part(self, x_t: Tensor, t: Tensor, label: Tensor | None) -> Cover | Whole:
        if tuple(x_t.shape[-2:]) == self.shape[1:]:
            return Whole(x_t, t, label)
        axes = [
            Axis(max(side, length), length, self.overlap)
            for side, length in zip(x_t.shape[-2:], self.shape[1:], strict=True)
        ]
        shifts = self.shifts.to(t.device)[t]
        return Cover(x_t, t, label, (axes[0], axes[1]), shifts, self._hann)

    def _evaluate(self, pieces: list[tuple[Cover | Whole, int, int]], rows: int, again: bool) -> Tensor:
        """eps of these windows, (sum of the pieces, C, P, Q), evaluated as `rows` of them.

        Args:
            again: evaluate them again for their gradient instead of keeping what it needs.
        """
        shown = [part.windows(start, end) for part, start, end in pieces]
        x, t = torch.cat([x for x, _, _ in shown]), torch.cat([t for _, t, _ in shown])
        labels = [label for _, _, label in shown if label is not None]
        label = torch.cat(labels) if len(labels) == len(shown) else None
        missing = rows - len(x)  # of a shape that is captured
        if missing:
            x, t = _filled(x, missing), _filled(t, missing)
            label = None if label is None else _filled(label, missing)
        eps = (
            checkpoint(self.prior.eps, x, t, label, use_reentrant=False)
            if again
            else self.prior.eps(x, t, label)
        )
        return eps[: len(eps) - missing]


def _filled(rows: Tensor, missing: int) -> Tensor:
    """Rows, and the first one again as often as some are missing."""
    return torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])])


def _between(parts: Sequence[Cover | Whole], start: int, end: int) -> list[tuple[Cover | Whole, int, int]]:
    """The windows from `start` to `end` of all, as pieces of the parts."""
    pieces, first = [], 0
    for part in parts:
        low, high = max(start - first, 0), min(end - first, len(part))
        if low < high:
            pieces.append((part, low, high))
        first += len(part)
    return pieces


def windowed(prior: Prior) -> Prior:
    """A prior on images of any size: itself where it takes them, else seen in windows."""
    return prior if prior.any_size else Tiled(prior)
