"""The singular value decomposition of convolutions in one dimension, borders padded with zeros.

H_ij = k[i - j + taps // 2] is a Toeplitz matrix. With J the reversal of the order J H is symmetric, whatever the
kernel, J H = Q D Q^T, so that H = (J Q sign D) |D| Q^T. Where the kernel is symmetric, J H falls into two matrices of
half the size, one of the even vectors and one of the odd ones.

References:
    Eigenvectors of symmetric centrosymmetric matrices | https://doi.org/10.1016/0024-3795(76)90101-4
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor

KEPT_BYTES = 1 << 30  # of decompositions, beside the two last used


class Axis(NamedTuple):
    """J H = Q D Q^T along one side of n pixels, for each kernel.

    Attributes:
        values: D, float64 (B, n).
        vectors: Q, (B, 1, n, n); or, of symmetric kernels, the even ones (B, 1, n - n // 2, n - n // 2) by their first
            half and middle, and the odd ones (B, 1, n // 2, n // 2) by their first half.
    """

    values: Tensor
    vectors: tuple[Tensor, ...]

    def to(self, dtype: torch.dtype) -> Axis:
        return Axis(self.values, tuple(q.to(dtype) for q in self.vectors))

    def coefficients(self, x: Tensor) -> Tensor:
        """Q^T along the last dimension."""
        if len(self.vectors) == 1:
            return x @ self.vectors[0]
        n = x.shape[-1]
        half = n // 2
        left, right = x[..., :half], x[..., n - half :].flip(-1)
        middle = x[..., half : n - half]
        even, odd = torch.cat([(left + right) / math.sqrt(2), middle], -1), (left - right) / math.sqrt(2)
        return torch.cat([even @ self.vectors[0], odd @ self.vectors[1]], -1)

    def image(self, c: Tensor) -> Tensor:
        """Q along the last dimension."""
        if len(self.vectors) == 1:
            return c @ self.vectors[0].mT
        half = c.shape[-1] // 2
        even, odd = c.tensor_split([c.shape[-1] - half], -1)
        even, odd = even @ self.vectors[0].mT, odd @ self.vectors[1].mT / math.sqrt(2)
        both = even[..., :half] / math.sqrt(2)
        return torch.cat([both + odd, even[..., half:], (both - odd).flip(-1)], -1)


_kept: OrderedDict[tuple, Axis] = OrderedDict()
_lock = threading.Lock()


def axis(kernel: Tensor, content: bytes, n: int, dtype: torch.dtype) -> Axis:
    """The decomposition for sides of n pixels, vectors in dtype; made once for a kernel, whoever asks.

    Args:
        kernel: (B, taps).
        content: its numbers.
    """
    key = (n, dtype, content, tuple(kernel.shape), kernel.device)
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    double = dtype == torch.float64
    found = decomposed(kernel.double(), n) if double else axis(kernel, content, n, torch.float64).to(dtype)
    with _lock:
        _kept[key] = found
        while len(_kept) > 4 and sum(q.nbytes for one in _kept.values() for q in one.vectors) > KEPT_BYTES:
            _kept.popitem(last=False)
    return found


def decomposed(kernel: Tensor, n: int) -> Axis:
    place = torch.arange(n, device=kernel.device)
    if not torch.equal(kernel, kernel.flip(-1)):
        values, vectors = torch.linalg.eigh(_entries(kernel, n - 1 - place[:, None] - place))
        return Axis(values, (vectors[:, None],))
    half = n // 2
    i, j = place[: n - half, None], place[: n - half]
    # with e_i = (d_i + d_{n-1-i}) / sqrt(2), o_i = (d_i - d_{n-1-i}) / sqrt(2), and d_i in the middle
    here, there = _entries(kernel, n - 1 - i - j), _entries(kernel, i - j)
    even, odd = here + there, (here - there)[:, :half, :half]
    if n % 2:
        even[:, half] /= math.sqrt(2)
        even[:, :, half] /= math.sqrt(2)
    found = [torch.linalg.eigh(part) for part in (even, odd)]
    return Axis(torch.cat([values for values, _ in found], -1), tuple(q[:, None] for _, q in found))


def _entries(kernel: Tensor, lag: Tensor) -> Tensor:
    """kernel[lag + taps // 2], 0 outside, for each kernel: (B, taps) and (...) -> (B, ...)."""
    taps = kernel.shape[-1]
    lag = lag + taps // 2
    return kernel[:, lag.clamp(0, taps - 1)] * ((lag >= 0) & (lag < taps))
