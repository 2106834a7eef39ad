"""Blur kernels, one draw an image."""

from __future__ import annotations

import math

import torch
from deepinv.physics.generator import MotionBlurGenerator
from torch import Tensor

from reddiff_pl.errors import ConfigError


class Kernel:
    """Draws a blur kernel."""

    def draw(self, taps: int, generator: torch.Generator) -> Tensor:
        """A kernel, not negative, of sum 1, float32 (taps, taps)."""
        raise NotImplementedError


class AnisotropicGaussianKernel(Kernel):
    """A Gaussian, longer in one direction than across.

    Args:
        sigma: standard deviations along and across, in pixels.
        angle: direction of the long axis, in degrees from the rows towards the columns. Two numbers: drawn
            uniformly between them for each image.
    """

    def __init__(
        self, sigma: tuple[float, float] = (3.0, 0.5), angle: float | tuple[float, float] = (0.0, 180.0)
    ) -> None:
        where = "model.physics.init_args.kernel.init_args"
        if not min(sigma) > 0:
            raise ConfigError(f"{where}.sigma: must be positive, got {sigma}")
        low, high = angle if isinstance(angle, (tuple, list)) else (angle, angle)
        if not low <= high:
            raise ConfigError(f"{where}.angle: must be in order, got {angle}")
        self.sigma, self.angle = sigma, (low, high)

    def draw(self, taps: int, generator: torch.Generator) -> Tensor:
        low, high = self.angle
        angle = math.radians(low + (high - low) * float(torch.rand((), generator=generator)))
        offset = torch.arange(taps, dtype=torch.float64) - taps // 2
        rows, columns = offset[:, None], offset[None, :]
        along = columns * math.cos(angle) + rows * math.sin(angle)
        across = rows * math.cos(angle) - columns * math.sin(angle)
        kernel = torch.exp(-((along / self.sigma[0]) ** 2 + (across / self.sigma[1]) ** 2) / 2)
        return (kernel / kernel.sum()).float()


class MotionKernel(Kernel):
    """The path of a shaken camera: a random smooth curve, as deepinv draws it.

    Args:
        length_scale: how far, as a share of the exposure, the path keeps its direction.
        spread: standard deviation of the path, as a share of half the kernel's side.

    References:
        deepinv.physics.generator.MotionBlurGenerator | https://deepinv.github.io/deepinv/
    """

    def __init__(self, length_scale: float = 0.3, spread: float = 0.25) -> None:
        for name, value in {"length_scale": length_scale, "spread": spread}.items():
            if not value > 0:
                raise ConfigError(
                    f"model.physics.init_args.kernel.init_args.{name}: must be positive, got {value}"
                )
        self.length_scale, self.spread = length_scale, spread

    def draw(self, taps: int, generator: torch.Generator) -> Tensor:
        source = MotionBlurGenerator(taps, rng=generator, l=self.length_scale, sigma=self.spread)
        # the part of a path that leaves the kernel is lost; one that is lost whole is drawn again
        while not (kernel := source.step()["filter"][0, 0]).any():
            pass
        return kernel / kernel.sum()
