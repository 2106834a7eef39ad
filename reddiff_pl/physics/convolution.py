"""Blur by any kernel, one an image, with a regularised inverse by FFT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.physics.decomposable import Decomposable
from reddiff_pl.physics.kernels import Kernel
from reddiff_pl.physics.sizes import ANY


class KernelDeblurring(Decomposable):
    """Convolution by a kernel that goes around the borders: what leaves on the right comes in on the left.

    Fourier transforms make it a product, y = F^-1 (k F x), and A_dagger the Wiener filter
    F^-1 (conj(k) F y / (|k|^2 + regularization)): regularised, not exact.

    With W the Hartley transform (real, orthogonal, its own inverse), the decomposition is V = W, S = |k|,
    U = (F^-1 (k / |k|) F) W.

    Args:
        kernel: how kernels are drawn when images are degraded. Samples that bring their own (`KEY.kernel.npy`,
            (rows, columns), any numbers up to the image's; its middle is at rows // 2, columns // 2) use that.
            Without a generator every sample must bring one.
        taps: side of the drawn kernels in pixels, odd, at most the image's.
        regularization: what is added to |k|^2; |k| is 1 for the mean of the image.
    """

    complete = True
    kernel: Tensor | None

    def __init__(self, kernel: Kernel | None = None, taps: int = 15, regularization: float = 1e-2) -> None:
        super().__init__()
        if taps < 1 or taps % 2 == 0:
            raise ConfigError(f"model.physics.init_args.taps: must be odd, got {taps}")
        if not regularization > 0:
            raise ConfigError(
                f"model.physics.init_args.regularization: must be positive, got {regularization}"
            )
        self.kernel_generator, self.taps, self.regularization = kernel, taps, regularization
        self.register_buffer("kernel", None, persistent=False)

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Operator parameters of one image: {"kernel": (taps, taps)}."""
        if self.kernel_generator is None:
            raise SampleError(
                "no kernel: the sample has no KEY.kernel.npy and model.physics.init_args.kernel draws none"
            )
        return {"kernel": self.kernel_generator.draw(self.taps, generator)}

    def parameter_shapes(self, shape: tuple[int, int, int]) -> dict[str, list[tuple[int, ...]]]:
        return {"kernel": [(self.taps, self.taps), (ANY, ANY)]}

    def refuses(self, shape: tuple[int, int, int]) -> str | None:
        """Why images (C, H, W) are too small for the kernel at hand, or for those that are drawn."""
        _, height, width = shape
        rows, columns = (self.taps, self.taps) if self.kernel is None else self.kernel.shape[-2:]
        if rows <= height and columns <= width:
            return None
        option = "model.physics.init_args.taps: " if rows == columns == self.taps else ""
        return f"{option}a kernel of {columns}x{rows} pixels is larger than a {width}x{height} image"

    def _transfer(self, like: Tensor) -> Tensor:
        """k, the kernel's Fourier transform, complex (B, 1, H, W)."""
        if self.kernel is None:
            raise ConfigError(
                "model.physics: KernelDeblurring has no kernel; bind one with bind(physics, {'kernel': ...})"
            )
        height, width = like.shape[-2:]
        if reason := self.refuses((1, height, width)):
            raise ConfigError(reason)
        rows, columns = self.kernel.shape[-2:]
        whole = like.new_zeros(len(self.kernel), 1, height, width)
        whole[..., :rows, :columns] = self.kernel[:, None].to(like.dtype)
        return torch.fft.fft2(whole.roll((-(rows // 2), -(columns // 2)), (-2, -1)))

    def _phase(self, like: Tensor) -> Tensor:
        """k / |k|, and 0 where k vanishes."""
        k, s = self._transfer(like), self.singular_values(like)
        return torch.where(s > 0, k / torch.where(s > 0, s, 1), 0)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return _filter(x, self._transfer(x))

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return _filter(y, self._transfer(y).conj())

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        k = self._transfer(y)
        return _filter(y, k.conj() / (k.abs().square() + self.regularization))

    def singular_values(self, like: Tensor) -> Tensor:
        s = self._transfer(like).abs()
        return torch.where(s > 100 * torch.finfo(s.dtype).eps, s, 0)  # what rounding leaves of a zero

    def V(self, coefficients: Tensor) -> Tensor:
        return _hartley(coefficients)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return _hartley(x)

    def U(self, coefficients: Tensor) -> Tensor:
        return _filter(_hartley(coefficients), self._phase(coefficients))

    def U_adjoint(self, y: Tensor) -> Tensor:
        return _hartley(_filter(y, self._phase(y).conj()))


def _filter(x: Tensor, transfer: Tensor) -> Tensor:
    """F^-1 (transfer F x) of real images, for a transfer with the symmetry of a real kernel's."""
    half = x.shape[-1] // 2 + 1
    return torch.fft.irfft2(torch.fft.rfft2(x) * transfer[..., :half], s=x.shape[-2:])


def _hartley(x: Tensor) -> Tensor:
    """The orthonormal discrete Hartley transform over the last two dimensions."""
    transform = torch.fft.fft2(x, norm="ortho")
    return transform.real - transform.imag
