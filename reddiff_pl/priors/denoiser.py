"""Restoration denoisers as priors: networks that take Gaussian noise of a known level off an image in [0, 1].

A denoiser D(x, sigma) is asked about x_t / alpha_t = x0 + r_t eps on [-1, 1], r_t = sigma_t / alpha_t:

    x0_hat = 2 D((x_t / alpha_t + 1) / 2; r_t / 2) - 1,    eps = (x_t / alpha_t - x0_hat) / r_t

It was trained on some levels only. The prior's timesteps are those of the linear beta schedule whose r_t / 2 is among
them, so that samplers begin at the largest level that the denoiser knows, and nobody asks it about another.

References:
    Plug-and-Play Image Restoration with Deep Denoiser Prior | https://arxiv.org/abs/2008.13751
    FFDNet: Toward a Fast and Flexible Solution for CNN based Image Denoising | https://arxiv.org/abs/1710.04026
    Practical Blind Denoising via Swin-Conv-UNet and Data Synthesis | https://arxiv.org/abs/2203.13278
    Gradient Step Denoiser for convergent Plug-and-Play | https://arxiv.org/abs/2110.03220
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import Prior, linear_abar, per_image
from reddiff_pl.priors.checkpoints import check_finite
from reddiff_pl.priors.loading import full_precision, load_weights
from reddiff_pl.priors.precision import autocast, computing_dtype
from reddiff_pl.priors.prediction import channels_of
from reddiff_pl.priors.unet import padded

_OPTION = "model.prior.init_args."


class Denoiser(Prior):
    """A denoiser of `deepinv.models`, `FFDNet`, or any module called as D(x (B, C, H, W), sigma=(B,)), on [0, 1].

    Images of any size are taken whole.

    Args:
        denoiser: its class or factory, such as deepinv.models.DRUNet, SCUNet, GSDRUNet or RAM, or
            reddiff_pl.priors.FFDNet. deepinv's own default, to download weights, does not hold here.
        arguments: of its constructor.
        weights: its state_dict, a safetensors or a .pth file; the latter is read with weights_only.
        download: let deepinv download the weights that it knows for this denoiser, instead of `weights`.
        shape: (C, H, W) of images by default; the number of channels must be the denoiser's.
        sigma_min: smallest level that it knows, on the [0, 1] scale.
        sigma_max: largest one. DRUNet and SCUNet were trained up to 50/255, FFDNet up to 75/255.
        multiple: what sides of images are padded to multiples of, by reflection.
        precision: "32", or "bf16" and "16" under autocast.

    Raises:
        ConfigError: no such denoiser, no weights for it, or levels that are none.
    """

    any_size = True

    def __init__(
        self,
        denoiser: str,
        arguments: dict[str, Any] | None = None,
        weights: str | None = None,
        download: bool = False,
        shape: tuple[int, int, int] = (3, 256, 256),
        sigma_min: float = 0.0,
        sigma_max: float = 50 / 255,
        multiple: int = 8,
        precision: Literal["32", "bf16", "16"] = "32",
    ) -> None:
        super().__init__()
        if download and weights is not None:
            raise ConfigError(f"{_OPTION}download: give weights or download them, not both")
        if multiple < 1:
            raise ConfigError(f"{_OPTION}multiple: must be at least 1, got {multiple}")
        abar = linear_abar()
        sigma = ((1 - abar) / abar).sqrt() / 2
        known = (sigma >= sigma_min) & (sigma <= sigma_max)
        if not 0 <= sigma_min < sigma_max or not known.any():
            raise ConfigError(
                f"{_OPTION}sigma_max: sigma_min and sigma_max must be in order and hold a level of "
                f"{sigma[0]:.4f} to {sigma[-1]:.1f}, got {sigma_min} and {sigma_max}"
            )
        self.network = _made(denoiser, arguments or {}, weights is not None, download)
        if weights is not None:
            load_weights(self.network, weights)
        check_finite(self.network.state_dict(), f"{_OPTION}{'denoiser' if weights is None else 'weights'}")
        self.network = self.network.eval().requires_grad_(False)
        self.shape, self.multiple, self.precision = tuple(shape), multiple, precision  # type: ignore[assignment]
        self.described = json.dumps([denoiser, arguments, multiple, precision], sort_keys=True, default=str)
        self.register_buffer("abar", abar[known], persistent=False)
        if precision == "32":
            full_precision()

    def settings(self) -> str:
        return self.described

    def foreign(self) -> str | None:
        return f"{_OPTION}denoiser"

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        abar = self.abar[t]
        x_t = x_t.to(computing_dtype(self.network, x_t, self.precision))
        r = ((1 - abar) / abar).sqrt().to(x_t.dtype)
        x = x_t / per_image(abar, x_t).sqrt().to(x_t.dtype)
        height, width = x.shape[-2:]
        seen = padded((x + 1) / 2, self.multiple)
        with autocast(x.device, self.precision):
            clean = channels_of(self.network(seen, sigma=r / 2), seen, "denoiser")
        x0_hat = 2 * clean[..., :height, :width].to(x.dtype) - 1
        return (x - x0_hat) / per_image(r, x)


class FFDNet(nn.Module):
    """FFDNet: convolutions on the image at half its size, four pixels in the channels, and a map of the noise level.

    The defaults are the published colour network; the grey one is channels 1, width 64, layers 15. Its weights come as
    ffdnet_color.pth or ffdnet_gray.pth, in the names model.0.weight, model.2.weight, ...

    Args:
        channels: of the images.
        width: of the layers within.
        layers: number of convolutions.
    """

    def __init__(self, channels: int = 3, width: int = 96, layers: int = 12) -> None:
        super().__init__()
        widths = [4 * channels + 1, *[width] * (layers - 1), 4 * channels]
        modules: list[nn.Module] = []
        for i in range(layers):
            modules += [nn.Conv2d(widths[i], widths[i + 1], 3, padding=1), nn.ReLU()]
        self.model = nn.Sequential(*modules[:-1])

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Clean images of noisy ones in [0, 1], (B, C, H, W), and the noise's standard deviations, (B,)."""
        height, width = x.shape[-2:]
        x = F.pixel_unshuffle(F.pad(x, (0, width % 2, 0, height % 2), mode="replicate"), 2)
        level = per_image(sigma.to(x.dtype), x).expand(-1, 1, *x.shape[-2:])
        clean = F.pixel_shuffle(self.model(torch.cat([x, level], 1)), 2)
        return clean[..., :height, :width]


def _made(name: str, arguments: Mapping[str, Any], filled: bool, download: bool) -> nn.Module:
    """A denoiser by its class path, with random weights if it is to be filled, unless they are to be downloaded.

    Raises:
        ConfigError: there is none of that name, it does not take the arguments, or has nothing to download.
    """
    place, _, kind = name.rpartition(".")
    try:
        make = getattr(importlib.import_module(place), kind)
        parameters = inspect.signature(make).parameters
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{_OPTION}denoiser: no class {name} ({error})") from error
    if "pretrained" in arguments:
        raise ConfigError(f"{_OPTION}arguments: instead of pretrained give weights: FILE or download: true")
    given = dict(arguments)
    if "pretrained" in parameters:
        # RAM's is a truth value
        flag = isinstance(parameters["pretrained"].default, bool)
        given["pretrained"] = download if flag else ("download" if download else None)
    elif download:
        raise ConfigError(f"{_OPTION}download: {name} has no weights to download; give weights: FILE")
    without = ConfigError(
        f"{_OPTION}weights: {name} has none; give the file of its weights, or let deepinv download those it knows with "
        "download: true"
    )
    if "pretrained" in parameters and not (filled or download):
        raise without
    try:
        made = make(**given)
    except Exception as error:  # wrong arguments, or no network to download by
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{_OPTION}arguments: cannot make {name}: {reason}") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{_OPTION}denoiser: {name} is not a torch module")
    if not (filled or download) and any(True for _ in made.parameters()):
        raise without
    return made
