"""Denoising UNets from diffusers folders."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors import eps_error
from reddiff_pl.priors.base import Prior, labels_of
from reddiff_pl.priors.consistency import InSigma, consistency_of
from reddiff_pl.priors.forward import Forward, Precision
from reddiff_pl.priors.loading import find_folder, load_network, part, scheduler_config
from reddiff_pl.priors.prediction import Prediction, checked, eps_from
from reddiff_pl.priors.schedule import abar_from

BUNDLED = Path(__file__).parent.parent / "assets" / "prior64"

_OPTION = "model.prior.init_args.path"


class UNet(Prior):
    """A `diffusers.UNet2DModel` with the schedule it was trained with.

    With an LCMScheduler or a CMStochasticIterativeScheduler it is a consistency network, see
    `reddiff_pl.priors.consistency`.

    Args:
        path: a folder with config.json and safetensors weights as `save_pretrained` writes it, or a pipeline's
            with these in unet/; with `hub: true` also a model id on the Hugging Face hub. Default: the prior that
            ships with this package, 64x64 RGB photographs.
        hub: download `path` from the hub when it is not a local folder. Nothing is downloaded otherwise.
        precision: "32" computes in float32, with TF32 off; "bf16" and "16" the network in these, everything else of a
            restoration in float32. "fp8" is bf16 but for the largest convolutions, in 8-bit floats where no gradients
            are asked for: faster and less exact, see docs/benchmarks.md; it needs a CUDA device of compute capability
            8.9 or more and a network that can be fused. "auto" is bf16 on CUDA devices that have it and on CPUs with
            AVX512-BF16 or AMX, and 32 elsewhere; where the folder has a table of the network's own error (`reddiff
            prior measure`) and the device can, fp8 but for the first and the last two residual blocks at the timesteps
            at which that is within .2 % of float32. A run keeps to what the first task's device made of it.
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
        folder = part(find_folder(path or str(BUNDLED), hub), ("unet",))
        self.network = load_network(folder, ("UNet2DModel",), _OPTION)
        config: Any = self.network.config
        _check_config(config, f"{_OPTION}: {folder}/config.json")
        self.shape = shape_of(self.network, folder)
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
        self.consistency = consistency_of(schedule)
        in_sigma = self.consistency if isinstance(self.consistency, InSigma) else None
        if in_sigma and (given or prediction_type):
            name = next(iter([*given, "prediction_type"]))
            raise ConfigError(
                f"model.prior.init_args.{name}: a network with a CMStochasticIterativeScheduler has none"
            )
        abar = in_sigma.abar() if in_sigma else abar_from(schedule)
        self.register_buffer("abar", abar, persistent=False)
        self.prediction_type = checked(prediction_type or schedule.get("prediction_type", "epsilon"))
        self.errors = None if in_sigma else eps_error.read(folder)  # it is asked by timestep
        eight_bits = None if self.errors is None else self.errors.good_range("fp8")
        self.forward_pass = Forward(self.network, self.shape[0], precision, fused, graph, compile, eight_bits)

    def settings(self) -> str:
        network: Any = self.network
        config = {key: value for key, value in network.config.items() if not key.startswith("_")}
        more: list[Any] = [self.prediction_type, self.default_label, self.fully_convolutional]
        if self.consistency is not None:
            more.append(str(self.consistency))
        if self.precision == "auto" and self.errors is not None:
            more.append(asdict(self.errors))
        return json.dumps([self.precision, config, *more], sort_keys=True, default=str)

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        labels = labels_of(self, label, len(x_t)).to(x_t.device) if self.classes else None
        x_t = x_t.float()
        height, width = x_t.shape[-2:]
        x = self._padded(x_t) if tuple(x_t.shape[1:]) != self.shape else x_t
        abar, of = self.abar[t], self.consistency
        if isinstance(of, InSigma):
            return of.eps(self.forward_pass(*of.asked(x, abar), labels)[..., :height, :width], x_t, abar)
        output = self.forward_pass(x, t, labels)[..., :height, :width]
        eps = eps_from(output, x_t, abar, self.prediction_type)
        return eps if of is None else of.eps(eps, x_t, t, abar)

    def calls(self, images: int, most: int, like: Tensor) -> list[int]:
        return self.forward_pass.calls(images, most, like) or super().calls(images, most, like)

    def release(self) -> None:
        self.forward_pass.release()

    def _padded(self, x: Tensor) -> Tensor:
        """Images of another size, padded at the bottom and the right."""
        check_size(self, x)
        return padded(x, 2 ** (len(self.network.config.block_out_channels) - 1))  # type: ignore[union-attr,arg-type]


def shape_of(network: Any, folder: Path) -> tuple[int, int, int]:
    """(C, H, W) of what a diffusers network sees, from its configuration.

    Raises:
        ConfigError: it does not say.
    """
    size = network.config.sample_size
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height is None:
        raise ConfigError(f"{_OPTION}: {folder}/config.json has no sample_size")
    return network.config.in_channels, height, width


def check_size(prior: Any, x: Tensor) -> None:
    """
    Args:
        prior: with a `shape`, and `fully_convolutional` where it takes other sizes.

    Raises:
        ConfigError: images (B, C, H, W) of a size that it does not take.
    """
    if not prior.fully_convolutional or x.shape[1] != prior.shape[0]:
        raise ConfigError(
            f"model.prior: a network for images of {prior.shape} got {tuple(x.shape[1:])}; for larger ones set "
            "fully_convolutional: true, or wrap the prior in reddiff_pl.priors.Tiled"
        )


def padded(x: Tensor, multiple: int) -> Tensor:
    """Images (B, C, H, W) padded by reflection, at the bottom and the right, to sides that are multiples."""
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
