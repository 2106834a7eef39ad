"""Which images of a batch leave all range on the way, and at which step; known on the device, so that nothing waits."""

from __future__ import annotations

import torch
from torch import Tensor

from reddiff_pl.errors import SampleError

LIMIT = 1e4  # images lie in [-1, 1], latents within some tens; what is beyond does not come back


class Divergence:
    """Looks at a batch after each step; the sampler's callback.

    Attributes:
        first: the first step after which an image was not finite or beyond `LIMIT`, long (B,); 0: none.
        broken: whether what came of it is not finite, (B,).
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.first = torch.zeros(rows, dtype=torch.long, device=device)
        self.broken = torch.zeros(rows, dtype=torch.bool, device=device)

    def __call__(self, step: int, x: Tensor, x0_hat: Tensor) -> None:
        bad = ~(_largest(x) < LIMIT)  # NaN is not smaller
        self.first = torch.where(bad & (self.first == 0), step, self.first)

    def result(self, x: Tensor) -> Tensor:
        """The same result (B, ...), looked at."""
        self.broken |= ~_largest(x).isfinite()
        return x

    def found(self) -> dict[str, Tensor]:
        return {"first": self.first, "broken": self.broken}


def refuse_divergence(first: int, broken: bool) -> None:
    """Of one image, from `Divergence.found`.

    Raises:
        SampleError: it diverged, or is not finite.
    """
    if first:
        raise SampleError(
            f"diverged at step {first}: values are not finite or beyond {LIMIT:g}; smaller steps may help, if the "
            "measurement is in the operator's range"
        )
    if broken:
        raise SampleError("the result is not finite")


def _largest(x: Tensor) -> Tensor:
    """The largest magnitude of each image, (B,); NaN where it holds one."""
    return torch.linalg.vector_norm(x.detach().flatten(1), torch.inf, 1)
