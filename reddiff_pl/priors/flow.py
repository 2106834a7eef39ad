"""Flow matching as a prior: networks that predict the velocity of x = (1 - t) x0 + t eps, t in [0, 1].

Timestep i stands for a noise level r_i, as with every other prior, and so for the flow's time t = r / (1 + r): samplers
see eps on the grid of levels that they know (see `reddiff_pl.priors.prediction`). t = 1, pure noise, is not visited:
the last level is that of the linear beta schedule, r = 157.

References:
    Flow Matching for Generative Modeling | https://arxiv.org/abs/2210.02747
    Scaling Rectified Flow Transformers for High-Resolution Image Synthesis | https://arxiv.org/abs/2403.03206
    SiT: Exploring Flow and Diffusion-based Generative Models with Scalable Interpolant Transformers
    | https://arxiv.org/abs/2401.08740
    FLAIR: Solving Inverse Problems with Flow-based Image Priors | https://arxiv.org/abs/2506.02680
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import Prior, labels_of, linear_abar
from reddiff_pl.priors.checkpoints import check_finite
from reddiff_pl.priors.forward import Forward, Precision
from reddiff_pl.priors.loading import (
    find_folder,
    full_precision,
    load_network,
    load_weights,
    part,
    scheduler_config,
)
from reddiff_pl.priors.precision import autocast, computing_dtype, sound_attention
from reddiff_pl.priors.prediction import channels_of, eps_from, flow_time, levels
from reddiff_pl.priors.unet import check_size, padded, shape_of

_OPTION = "model.prior.init_args.path"

FLOW_NETWORKS = ("UNet2DModel", "DiTTransformer2DModel")
"""Classes of diffusers that need no text. Those that do go through `reddiff_pl.priors.Pipeline`."""


class Flow(Prior):
    """A network that predicts the velocity eps - x0: a diffusers folder, or any module.

    Args:
        path: a folder with config.json and safetensors weights of a UNet2DModel or a DiTTransformer2DModel, with the
            scheduler_config.json of a FlowMatchEulerDiscreteScheduler beside it; or a pipeline's with these in unet/
            or transformer/ and scheduler/; with `hub: true` also a model id on the Hugging Face hub.
        hub: download `path` from the hub when it is not a local folder. Nothing is downloaded otherwise.
        network: instead of `path`, a torch module by class_path, called with (B, C, H, W) and the flow's time times
            `time_scale`, (B,), and with labels, long (B,), as a third argument where `classes` is not 0. It gives
            (B, C, H, W), or more channels of which the first C count, or an object with these in `.sample`.
        weights: safetensors of `network`'s state_dict; otherwise the module loads its own.
        shape: (C, H, W) of `network`'s images; of a folder its config.json says it.
        data_at: the time at which the flow is at the data: 0 (diffusers, SD3, FLUX), with the velocity eps - x0; or 1
            (SiT, PnP-Flow), with x0 - eps.
        time_scale: what the network is told at time 1. Default: the scheduler's num_train_timesteps; 1 for `network`.
        grid: which levels the timesteps stand for: "ddpm" takes those of the linear beta schedule, for which the
            samplers' defaults are chosen; "scheduler" the scheduler's own, evenly spaced in t and moved by its shift.
        shift: moves the levels of `grid: scheduler`, t -> shift t / (1 + (shift - 1) t). Default: the scheduler's.
            The network is told the t of the level it sees, whatever the grid.
        T: number of timesteps.
        classes: number of classes of `network`; of a folder its config.json says it.
        label: class of samples that have no `label` in their KEY.json. Without, such samples fail.
        precision: "32", "bf16", "16", "fp8" or "auto", as `UNet` has them; "fp8" for a UNet2DModel only.
        fused: as `UNet` has it, for a UNet2DModel.
        graph: as `UNet` has it, for a folder's networks.
        compile: as `UNet` has it, for a folder's networks.
        fully_convolutional: apply the network to images of any size at once, see `UNet`.

    Raises:
        ConfigError: no usable network, or options that do not fit it.
    """

    def __init__(
        self,
        path: str | None = None,
        hub: bool = False,
        network: nn.Module | None = None,
        weights: str | None = None,
        shape: tuple[int, int, int] | None = None,
        data_at: Literal[0, 1] = 0,
        time_scale: float | None = None,
        grid: Literal["ddpm", "scheduler"] = "ddpm",
        shift: float | None = None,
        T: int = 1000,
        classes: int = 0,
        label: int | None = None,
        precision: Precision = "auto",
        fused: bool = True,
        graph: bool = True,
        compile: bool = False,
        fully_convolutional: bool = False,
    ) -> None:
        super().__init__()
        if (path is None) == (network is None):
            raise ConfigError("model.prior.init_args.path: give a folder or a network, one of them")
        if T < 1:
            raise ConfigError(f"model.prior.init_args.T: must be at least 1, got {T}")
        scheduler: Mapping[str, Any] = {}
        self.forward_pass: Forward | None = None
        if path is not None:
            folder = part(find_folder(path, hub), ("unet", "transformer"))
            scheduler = flow_scheduler(scheduler_config(folder, _OPTION))
            self.network = load_network(folder, FLOW_NETWORKS, _OPTION)
            self.shape = shape_of(self.network, folder)
            config: Any = self.network.config
            self.classes = (
                getattr(config, "num_class_embeds", None) or getattr(config, "num_embeds_ada_norm", None) or 0
            )
            self.forward_pass = Forward(self.network, self.shape[0], precision, fused, graph, compile)
            time_scale = time_scale or float(scheduler.get("num_train_timesteps") or 1000)
        else:
            assert network is not None
            if shape is None:
                raise ConfigError("model.prior.init_args.shape: say (C, H, W) of the network's images")
            if precision == "fp8" or compile:
                raise ConfigError(
                    "model.prior.init_args.precision: fp8 and compile are for a folder's networks"
                )
            if weights is not None:
                load_weights(network, weights)
            check_finite(network.state_dict(), "model.prior.init_args.network")
            self.network = network.eval().requires_grad_(False)
            self.shape, self.classes = tuple(shape), classes  # type: ignore[assignment]
            full_precision()
        if label is not None and not 0 <= label < self.classes:
            raise ConfigError(
                f"model.prior.init_args.label: the network has {self.classes} classes, got {label}"
            )
        self.precision, self.default_label, self.data_at = precision, label, data_at
        self.fully_convolutional = self.any_size = fully_convolutional
        self.time_scale = time_scale or 1.0
        abar = linear_abar(T) if grid == "ddpm" else scheduler_abar(T, scheduler, shift)
        self.register_buffer("abar", abar, persistent=False)

    def settings(self) -> str:
        config = getattr(self.network, "config", None)
        described: Any = str(self.network)
        if self.forward_pass is not None and config is not None:
            described = {key: value for key, value in config.items() if not key.startswith("_")}
        more = [self.precision, self.data_at, self.time_scale, self.default_label, self.fully_convolutional]
        return json.dumps([*more, described], sort_keys=True, default=str)

    def foreign(self) -> str | None:
        return "model.prior.init_args.network" if self.forward_pass is None else None

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        labels = labels_of(self, label, len(x_t)).to(x_t.device) if self.classes else None
        abar = self.abar[t]
        x_t = x_t.to(computing_dtype(self.network, x_t, self._autocast(x_t.device)))
        alpha, sigma = levels(abar, x_t)
        x, (height, width) = x_t / (alpha + sigma), x_t.shape[-2:]
        if tuple(x.shape[1:]) != self.shape:
            check_size(self, x)
            x = padded(x, self._multiple())
        time = flow_time(abar)
        time = (time if self.data_at == 0 else 1 - time) * self.time_scale
        velocity = self._velocity(x, time.to(x.dtype), labels)[:, : self.shape[0], :height, :width]
        return eps_from(velocity if self.data_at == 0 else -velocity, x_t, abar, "flow")

    def null_label(self, label: Tensor) -> Tensor:
        if type(self.network).__name__ != "DiTTransformer2DModel":
            return super().null_label(label)
        return torch.full_like(label, self.classes)  # the class after the last, which it saw in training

    def calls(self, images: int, most: int, like: Tensor) -> list[int]:
        best = None if self.forward_pass is None else self.forward_pass.calls(images, most, like)
        return best or super().calls(images, most, like)

    def release(self) -> None:
        if self.forward_pass is not None:
            self.forward_pass.release()

    def _velocity(self, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        if self.forward_pass is not None:
            return self.forward_pass(x, time, labels)
        given = () if labels is None else (labels,)
        with autocast(x.device, self._autocast(x.device)), sound_attention(x):
            output = self.network(x, time, *given)
        return channels_of(getattr(output, "sample", output), x, "network").to(x.dtype)

    def _autocast(self, device: torch.device) -> str:
        """The precision of a module by class_path: what is automatic is bf16 on CUDA."""
        automatic = "bf16" if device.type == "cuda" else "32"
        return automatic if self.precision == "auto" else self.precision

    def _multiple(self) -> int:
        """What the network divides sides by."""
        config: Any = getattr(self.network, "config", None)
        if hasattr(config, "patch_size"):
            return config.patch_size
        return 2 ** (len(config.block_out_channels) - 1) if hasattr(config, "block_out_channels") else 1


def flow_scheduler(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A flow's scheduler configuration; none is that of diffusers' defaults.

    Raises:
        ConfigError: it belongs to another kind of model.
    """
    kind = str((config or {}).get("_class_name", "FlowMatchEulerDiscreteScheduler"))
    if "FlowMatch" not in kind:
        raise ConfigError(
            f"model.prior.init_args.path: its scheduler is a {kind}, not FlowMatchEulerDiscreteScheduler; a network "
            "that predicts noise goes through reddiff_pl.priors.UNet"
        )
    return config or {}


def scheduler_abar(T: int, config: Mapping[str, Any], shift: float | None) -> Tensor:
    """abar of t = 1/T, 2/T, ..., 1, moved by a shift as FlowMatchEulerDiscreteScheduler does, (T,), float64.

    Levels above the linear beta schedule's last, r = 157, become that one.

    Args:
        T: number of timesteps.
        config: the scheduler's; `shift` counts.
        shift: instead of the scheduler's.

    Raises:
        ConfigError: the shift is not positive, or differs from image to image.
    """
    if shift is None:
        if config.get("use_dynamic_shifting"):
            raise ConfigError(
                "model.prior.init_args.shift: the scheduler's differs with the image's size; give a number, or take "
                "grid: ddpm"
            )
        shift = float(config.get("shift") or 1.0)
    if not shift > 0:
        raise ConfigError(f"model.prior.init_args.shift: must be positive, got {shift}")
    t = torch.arange(1, T + 1, dtype=torch.float64) / T
    t = shift * t / (1 + (shift - 1) * t)
    abar = (1 - t).square() / ((1 - t).square() + t.square())
    return abar.clamp(min=linear_abar()[-1].item())
