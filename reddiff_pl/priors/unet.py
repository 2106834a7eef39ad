"""Denoising UNets from a diffusers folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import Prior, linear_abar

BUNDLED = Path(__file__).parent.parent / "assets" / "prior64"


class UNet(Prior):
    """An eps-prediction `diffusers.UNet2DModel`.

    Args:
        path: a folder with config.json and safetensors weights as `save_pretrained` writes it, or with
            `hub: true` a model id on the Hugging Face hub. Default: the prior that ships with this package,
            64x64 RGB photographs.
        hub: download `path` from the hub when it is not a local folder. Nothing is downloaded otherwise.
        precision: "32" computes in float32, with TF32 off; "bf16" and "16" run the network under autocast.
            Everything else of a restoration stays in float32.
        beta_start: first beta of the linear schedule the network was trained with.
        beta_end: last beta of that schedule. Its length is the network's num_train_timesteps (default 1000).

    Raises:
        ConfigError: no usable model at `path`.
    """

    def __init__(
        self,
        path: str | None = None,
        hub: bool = False,
        precision: Literal["32", "bf16", "16"] = "32",
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
    ) -> None:
        super().__init__()
        if precision not in ("32", "bf16", "16"):
            raise ConfigError(f"model.prior.init_args.precision: must be 32, bf16 or 16, got {precision}")
        self.network = _load(path or str(BUNDLED), hub)
        config: Any = self.network.config
        size = (
            config.sample_size if isinstance(config.sample_size, (tuple, list)) else [config.sample_size] * 2
        )
        if size[0] is None:
            raise ConfigError(f"model.prior.init_args.path: {path}/config.json has no sample_size")
        self.shape = (config.in_channels, size[0], size[1])
        self.precision = precision
        T = getattr(config, "num_train_timesteps", None) or 1000
        self.register_buffer("abar", linear_abar(T, beta_start, beta_end), persistent=False)
        if precision == "32":
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False

    def settings(self) -> str:
        network: Any = self.network
        config = {key: value for key, value in network.config.items() if not key.startswith("_")}
        return json.dumps([self.precision, config], sort_keys=True, default=str)

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        labels = label if self.network.class_embedding is not None else None
        dtype = {"bf16": torch.bfloat16, "16": torch.float16}.get(self.precision)
        with torch.autocast(x_t.device.type, dtype=dtype, enabled=dtype is not None):
            # t stays an integer: bf16 would turn 937 into 936
            eps = self.network(x_t.float(), t, class_labels=labels, return_dict=False)[0]
        return eps[:, : self.shape[0]].float()  # a learned variance comes in further channels


def _load(path: str, hub: bool) -> torch.nn.Module:
    folder = Path(path)
    if not folder.is_dir() and not hub:
        raise ConfigError(
            f"model.prior.init_args.path: no folder {path}; give a diffusers folder (config.json and "
            "diffusion_pytorch_model.safetensors), or add hub: true to download it from the Hugging Face hub"
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.prior.init_args.path: {path} has no config.json; it is not a diffusers folder"
        )
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")  # it warns when accelerate is not installed
    from diffusers import UNet2DModel  # seconds to import, so only when a network is wanted

    try:
        # safetensors only: no pickle is ever opened
        network, loaded = UNet2DModel.from_pretrained(
            path,
            local_files_only=not hub,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except Exception as error:  # whatever a damaged file or an unreachable hub raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"model.prior.init_args.path: cannot load {path}: {reason[:300]}") from error
    # it would leave a layer without weights random
    if wrong := [*loaded["missing_keys"], *loaded["unexpected_keys"], *loaded["mismatched_keys"]]:
        raise ConfigError(
            f"model.prior.init_args.path: the weights in {path} are not those of its config.json: {len(wrong)} tensors "
            f"are missing, superfluous or of another shape, {wrong[0]} first"
        )
    return network.float().eval().requires_grad_(False)
