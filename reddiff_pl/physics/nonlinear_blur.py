"""Blur by a network of the user's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.sizes import SameSize


class NonlinearBlur(SameSize, Physics):
    """A(x) = network(x, kernel): a learned blur, its latent kernel drawn once for each image. A_dagger(y) = y.

    The network is a TorchScript file, called with images (B, C, H, W) in [-1, 1] (wrap this operator in
    `UnitRange` if it wants [0, 1]) and kernels (B, ...); it returns images of the same size. It is not trained.

    Args:
        path: the TorchScript file.
        trust: TorchScript can run any code: say true if you know where the file comes from.
        kernel_shape: shape of the latent kernel, without the batch.
        kernel_std: standard deviation that it is drawn with. Samples may bring their own (`KEY.kernel.npy`).

    Raises:
        ConfigError: the file is not named, not there, not trusted or not TorchScript.

    References:
        Explore Image Deblurring via Blur Kernel Space (a network of this kind) | https://arxiv.org/abs/2104.00317
    """

    kernel: Tensor | None

    def __init__(
        self,
        path: str | None = None,
        trust: bool = False,
        kernel_shape: list[int] = [512, 2, 2],  # noqa: B006 (a list, as YAML gives it; not changed)
        kernel_std: float = 1.2,
    ) -> None:
        super().__init__()
        where = "model.physics.init_args"
        if path is None:
            raise ConfigError(f"{where}.path: no network; name a TorchScript file")
        if not Path(path).is_file():
            raise ConfigError(f"{where}.path: {path} is not there")
        if not trust:
            raise ConfigError(
                f"{where}.trust: TorchScript can run any code; say true if you know where {path} comes from"
            )
        if not kernel_std >= 0:
            raise ConfigError(f"{where}.kernel_std: must not be negative, got {kernel_std}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of the format's age
                self.network = torch.jit.load(path, map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{where}.path: {path} is not TorchScript: {str(error).splitlines()[0]}"
            ) from error
        for weight in self.network.parameters():
            weight.requires_grad_(False)
        self.kernel_shape, self.kernel_std = tuple(kernel_shape), kernel_std
        self.register_buffer("kernel", None, persistent=False)

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Operator parameters of one image: {"kernel": kernel_shape}."""
        return {"kernel": self.kernel_std * torch.randn(self.kernel_shape, generator=generator)}

    def parameter_shapes(self, shape: tuple[int, int, int]) -> dict[str, list[tuple[int, ...]]]:
        return {"kernel": [self.kernel_shape]}

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        if self.kernel is None:
            raise ConfigError(
                "model.physics: NonlinearBlur has no kernel; bind one with bind(physics, {'kernel': ...})"
            )
        weight = next(self.network.parameters(), x)
        y = self.network(x.to(weight.dtype), self.kernel.to(weight.dtype)).to(x.dtype)
        if y.shape != x.shape:
            raise ConfigError(
                f"model.physics.init_args.path: the network makes {tuple(y.shape[1:])} of images of "
                f"{tuple(x.shape[1:])}"
            )
        return y

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y.clone()
