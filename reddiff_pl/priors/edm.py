"""Networks in continuous sigma, preconditioned as in EDM, on a grid of timesteps.

Such a network denoises x = x0 + sigma z. With s = sigma_data

    D(x; sigma) = c_skip x + c_out F(c_in x, c_noise),   c_noise = ln(sigma) / 4
    c_skip = s^2 / (sigma^2 + s^2)   c_out = sigma s / sqrt(sigma^2 + s^2)   c_in = 1 / sqrt(sigma^2 + s^2)

Timestep t stands for sigma = r_t = sigma_t / alpha_t, so that abar_t = 1 / (1 + sigma^2), x = x_t / alpha_t and
eps = (x - D) / sigma.

References:
    Elucidating the Design Space of Diffusion-Based Generative Models | https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import Prior, labels_of, linear_abar, per_image
from reddiff_pl.priors.checkpoints import check_finite
from reddiff_pl.priors.loading import full_precision, load_weights
from reddiff_pl.priors.precision import autocast, sound_attention
from reddiff_pl.priors.prediction import channels_of


class EDM(Prior):
    """A network F(c_in x, c_noise), or with `preconditioned` a denoiser D(x, sigma), as a prior.

    It is called with (B, C, H, W) and (B,), and with labels, long (B,), as a third argument where `classes` is not 0.
    It gives (B, C, H, W), or more channels of which the first C count, or an object with these in `.sample`.

    Args:
        shape: (C, H, W) of its images.
        network: a torch module by class_path.
        weights: safetensors of its state_dict; otherwise the module loads its own.
        torchscript: a TorchScript file instead of a module. It holds code: only from those you trust.
        trust: says that you trust `torchscript`.
        preconditioned: the network is the denoiser D(x, sigma) itself.
        sigma_data: standard deviation of the training images, on the [-1, 1] scale.
        sigma_min: smallest sigma that the network is asked about.
        sigma_max: largest one.
        grid: sigma of timestep t: "ddpm" takes r_t of the linear beta schedule, for which the samplers' defaults are
            chosen, as far as it is in sigma_min..sigma_max; "karras" is EDM's own with rho = 7.
        T: number of timesteps.
        classes: number of classes of a class-conditional network; 0: none.
        label: class of samples that have no `label` in their KEY.json.
        precision: "32", or "bf16" and "16" under autocast.

    Raises:
        ConfigError: no network, or options out of range.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        network: nn.Module | None = None,
        weights: str | None = None,
        torchscript: str | None = None,
        trust: bool = False,
        preconditioned: bool = False,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        grid: Literal["ddpm", "karras"] = "ddpm",
        T: int = 1000,
        classes: int = 0,
        label: int | None = None,
        precision: Literal["32", "bf16", "16"] = "32",
    ) -> None:
        super().__init__()
        if (network is None) == (torchscript is None):
            raise ConfigError(
                "model.prior.init_args.network: give a network or a torchscript file, one of them"
            )
        if not 0 < sigma_min < sigma_max or not sigma_data > 0 or T < 1:
            raise ConfigError(
                "model.prior.init_args.sigma_min: 0 < sigma_min < sigma_max, sigma_data > 0 and T >= 1 are needed"
            )
        if label is not None and not 0 <= label < classes:
            raise ConfigError(f"model.prior.init_args.label: the network has {classes} classes, got {label}")
        self.source = ""
        if torchscript is not None:
            network, self.source = _torchscript(torchscript, trust)
        assert network is not None
        if weights is not None:
            load_weights(network, weights)
        check_finite(network.state_dict(), "model.prior.init_args.network")
        self.network = network.float().eval()
        for parameter in self.network.parameters():  # TorchScript has no requires_grad_ of the whole
            parameter.requires_grad_(False)
        self.shape, self.classes, self.default_label = tuple(shape), classes, label  # type: ignore[assignment]
        self.preconditioned, self.sigma_data, self.precision = preconditioned, sigma_data, precision
        if grid == "ddpm":
            abar = linear_abar(T)
            sigma = ((1 - abar) / abar).sqrt().clamp(sigma_min, sigma_max)
        else:
            ends = sigma_min ** (1 / 7), sigma_max ** (1 / 7)
            sigma = torch.linspace(*ends, T, dtype=torch.float64) ** 7
        self.register_buffer("sigma", sigma, persistent=False)
        self.register_buffer("abar", 1 / (1 + sigma.square()), persistent=False)
        if precision == "32":
            full_precision()

    sigma: Tensor

    def settings(self) -> str:
        # of a class by class_path the structure counts, of a TorchScript file its content
        network = self.source or str(self.network)
        return f"{self.preconditioned} {self.sigma_data} {self.precision} {self.default_label} {network}"

    def foreign(self) -> str | None:
        return f"model.prior.init_args.{'torchscript' if self.source else 'network'}"

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        sigma = self.sigma[t]
        s = per_image(sigma.float(), x_t)
        x = x_t.float() * (1 + s.square()).sqrt()
        if self.preconditioned:
            return (x - self._network(x, sigma.float(), label)) / s
        scale = (s.square() + self.sigma_data**2).sqrt()
        output = self._network(x / scale, sigma.log().float() / 4, label)
        # x - c_skip x = sigma^2 / scale^2 x, so that no two large numbers are subtracted
        return s / scale.square() * x - self.sigma_data / scale * output

    def _network(self, x: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        labels = (labels_of(self, label, len(x)).to(x.device),) if self.classes else ()
        with autocast(x.device, self.precision), sound_attention(x):
            output = self.network(x, noise, *labels)
        return channels_of(getattr(output, "sample", output), x, "network").float()


def _torchscript(path: str, trust: bool) -> tuple[nn.Module, str]:
    if not trust:
        raise ConfigError(
            f"model.prior.init_args.trust: {path} holds code that would run here; add trust: true if you know where "
            "it comes from"
        )
    try:
        content = Path(path).read_bytes()
        return torch.jit.load(path, map_location="cpu"), hashlib.sha256(content).hexdigest()
    except Exception as error:  # whatever a damaged file raises
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"model.prior.init_args.torchscript: cannot load {path}: {reason}") from error
