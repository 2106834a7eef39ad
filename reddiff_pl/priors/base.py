"""The contract of all priors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeAlias

import torch
from deepinv.physics import Physics
from torch import Tensor, nn

from reddiff_pl.errors import ConfigError

Question: TypeAlias = tuple[Tensor, Tensor, Tensor | None]
"""What a prior is asked: x_t (B, C, H, W), t long (B,), labels long (B,) or None."""


Texts: TypeAlias = tuple[str | None, str | None]
"""A prompt, and what the image should not be like."""


class Prior(nn.Module):
    """A diffusion model as a prior: predicts the noise in x_t = alpha_t x0 + sigma_t z.

    Attributes:
        shape: (C, H, W) of its images, which are in [-1, 1].
        abar: alpha_t^2, (T,), float64, descending from near 1.
        classes: number of classes that labels name, 0..classes-1; 0: it takes no labels.
        default_label: class of images that come without a label; None: they must have one.
        any_size: whether it takes images of other sizes than its own; others are shown to it in windows (`Tiled`).
        latent: whether it works on other things than images, see `encode`.
        words: whether it takes texts, see `condition`.
    """

    shape: tuple[int, int, int]
    abar: Tensor
    classes: int = 0
    default_label: int | None = None
    any_size: bool = False
    latent: bool = False
    words: bool = False

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Predicted noise, (B, C, H, W); float32, or the dtype of x_t where the prior is analytic.

        Where grad is enabled it must be differentiable in x_t: DPS and PiGDM go through the network.

        Args:
            x_t: noisy images, (B, C, H, W).
            t: timesteps, long (B,), 0..T-1.
            label: class labels, long (B,), for class-conditional priors.
        """
        raise NotImplementedError

    def eps_many(self, questions: Sequence[Question]) -> list[Tensor]:
        """`eps` of several batches, each of images of its own size."""
        return [self.eps(*question) for question in questions]

    def calls(self, images: int, most: int, like: Tensor) -> list[int]:
        """In how many at a time so many images are best evaluated, `most` at most.

        Args:
            images: how many there are.
            most: how many may be evaluated at a time.
            like: images, (B, C, H, W); only their device and type count.

        Returns:
            sizes of batches; their sum may be above `images`, by what the last one is padded with.
        """
        return [*[most] * (images // most), *([images % most] if images % most else [])]

    def refuses(self, shape: tuple[int, int, int]) -> str | None:
        """Why images (C, H, W) cannot be restored with it; None where they can."""
        return None

    def condition(self, texts: Sequence[Texts]) -> Tensor:
        """What texts are called as labels from here on, until the next call; long (len(texts),).

        Args:
            texts: a prompt and a negative prompt for each image; None: the run's own.
        """
        raise NotImplementedError

    def foreign(self) -> str | None:
        """The option that names a class from outside this package, which is tried once before any work; None: none."""
        return None if type(self).__module__.startswith("reddiff_pl.") else "model.prior"

    def null_label(self, label: Tensor) -> Tensor:
        """The labels that stand for no condition, for images of these labels, long (B,).

        Raises:
            ConfigError: it knows none.
        """
        raise ConfigError("model.prior.init_args.null_label: say which class stands for none")

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in the space that the prior models; the images themselves unless it has its own."""
        return x

    def decode(self, x: Tensor) -> Tensor:
        """Images of what the prior models, the way back from `encode`."""
        return x

    def observed(self, physics: Physics) -> Physics:
        """An operator on images as one on what the prior models."""
        return physics

    def release(self) -> None:
        """Give back what is kept for the shapes seen so far, such as captured graphs."""

    def settings(self) -> str:
        """What its numbers depend on beside its tensors, as text."""
        return ""

    def precision_on(self, device: torch.device) -> str:
        """What the precisions asked for come to on a device, in words; "" where there is no choice."""
        passes = (getattr(module, "forward_pass", None) for module in self.modules())
        return ", ".join(sorted({one.resolved(device) for one in passes if one is not None}))

    def fingerprint(self) -> str:
        """sha256 of all that the prior computes with, weights and settings, as a hexadecimal string."""
        digest = hashlib.sha256(describe(self).encode())
        tensors = {**self.state_dict(), "abar": self.abar}
        for name, value in sorted(tensors.items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def linear_abar(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """abar_t = prod_{s<=t} (1 - beta_s) for the linear beta schedule, (T,), float64.

    References:
        Denoising Diffusion Probabilistic Models | https://arxiv.org/abs/2006.11239
    """
    return (1 - torch.linspace(beta_start, beta_end, T, dtype=torch.float64)).cumprod(0)


def host_abar(prior: Prior) -> Tensor:
    """abar on the CPU, copied once: a device asked for it would first do all its work.

    Args:
        prior: anything with an `abar`.
    """
    if "_host_abar" not in prior.__dict__:
        prior.__dict__["_host_abar"] = prior.abar.cpu()
    return prior.__dict__["_host_abar"]


def describe(prior: Prior) -> str:
    """A prior inside another one, for that one's settings; its tensors are among the other's."""
    return f"{type(prior).__qualname__} {prior.shape} {prior.settings()}"


def labels_of(prior: Prior, label: Tensor | None, batch: int) -> Tensor:
    """Class labels, long (B,): those given, else the prior's default.

    Raises:
        ConfigError: there are neither.
    """
    if label is not None:
        return label
    if prior.default_label is None:
        raise ConfigError(
            f"model.prior.init_args.label: the prior knows {prior.classes} classes and the images have no label; give "
            "a `label` in KEY.json, or this default"
        )
    return torch.full((batch,), prior.default_label)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1), to multiply the images of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
