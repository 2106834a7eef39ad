"""Where windows lie on an image, what they show of it, and how what is found in them becomes one image."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from reddiff_pl.devices.copies import send


def hann(n: int) -> Tensor:
    """Weights of a window's n pixels along a side, float64 (n,): smallest at its ends, never 0."""
    return ((torch.arange(n, dtype=torch.float64) + 0.5) * math.pi / n).sin().square()


def reflected(n: int, length: int) -> Tensor:
    """Places 0..n-1 continued to `length` by reflection about the last pixel and the first, as often as needed."""
    if n == 1:
        return torch.zeros(length, dtype=torch.long)
    places = torch.arange(length) % (2 * n - 2)
    return torch.where(places < n, places, 2 * n - 2 - places)


@functools.lru_cache(maxsize=256)
def _numbers(n: int, device: torch.device) -> Tensor:
    """0..n-1, kept: not to be written to."""
    return torch.arange(n, device=device)


class Axis:
    """Windows along one side of an image.

    Attributes:
        count: how many.
        apart: windows whose numbers differ by a multiple of it have no pixel in common.

    Args:
        side: of the image, not below that of the window.
        length: of the window.
        overlap: of neighbouring windows, see `Tiled`.
    """

    def __init__(self, side: int, length: int, overlap: int) -> None:
        self.side, self.length, self.room = side, length, side - length
        self.count = self.apart = 1
        if self.room:
            # three at least: two alone would leave their border where it is
            self.count = max(math.ceil(self.room / (length - overlap)) + 1, 3)
            self.step = self.room / (self.count - 1)
            self.reach = min(self.step, length - overlap / 2 - self.step)
            self.apart = min(math.ceil((length + 1 + self.reach) / self.step), self.count)

    def starts(self, shift: Tensor) -> Tensor:
        """First pixels of all windows of each image, long (B, count); shift: -1..1 of what is possible, (B,)."""
        if not self.room:
            return torch.zeros_like(shift, dtype=torch.long)[:, None]
        k = _numbers(self.count - 1, shift.device)[1:].to(shift.dtype)
        between = (k * self.step + (self.reach * shift)[:, None]).round().long().clamp(0, self.room)
        first = torch.zeros_like(between[:, :1])
        return torch.cat([first, between, first + self.room], 1)

    def weights(self, starts: Tensor, hann: Tensor) -> Tensor:
        """Weight of each pixel of each window, such that all windows' weights of a pixel sum to 1, (B, count, length).

        Args:
            starts: as `starts` gives them.
            hann: a window's own weights, (length,).
        """
        pixel = _numbers(self.side, starts.device) - starts[..., None]  # (B, count, side)
        with_ends = torch.nn.functional.pad(hann, (1, 1))
        total = with_ends[(pixel + 1).clamp(0, self.length + 1)].sum(1)
        rows = starts[..., None] + _numbers(self.length, starts.device)
        return hann / total[:, None].expand(-1, self.count, -1).gather(2, rows)


@functools.lru_cache(maxsize=64)
def _order(batch: int, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[Tensor, list[int]]:
    """All windows of B images: their image, row and column number, long (3, n); and the ends of runs without overlap.

    Args:
        batch: B.
        rows: count and apart of the axis.
        columns: likewise.
    """
    runs = []
    images = torch.arange(batch)
    for i in range(rows[1]):
        for j in range(columns[1]):
            numbers = (images, torch.arange(i, rows[0], rows[1]), torch.arange(j, columns[0], columns[1]))
            runs.append(torch.stack([grid.flatten() for grid in torch.meshgrid(*numbers, indexing="ij")]))
    ends = torch.tensor([run.shape[1] for run in runs]).cumsum(0).tolist()
    return torch.cat(runs, 1), ends


class Cover:
    """Images of one size under windows.

    Args:
        x_t: (B, C, H, W).
        t: (B,).
        label: (B,), or None.
        axes: of the rows, and of the columns.
        shifts: of the windows, (B, 2), -1..1 of what is possible.
        hanns: weights of a window's pixels by its length.
    """

    def __init__(
        self,
        x_t: Tensor,
        t: Tensor,
        label: Tensor | None,
        axes: tuple[Axis, Axis],
        shifts: Tensor,
        hanns: dict[int, Tensor],
    ) -> None:
        self.t, self.label = t, label
        self.height, self.width = x_t.shape[-2:]
        for dim, axis in zip((-2, -1), axes, strict=True):
            if x_t.shape[dim] < axis.side:
                x_t = x_t.index_select(dim, send(reflected(x_t.shape[dim], axis.side), x_t.device))
        self.x = x_t.permute(0, 2, 3, 1)
        order, self.ends = _order(len(x_t), (axes[0].count, axes[0].apart), (axes[1].count, axes[1].apart))
        self.image, *numbers = send(order, x_t.device)
        # of all windows at once: images of many sizes are many covers, and each operation a launch on the device
        places, weights = [], []
        for axis, shift, number in zip(axes, shifts.unbind(1), numbers, strict=True):
            starts = axis.starts(shift)
            weight = axis.weights(starts, send(hanns[axis.length], x_t.device)).to(x_t.dtype)
            pixels = _numbers(axis.length, x_t.device)
            places.append(starts[self.image, number][:, None] + pixels)
            weights.append(weight[self.image, number])
        self.place = self.image[:, None, None], places[0][:, :, None], places[1][:, None, :]
        self.weights = weights[0][:, :, None, None], weights[1][:, None, :, None]
        self.total = torch.zeros_like(self.x, memory_format=torch.contiguous_format)

    def __len__(self) -> int:
        return len(self.image)

    def _place(self, start: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        image, rows, columns = self.place
        return image[start:end], rows[start:end], columns[start:end]

    def windows(self, start: int, end: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """What these windows show, (n, C, P, Q), their t (n,) and labels (n,)."""
        image = self.image[start:end]
        x = self.x[self._place(start, end)].permute(0, 3, 1, 2).contiguous()
        return x, self.t[image], None if self.label is None else self.label[image]

    def put(self, start: int, end: int, eps: Tensor) -> None:
        """Add what was found in these windows, (n, C, P, Q)."""
        rows, columns = (weight[start:end] for weight in self.weights)
        found = rows * columns * eps.permute(0, 2, 3, 1).to(self.total.dtype)
        first = start
        for stop in [*(e for e in self.ends if start < e < end), end]:
            # no two of these windows overlap: what is added to a pixel is added in one order, on every device
            place = self._place(first, stop)
            self.total[place] = self.total[place] + found[first - start : stop - start]
            first = stop

    def eps(self) -> Tensor:
        """Of the images, (B, C, H, W)."""
        return self.total.permute(0, 3, 1, 2)[..., : self.height, : self.width].contiguous()


class Whole:
    """Images that are windows themselves; as `Cover`."""

    def __init__(self, x_t: Tensor, t: Tensor, label: Tensor | None) -> None:
        self.x, self.t, self.label = x_t, t, label
        self.found: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.x)

    def windows(self, start: int, end: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """What these windows show, (n, C, P, Q), their t (n,) and labels (n,)."""
        rows = slice(start, end)
        return self.x[rows], self.t[rows], None if self.label is None else self.label[rows]

    def put(self, start: int, end: int, eps: Tensor) -> None:
        """Keep what was found, in order."""
        self.found.append(eps)

    def eps(self) -> Tensor:
        """Of the images, (B, C, H, W)."""
        return self.found[0] if len(self.found) == 1 else torch.cat(self.found)
