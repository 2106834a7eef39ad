"""Text-to-image pipelines as priors: Stable Diffusion, SDXL, SD3, FLUX and LCM from their folders.

The sampler works on latents; texts are conditions, which travel as labels: `condition` says what each label stands for.

References:
    High-Resolution Image Synthesis with Latent Diffusion Models | https://arxiv.org/abs/2112.10752
    Latent Consistency Models | https://arxiv.org/abs/2310.04378
    FLAIR: Solving Inverse Problems with Flow-based Image Priors | https://arxiv.org/abs/2506.02680
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import Prior, Texts, labels_of, linear_abar
from reddiff_pl.priors.conditional import ConditionalForward
from reddiff_pl.priors.consistency import InSigma, consistency_of
from reddiff_pl.priors.families import Call, family_of
from reddiff_pl.priors.guidance import Guidance
from reddiff_pl.priors.latent import DataStep, Latent
from reddiff_pl.priors.loading import find_folder, full_precision, load_network, read_json
from reddiff_pl.priors.precision import DTYPES
from reddiff_pl.priors.prediction import eps_from, flow_time, levels, predicted_by
from reddiff_pl.priors.schedule import abar_from
from reddiff_pl.priors.unet import check_size, padded
from reddiff_pl.priors.words import Words

_OPTION = "model.prior.init_args.path"

WeightsPrecision = Literal["auto", "32", "bf16", "16"]


class Pipeline(Latent):
    """A text-to-image pipeline's folder, as it is downloaded. Its `shape` is that of the images.

    Known are StableDiffusionPipeline, LatentConsistencyModelPipeline, StableDiffusionXLPipeline,
    StableDiffusion3Pipeline and FluxPipeline. Needs transformers (the extra `text`). Images of any size are padded to
    what the autoencoder and the network divide; larger latents are seen in windows.

    Args:
        path: the folder, with model_index.json; only safetensors are read, and no code of it is run.
        prompt: what images without a `prompt` in their KEY.json are like; empty: any image.
        negative_prompt: what they are not like, where they have no `negative_prompt`; null: no words, in the family's
            own way. It counts where guidance_scale is not 1.
        guidance_scale: of classifier-free guidance; 1: none, and half the work.
        embedded_guidance: the guidance that FLUX.1 dev and LCM networks are told. Default: 3.5 and 8.5.
        size: side of the images, and of the windows of larger ones, in pixels. Default: what the network was trained
            on.
        autoencoder: another folder's, such as a tiny one (AutoencoderTiny) of the same latents. Default: the
            pipeline's own.
        precision: of the weights and what is computed with them: "32", "bf16", "16"; "auto" is bf16 where there is a
            CUDA device, else 32. Restorations stay in float32.
        autoencoder_precision: of the autoencoder: "32", or "bf16" and "16" under autocast.
        fully_convolutional: show the network latents of any size at once instead of windows.
        checkpoint: keep less of the decoder for its gradient, at the price of another decoding.
        data_step: how samplers find the latent that fits: "decoder", by descent through it, or "pixels", from the image
            that fits, at a fraction of the price; see `Latent`.
        fused: on CUDA, but for 32: UNets by the kernels of `priors/fused`, the blocks of transformers compiled, once
            for each kind; false, or for networks that these do not know: diffusers' own forward pass.
        graph: on CUDA, replay the evaluation as a CUDA graph, captured once for each shape of a batch.
        compile: torch.compile the whole network instead, for minutes.

    Raises:
        ConfigError: no known pipeline at `path`, or options that do not fit it.
    """

    words = True

    def __init__(
        self,
        path: str,
        prompt: str = "",
        negative_prompt: str | None = None,
        guidance_scale: float = 1.0,
        embedded_guidance: float | None = None,
        size: int | None = None,
        autoencoder: str | None = None,
        precision: WeightsPrecision = "auto",
        autoencoder_precision: Literal["32", "bf16", "16"] = "32",
        fully_convolutional: bool = False,
        checkpoint: bool = True,
        data_step: DataStep = "decoder",
        fused: bool = True,
        graph: bool = True,
        compile: bool = False,
    ) -> None:
        folder = find_folder(path, False)
        own = folder / "vae"
        network = TextToImage(
            folder,
            (prompt, negative_prompt),
            embedded_guidance,
            size,
            _factor(own),
            precision,
            fused,
            graph,
            compile,
        )
        network.fully_convolutional = network.any_size = fully_convolutional
        prior: Prior = network if guidance_scale == 1 else Guidance(network, guidance_scale)
        super().__init__(
            prior,
            autoencoder or str(own),
            precision=autoencoder_precision,
            checkpoint=checkpoint,
            data_step=data_step,
        )
        if self.factor != network.pixels:
            raise ConfigError(
                f"model.prior.init_args.autoencoder: a latent of it stands for {self.factor} pixels, of the "
                f"pipeline's for {network.pixels}"
            )
        self.text_to_image = network

    def condition(self, texts: Sequence[Texts]) -> Tensor:
        return self.text_to_image.condition(texts)


class TextToImage(Prior):
    """The network of a pipeline, on latents.

    Args:
        folder: the pipeline's.
        texts: prompt and negative prompt of images that have none of their own.
        strength: guidance that the network is told, where it was distilled with some.
        size: side of the images, in pixels.
        pixels: how many of them a latent stands for, along an axis.
        precision: of the weights.
        fused: as `Pipeline` has it.
        graph: as `Pipeline` has it.
        compile: as `Pipeline` has it.
    """

    words = True
    default_label = 0

    def __init__(
        self,
        folder: Path,
        texts: Texts,
        strength: float | None,
        size: int | None,
        pixels: int,
        precision: WeightsPrecision,
        fused: bool,
        graph: bool,
        compile: bool,
    ) -> None:
        super().__init__()
        if precision not in get_args(WeightsPrecision):
            raise ConfigError(
                f"model.prior.init_args.precision: must be one of {', '.join(get_args(WeightsPrecision))}, got "
                f"{precision}"
            )
        if precision == "auto":
            precision = "bf16" if torch.cuda.is_available() else "32"
        self.dtype = DTYPES[precision] or torch.float32
        self.family, index = family_of(folder, _OPTION)
        self.network = load_network(folder / self.family.part, (self.family.network,), _OPTION, self.dtype)
        config: Any = self.network.config
        scheduler = read_json(folder / "scheduler" / "scheduler_config.json", _OPTION)
        self.kind = predicted_by(scheduler)
        if (self.kind == "flow") != (self.family.part == "transformer"):
            raise ConfigError(
                f"{_OPTION}: {folder} has a {scheduler.get('_class_name')}, which is not its family's"
            )
        self.register_buffer(
            "abar", linear_abar() if self.kind == "flow" else abar_from(scheduler), persistent=False
        )
        consistency = consistency_of(scheduler)
        assert not isinstance(consistency, InSigma)  # `abar_from` refuses its scheduler
        self.consistency = consistency
        self.text = Words(folder, self.family, index, self.network, self.dtype, _OPTION)
        flux = self.family.network == "FluxTransformer2DModel"
        self.pixels = pixels
        side = size // pixels if size else getattr(config, "sample_size", None) or 128
        self.multiple = (
            2 if flux else getattr(config, "patch_size", None) or 2 ** (len(config.block_out_channels) - 1)
        )
        if size is not None and size % (pixels * self.multiple):
            raise ConfigError(
                f"model.prior.init_args.size: must be a multiple of {pixels * self.multiple}, got {size}"
            )
        self.shape = (config.in_channels // 4 if flux else config.in_channels, side, side)
        self.strength = strength if strength is not None else (3.5 if flux else 8.5)
        self.texts, self.fully_convolutional = texts, False
        self.table: dict[str, Tensor] | None = None
        self.evaluate = ConditionalForward(
            self.network, self.family.call, self.shape[0], fused, graph, compile
        )
        if precision == "32":
            full_precision()

    def settings(self) -> str:
        network: Any = self.network
        config = {key: value for key, value in network.config.items() if not key.startswith("_")}
        more = [
            self.texts,
            self.strength,
            str(self.dtype),
            self.kind,
            str(self.consistency),
            self.text.digest(),
        ]
        return json.dumps([*more, self.fully_convolutional, config], sort_keys=True, default=str)

    def condition(self, texts: Sequence[Texts]) -> Tensor:
        """Label 0 is the run's own texts, further ones are those of the images that have others."""
        own = [self.texts]
        labels = []
        for prompt, negative in texts:
            pair = (
                self.texts[0] if prompt is None else prompt,
                self.texts[1] if negative is None else negative,
            )
            if pair not in own:
                own.append(pair)
            labels.append(own.index(pair))
        device = self.abar.device
        # prompts first, then what stands for none of each
        found = self.text.embeddings([*(p for p, _ in own), *(n for _, n in own)], device)
        self.table = {"words": torch.stack([embedding.words for embedding in found]).to(device)}
        pooled = [embedding.pooled for embedding in found if embedding.pooled is not None]
        if pooled:
            self.table["pooled"] = torch.stack(pooled).to(device)
        return torch.tensor(labels)

    def null_label(self, label: Tensor) -> Tensor:
        if self.table is None:
            self.condition([])
        assert self.table is not None
        return label + len(self.table["words"]) // 2

    def calls(self, images: int, most: int, like: Tensor) -> list[int]:
        return self.evaluate.calls(images, most, like) or super().calls(images, most, like)

    def release(self) -> None:
        self.evaluate.release()

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if self.table is None:
            self.condition([])
        assert self.table is not None
        labels = labels_of(self, label, len(x_t)).to(x_t.device)
        x_t, abar = x_t.float(), self.abar[t]
        alpha, sigma = levels(abar, x_t)
        x, time = (x_t / (alpha + sigma), flow_time(abar).float()) if self.kind == "flow" else (x_t, t)
        height, width = x.shape[-2:]
        if tuple(x.shape[1:]) != self.shape:
            check_size(self, x)
            x = padded(x, self.multiple)
        pooled = self.table["pooled"][labels] if "pooled" in self.table else None
        asked = Call(x, time, self.table["words"][labels], pooled, self.pixels, self.strength)
        output = self.evaluate(asked)[..., :height, :width]
        eps = eps_from(output, x_t, abar, self.kind)
        if self.consistency is None:
            return eps
        return self.consistency.eps(eps, x_t, t, abar)


def _factor(folder: Path) -> int:
    """How many pixels a latent of an autoencoder stands for, along an axis.

    Raises:
        ConfigError: there is no autoencoder.
    """
    config = read_json(folder / "config.json", _OPTION)
    blocks = config.get("block_out_channels") or config.get("decoder_block_out_channels")
    if not isinstance(blocks, list) or not blocks:
        raise ConfigError(f"{_OPTION}: {folder}/config.json does not say its autoencoder's levels")
    return 2 ** (len(blocks) - 1)
