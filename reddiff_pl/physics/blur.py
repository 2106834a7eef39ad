"""Separable blur with a truncated pseudo-inverse in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.separable import Separable, convolution_matrix


def gaussian_kernel(sigma: float, taps: int) -> Tensor:
    """`taps` samples of a Gaussian of standard deviation `sigma` pixels, summing to 1, float32 (taps,)."""
    offsets = torch.arange(taps, dtype=torch.float64) - taps // 2
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    return (kernel / kernel.sum()).float()


class GaussianDeblurring(Separable):
    """Blur along rows and columns by one kernel, borders padded with zeros (grey in [-1, 1]).

    With H the n x n matrix of the 1-D blur, A(X) = H X H^T. H = U S V^T gives the pseudo-inverse
    A_dagger(Y) = V [(U^T Y U) / (s_i s_j)] V^T, where products of singular values under `cut` count as zero.

    Args:
        sigma: standard deviation of the Gaussian in pixels. Two numbers: drawn uniformly between them for each
            image when images are degraded. Samples may bring their own kernel (`KEY.kernel.npy`, (taps,)).
        taps: length of the kernel, odd.
        cut: smallest product of singular values that the pseudo-inverse divides by.
    """

    kernel: Tensor

    def __init__(self, sigma: float | tuple[float, float] = 3.0, taps: int = 5, cut: float = 3e-2) -> None:
        super().__init__()
        low, high = sigma if isinstance(sigma, (tuple, list)) else (sigma, sigma)
        if not 0 < low <= high:
            raise ConfigError(f"model.physics.init_args.sigma: must be positive and in order, got {sigma}")
        if taps < 1 or taps % 2 == 0:
            raise ConfigError(f"model.physics.init_args.taps: must be odd, got {taps}")
        if not cut > 0:
            raise ConfigError(f"model.physics.init_args.cut: must be positive, got {cut}")
        self.sigma, self.taps, self.cut = (low, high), taps, cut
        self.register_buffer("kernel", gaussian_kernel(low, taps)[None], persistent=False)

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Operator parameters of one image: {"kernel": (taps,)}, or none where sigma is one number."""
        low, high = self.sigma
        if low == high:
            return {}
        sigma = low + (high - low) * float(torch.rand((), generator=generator))
        return {"kernel": gaussian_kernel(sigma, self.taps)}

    def parameter_shapes(self, shape: tuple[int, int, int]) -> dict[str, list[tuple[int, ...]]]:
        return {"kernel": [(self.taps,)]}

    def matrices(self, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        kernel = self.kernel.to(dtype)
        rows = convolution_matrix(kernel, height)
        return rows, rows if width == height else convolution_matrix(kernel, width)
