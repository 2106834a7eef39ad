"""Denoising UNets from diffusers folders.

What a network predicts becomes the noise eps in x_t = alpha_t x0 + sigma_t eps:

    epsilon: eps    v_prediction: eps = alpha_t v + sigma_t x_t    sample: eps = (x_t - alpha_t x0) / sigma_t

References:
    Progressive Distillation for Fast Sampling of Diffusion Models | https://arxiv.org/abs/2202.00512
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import Prior, labels_of, per_image
from reddiff_pl.priors.fused.graphs import Graphs
from reddiff_pl.priors.fused.obstacle import obstacle
from reddiff_pl.priors.loading import find_folder, full_precision, load_network, part, scheduler_config
from reddiff_pl.priors.precision import DTYPES
from reddiff_pl.priors.schedule import abar_from

log = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent.parent / "assets" / "prior64"

_OPTION = "model.prior.init_args.path"
_PRECISION = "model.prior.init_args.precision"

Precision = Literal["auto", "32", "bf16", "16", "fp8"]
Prediction = Literal["epsilon", "v_prediction", "sample"]


class UNet(Prior):
    """A `diffusers.UNet2DModel` with the schedule it was trained with.

    Args:
        path: a folder with config.json and safetensors weights as `save_pretrained` writes it, or a pipeline's
            with these in unet/; with `hub: true` also a model id on the Hugging Face hub. Default: the prior that
            ships with this package, 64x64 RGB photographs.
        hub: download `path` from the hub when it is not a local folder. Nothing is downloaded otherwise.
        precision: "32" computes in float32, with TF32 off; "bf16" and "16" the network in these, everything else of a
            restoration in float32. "fp8" is bf16 but for the largest convolutions, in 8-bit floats where no gradients
            are asked for: faster and less exact, see docs/benchmarks.md; it needs a CUDA device of compute capability
            8.9 or more and a network that can be fused. "auto" is bf16 on CUDA devices that have it, and 32 elsewhere.
        fused: on CUDA, but for 32, evaluate the network by the kernels of `priors/fused`; false, or for networks
            that these do not know, by diffusers' own forward pass under autocast.
        graph: on CUDA, replay the evaluation as a CUDA graph, captured once for each shape of a batch.
        compile: torch.compile diffusers' own forward pass, for minutes; for networks that cannot be fused.
        label: class of the samples that have no `label` in their KEY.json, for class-conditional networks. Without,
            such samples fail.
        fully_convolutional: apply the network to images of any size at once, padded by reflection to what its levels
            divide. Networks that see only their own size in training may do worse on others, see `Tiled`.
        beta_schedule: linear, scaled_linear, squaredcos_cap_v2 or sigmoid. Default of this and the next three:
            the folder's scheduler_config.json (beside config.json, or in the pipeline's scheduler/); where there is
            none linear, 1e-4, 0.02, epsilon. The schedule's length is num_train_timesteps of that file, else of the
            network's config.json, else 1000.
        beta_start: first beta.
        beta_end: last beta.
        prediction_type: what the network predicts: epsilon, v_prediction or sample.

    Raises:
        ConfigError: no usable model at `path`, or options that do not fit it.
    """

    def __init__(
        self,
        path: str | None = None,
        hub: bool = False,
        precision: Precision = "auto",
        fused: bool = True,
        graph: bool = True,
        compile: bool = False,
        label: int | None = None,
        fully_convolutional: bool = False,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] | None = None,
        beta_start: float | None = None,
        beta_end: float | None = None,
        prediction_type: Prediction | None = None,
    ) -> None:
        super().__init__()
        if precision not in get_args(Precision):
            raise ConfigError(
                f"{_PRECISION}: must be one of {', '.join(get_args(Precision))}, got {precision}"
            )
        folder = part(find_folder(path or str(BUNDLED), hub), ("unet",))
        self.network = load_network(folder, ("UNet2DModel",), _OPTION)
        config: Any = self.network.config
        _check_config(config, f"{_OPTION}: {folder}/config.json")
        size = (
            config.sample_size if isinstance(config.sample_size, (tuple, list)) else [config.sample_size] * 2
        )
        self.shape = (config.in_channels, size[0], size[1])
        self.classes = config.num_class_embeds or 0
        if label is not None and not 0 <= label < self.classes:
            raise ConfigError(
                f"model.prior.init_args.label: the network has {self.classes} classes, got {label}"
            )
        self.precision, self.default_label, self.fully_convolutional = precision, label, fully_convolutional
        self.any_size = fully_convolutional

        given = {"beta_schedule": beta_schedule, "beta_start": beta_start, "beta_end": beta_end}
        given = {key: value for key, value in given.items() if value is not None}
        schedule = {
            "num_train_timesteps": getattr(config, "num_train_timesteps", None),
            **(scheduler_config(folder, _OPTION) or {}),
            **({"trained_betas": None} if given else {}),
            **given,
        }
        self.register_buffer("abar", abar_from(schedule), persistent=False)
        self.prediction_type = prediction_type or schedule.get("prediction_type", "epsilon")
        if self.prediction_type not in get_args(Prediction):
            raise ConfigError(
                f"model.prior.init_args.prediction_type: must be one of {', '.join(get_args(Prediction))}, got "
                f"{self.prediction_type}"
            )
        self.fused, self.graph, self.compiled = fused, graph, compile
        if precision == "fp8":
            self._check_eight_bits()
        self._forward: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None
        full_precision()

    def settings(self) -> str:
        network: Any = self.network
        config = {key: value for key, value in network.config.items() if not key.startswith("_")}
        more = [self.prediction_type, self.default_label, self.fully_convolutional]
        return json.dumps([self.precision, config, *more], sort_keys=True, default=str)

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        labels = labels_of(self, label, len(x_t)).to(x_t.device) if self.classes else None
        x_t = x_t.float()
        height, width = x_t.shape[-2:]
        x = self._padded(x_t) if tuple(x_t.shape[1:]) != self.shape else x_t
        if x.is_cuda and not torch.is_grad_enabled():
            if self._forward is None:
                self._forward = self._fast_forward()
            output = self._forward(x, t, labels)
        else:
            output = self._network(x, t, labels)
        # a learned variance comes in further channels
        output = output[:, : self.shape[0], :height, :width].float()
        if self.prediction_type == "epsilon":
            return output
        abar = per_image(self.abar[t], x_t)
        alpha, sigma = abar.sqrt().float(), (1 - abar).sqrt().float()
        if self.prediction_type == "v_prediction":
            return alpha * output + sigma * x_t
        return (x_t - alpha * output) / sigma

    def calls(self, images: int, most: int, like: Tensor) -> list[int]:
        """Few shapes, as each is captured as a graph: powers of two for what does not fill a batch."""
        if not (like.is_cuda and (self.graph or self.compiled)) or torch.is_grad_enabled():
            return super().calls(images, most, like)
        if self.compiled:
            return [most] * -(-images // most)
        sizes = [most] * (images // most)
        left = images % most
        least = most // 16 if sizes else 1  # beside full batches some padding is nothing
        while left:
            size = 1 << (left - 1).bit_length()  # the next power of two
            if size > most:
                size = most
            elif left < 0.75 * size:  # two evaluations are less work than one that is padded by so much
                size //= 2
            size = max(size, least)
            sizes.append(size)
            left -= min(size, left)
        return sizes

    def release(self) -> None:
        if isinstance(self._forward, Graphs):
            self._forward.clear()

    def _dtype(self, device: torch.device) -> torch.dtype:
        """What the network computes in."""
        if self.precision == "auto":
            has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            return torch.bfloat16 if has_bf16 else torch.float32
        return DTYPES[self.precision.replace("fp8", "bf16")] or torch.float32

    def _check_eight_bits(self) -> None:
        """
        Raises:
            ConfigError: what precision fp8 lacks.
        """
        if not self.fused or self.compiled:
            raise ConfigError(f"{_PRECISION}: fp8 needs fused: true and compile: false")
        if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
            raise ConfigError(f"{_PRECISION}: fp8 needs a CUDA device of compute capability 8.9 or more")
        if (reason := obstacle(self.network)) is not None:
            raise ConfigError(f"{_PRECISION}: fp8 needs a network that can be fused, not one with {reason}")

    def _network(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """diffusers' own forward pass."""
        dtype = self._dtype(x.device)
        if x.device.type == "cpu":  # a tenth faster there
            x = x.contiguous(memory_format=torch.channels_last)
        # a graph must not keep the cache's copies of the weights
        with torch.autocast(x.device.type, dtype, dtype != torch.float32, cache_enabled=not x.is_cuda):
            # t stays an integer: bf16 would turn 937 into 936
            return self.network(x, t, class_labels=labels, return_dict=False)[0]

    def _fast_forward(self) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        """The network's evaluation without gradients, on the CUDA device where it is by now."""
        forward: Callable[..., Tensor] = self._network
        dtype = self._dtype(self.abar.device)
        if self.compiled:
            self.network.to(memory_format=torch.channels_last)
            forward = torch.compile(forward, dynamic=False)
        elif self.fused and dtype != torch.float32:
            if (reason := obstacle(self.network)) is None:
                from reddiff_pl.priors.fused.unet import FusedUNet  # Triton

                operands = torch.float8_e4m3fn if self.precision == "fp8" else None
                forward = FusedUNet(self.network, dtype, self.shape[0], operands)
            else:
                log.info("the network is not fused: %s; compile: true may make it faster", reason)
        return Graphs(forward) if self.graph else forward

    def _padded(self, x: Tensor) -> Tensor:
        """Images of another size, padded at the bottom and the right."""
        if not self.fully_convolutional or x.shape[1] != self.shape[0]:
            raise ConfigError(
                f"model.prior: a network for images of {self.shape} got {tuple(x.shape[1:])}; for larger ones set "
                "fully_convolutional: true, or wrap the prior in reddiff_pl.priors.Tiled"
            )
        network: Any = self.network
        multiple = 2 ** (len(network.config.block_out_channels) - 1)
        height, width = x.shape[-2:]
        return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="reflect")


def _check_config(config: Any, where: str) -> None:
    """
    Raises:
        ConfigError: a network that is no prior by itself; which field of config.json says so.
    """
    size, inputs, outputs = config.sample_size, config.in_channels, config.out_channels
    if not size or (isinstance(size, (list, tuple)) and len(size) != 2):
        raise ConfigError(f"{where}: sample_size is {size}, expected the side of its images")
    if config.class_embed_type is not None:
        raise ConfigError(
            f"{where}: class_embed_type is {config.class_embed_type}, so the network wants more than a class number; "
            "only those with num_class_embeds can be used"
        )
    if outputs not in (inputs, 2 * inputs):
        raise ConfigError(
            f"{where}: in_channels is {inputs} and out_channels {outputs}: a network that takes another image beside "
            f"the noisy one, such as an upsampler, is no prior; expected {inputs} or {2 * inputs} channels out"
        )
