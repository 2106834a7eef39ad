"""Tiny random text-to-image pipelines, saved as diffusers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

WIDTH = 8  # of the texts' embeddings
LEVELS = (4, 8)  # one pixel of a latent is two of the image
EPSILON = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def pipeline(folder: Path, family: str, **scheduler: Any) -> Path:
    """A pipeline of a family: sd, lcm, sdxl, sd3 or flux, of images of 16x16."""
    torch.manual_seed(0)
    make: Any = {"sd": _sd, "lcm": _lcm, "sdxl": _sdxl, "sd3": _sd3, "flux": _flux}[family]
    made = make(folder / "tokens", **scheduler)
    for name in ("unet", "transformer"):
        network = getattr(made, name, None)
        if network is not None:
            # some start with zeros, which would hide the texts
            for parameter in network.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
    made.save_pretrained(folder / "pipeline", safe_serialization=True)
    return folder / "pipeline"


def autoencoder(channels: int = 4, **config: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=LEVELS, down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        norm_num_groups=2, latent_channels=channels, **config,
    )  # fmt: skip


def _unet(**config: Any) -> Any:
    return diffusers.UNet2DConditionModel(**({
        "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": WIDTH, "attention_head_dim": 4,
    } | config))  # fmt: skip


def _clip(folder: Path, projected: bool = False) -> tuple[Any, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(97, 123)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=12)
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    config = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=WIDTH, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=12, projection_dim=WIDTH, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return kind(config).eval(), tokenizer


def _t5(width: int) -> tuple[Any, Any]:
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0)]
    vocabulary += [(chr(c), -2.0) for c in range(97, 123)]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = T5TokenizerFast(tokenizer_object=backend, extra_ids=0, model_max_length=16)
    config = T5Config(
        vocab_size=len(vocabulary), d_model=width, d_kv=4, d_ff=8, num_layers=1, num_heads=2, pad_token_id=0
    )
    return T5EncoderModel(config).eval(), tokenizer


def _sd(folder: Path, **scheduler: Any) -> Any:
    encoder, tokenizer = _clip(folder)
    return diffusers.StableDiffusionPipeline(
        autoencoder(scaling_factor=0.5), encoder, tokenizer, _unet(), diffusers.DDIMScheduler(**(EPSILON | scheduler)),
        None, None, requires_safety_checker=False,
    )  # fmt: skip


def _lcm(folder: Path, **scheduler: Any) -> Any:
    encoder, tokenizer = _clip(folder)
    return diffusers.LatentConsistencyModelPipeline(
        autoencoder(scaling_factor=0.5), encoder, tokenizer, _unet(time_cond_proj_dim=6),
        diffusers.LCMScheduler(**(EPSILON | scheduler)), None, None, requires_safety_checker=False,
    )  # fmt: skip


def _sdxl(folder: Path, **scheduler: Any) -> Any:
    one, tokenizer = _clip(folder)
    two, _ = _clip(folder, projected=True)
    unet = _unet(
        cross_attention_dim=2 * WIDTH, addition_embed_type="text_time", addition_time_embed_dim=2,
        projection_class_embeddings_input_dim=6 * 2 + WIDTH,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        autoencoder(scaling_factor=0.5), one, two, tokenizer, tokenizer, unet,
        diffusers.DDIMScheduler(**(EPSILON | scheduler)), force_zeros_for_empty_prompt=True,
    )  # fmt: skip


def _sd3(folder: Path, **scheduler: Any) -> Any:
    one, tokenizer = _clip(folder, projected=True)
    two, _ = _clip(folder, projected=True)
    three, tokenizer_3 = _t5(4 * WIDTH)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=4 * WIDTH, caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH, pos_embed_max_size=8,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **scheduler),
        autoencoder(shift_factor=0.1, scaling_factor=1.5), one, tokenizer, two, tokenizer, three, tokenizer_3,
    )  # fmt: skip


def _flux(folder: Path, **scheduler: Any) -> Any:
    one, tokenizer = _clip(folder)
    two, tokenizer_2 = _t5(2 * WIDTH)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=2 * WIDTH, pooled_projection_dim=WIDTH, guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return diffusers.FluxPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, **scheduler),
        autoencoder(shift_factor=0.1, scaling_factor=1.5), one, tokenizer, two, tokenizer_2, transformer,
    )  # fmt: skip
