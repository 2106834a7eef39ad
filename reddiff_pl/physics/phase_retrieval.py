"""Fourier phase retrieval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.phasing import Frames, retrieve


class PhaseRetrieval(Physics):
    """Magnitudes of the Fourier transform of the zero-padded image, each channel by itself.

    A(x) = |centred orthonormal FFT2 of x with `pad` zeros on each side|, (B, C, H + 2 pad, W + 2 pad);
    A_dagger(y) crops |centred IFFT2(y)|. x, -x and x turned by 180 degrees have one measurement: a restoration
    may be any of these, whatever the sampler, so take the best of several seeds and say so.

    Args:
        pad: zeros on each side, in pixels. Default: a quarter of the height.
    """

    complete = True

    def __init__(self, pad: int | None = None) -> None:
        super().__init__()
        if pad is not None and pad < 0:
            raise ConfigError(f"model.physics.init_args.pad: must not be negative, got {pad}")
        self.pad = pad

    def image_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W) of the image of a measurement of this shape."""
        pad = self._pad_of(shape)
        return (*shape[:-2], shape[-2] - 2 * pad, shape[-1] - 2 * pad)

    def measurement_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of an image (C, H, W)."""
        pad = shape[-2] // 4 if self.pad is None else self.pad
        return (*shape[:-2], shape[-2] + 2 * pad, shape[-1] + 2 * pad)

    def _pad_of(self, shape: tuple[int, ...]) -> int:
        """Of a measurement (..., H + 2 pad, W + 2 pad)."""
        # from H to H + 2 (H // 4) and back
        return shape[-2] // 6 if self.pad is None else self.pad

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        pad = x.shape[-2] // 4 if self.pad is None else self.pad
        centred = torch.fft.ifftshift(F.pad(x, (pad, pad, pad, pad)), dim=(-2, -1))
        return torch.fft.fftshift(torch.fft.fft2(centred, norm="ortho"), dim=(-2, -1)).abs()

    def start(self, y: Tensor, draw: Callable[[int, tuple[int, ...]], Tensor]) -> Tensor:
        """A better start than A_dagger: classical phase retrieval from random images, (B, C, H, W).

        Args:
            y: measurements, (B, C, H + 2 pad, W + 2 pad).
            draw: standard normal draw number k of a shape, with a leading B.
        """
        pad = self._pad_of(y.shape)
        shape = (1, y.shape[2] - 2 * pad, y.shape[3] - 2 * pad)  # the channels of a photo are alike
        return retrieve(y, pad, lambda k: draw(k, shape))

    def prox(self, z: Tensor, y: Tensor, rho: Tensor, iterations: int = 10) -> Tensor:
        """An image near z whose magnitudes are nearer to y, (B, C, H, W): `phasing`'s relaxed reflections from z.

        Gradient descent would end at the nearest local minimum of |y - A(x)|^2 + rho |x - z|^2, and there are many;
        this wanders on. rho weighs z against the result as if A were the identity.

        Args:
            z: images, (B, C, H, W).
            y: measurements, (B, C, H + 2 pad, W + 2 pad).
            rho: (B,), not negative.
            iterations: as of `proximal`; three times as many reflections.
        """
        frames = Frames(y, self._pad_of(y.shape))
        x = frames.crop(frames.relax(frames.embed(z), [0.0] * (3 * iterations)))
        rho = rho.to(z).reshape(-1, 1, 1, 1)
        return (x + rho * z) / (1 + rho)

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        pad = self._pad_of(y.shape)
        centred = torch.fft.ifftshift(y, dim=(-2, -1))
        x = torch.fft.fftshift(torch.fft.ifft2(centred, norm="ortho"), dim=(-2, -1)).abs()
        return x[..., pad : x.shape[-2] - pad, pad : x.shape[-1] - pad].contiguous()
