"""Blur along rows and columns by one short kernel, with a truncated pseudo-inverse in closed form, at any size."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.decomposable import Decomposable
from reddiff_pl.physics.toeplitz import Axis, axis


class SeparableBlur(Decomposable):
    """A(X) = H X K^T for each channel, H_ij = K_ij = k[i - j + taps // 2]: convolution, zeros around.

    A itself is a sum of shifted images. With J the reversal of the order, J H is symmetric, whatever the kernel: J H =
    Q D Q^T, so that H = (J Q sign D) |D| Q^T is its singular value decomposition. It is made in float64, once for each
    kernel and side. That of a symmetric kernel falls into two of half the size: of the even and of the odd vectors.

    A subclass says what k is.
    """

    complete = True

    def __init__(self) -> None:
        super().__init__()
        self._known: tuple[Tensor, int, bytes] | None = None

    def weights(self) -> Tensor:
        """k, (B or 1, taps), taps odd."""
        raise NotImplementedError

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        kernel = self.weights().to(x.dtype)
        return _convolved(_convolved(x, kernel, -1), kernel, -2)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        kernel = self.weights().to(y.dtype).flip(-1)
        return _convolved(_convolved(y, kernel, -1), kernel, -2)

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        # in float64: float32 singular vectors leave errors of 1e-6 / cut
        return super().A_dagger(y.double()).to(y.dtype)

    def singular_values(self, like: Tensor) -> Tensor:
        rows, columns = self._axes(like)
        product = (rows.values[:, None, :, None] * columns.values[:, None, None, :]).abs()
        # what rounding leaves of a zero
        floor = 1e-14 * max(like.shape[-2:]) * product.amax((-2, -1), keepdim=True)
        return torch.where(product > floor, product, 0).to(like.dtype)

    def V(self, coefficients: Tensor) -> Tensor:
        rows, columns = self._axes(coefficients)
        return rows.image(columns.image(coefficients).mT).mT

    def V_adjoint(self, x: Tensor) -> Tensor:
        rows, columns = self._axes(x)
        return rows.coefficients(columns.coefficients(x).mT).mT

    def U(self, coefficients: Tensor) -> Tensor:
        return self.V(self._signed(coefficients)).flip(-1, -2)

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self._signed(self.V_adjoint(y.flip(-1, -2)))

    def _signed(self, coefficients: Tensor) -> Tensor:
        """Times the signs of D, 0 where the singular value is."""
        rows, columns = self._axes(coefficients)
        signs = rows.values.sign()[:, None, :, None] * columns.values.sign()[:, None, None, :]
        return coefficients * signs.to(coefficients.dtype) * (self.singular_values(coefficients) > 0)

    def _axes(self, like: Tensor) -> tuple[Axis, Axis]:
        kernel, content = self.weights(), self._content()
        rows, columns = (axis(kernel, content, n, like.dtype) for n in like.shape[-2:])
        return rows, columns

    def _content(self) -> bytes:
        """The kernel's numbers; asked of the device only after they may have changed."""
        kernel = self.weights()
        version = -1 if kernel.is_inference() else kernel._version
        if self._known is None or self._known[0] is not kernel or version != self._known[1] or version < 0:
            self._known = kernel, version, kernel.detach().double().cpu().numpy().tobytes()
        return self._known[2]


def _convolved(x: Tensor, kernel: Tensor, dim: int) -> Tensor:
    """Along a dimension of images (B, C, H, W), kernels (B or 1, taps), zeros around."""
    taps, n = kernel.shape[-1], x.shape[dim]
    reach = min(taps // 2, n - 1)  # beyond it nothing is seen
    x = F.pad(x, (reach, reach) if dim == -1 else (0, 0, reach, reach))
    weights = kernel[:, :, None, None, None].unbind(1)
    y = x.narrow(dim, 0, n) * weights[taps // 2 + reach]
    for lag in range(1, 2 * reach + 1):
        y = y.addcmul(x.narrow(dim, lag, n), weights[taps // 2 + reach - lag])
    return y


def gaussian_kernel(sigma: float, taps: int) -> Tensor:
    """`taps` samples of a Gaussian of standard deviation `sigma` pixels, summing to 1, float32 (taps,)."""
    offsets = torch.arange(taps, dtype=torch.float64) - taps // 2
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    return (kernel / kernel.sum()).float()


class GaussianDeblurring(SeparableBlur):
    """Blur along rows and columns by one kernel, borders padded with zeros (grey in [-1, 1]).

    A_dagger is the pseudo-inverse in which products of singular values under `cut` count as zero.

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

    def weights(self) -> Tensor:
        return self.kernel
