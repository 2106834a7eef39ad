"""The fused forward pass of networks that see a text, against diffusers' own."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device or TRITON_INTERPRET=1", allow_module_level=True)

from diffusers import UNet2DConditionModel
from networks import error

from reddiff_pl.priors.families import Call, stable_diffusion, stable_diffusion_conditions
from reddiff_pl.priors.fused import tokens
from reddiff_pl.priors.fused.conditional import FusedConditionUNet
from reddiff_pl.priors.fused.obstacle import obstacle
from reddiff_pl.priors.loading import full_precision

full_precision()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 8,
    "use_linear_projection": True,
    "transformer_layers_per_block": 2,
}
NETWORKS: dict[str, dict[str, Any]] = {"Stable Diffusion": {}, "SDXL": SDXL, "LCM": {"time_cond_proj_dim": 6}}


def network(**settings: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    made = UNet2DConditionModel(**{
        "sample_size": 8, "block_out_channels": (16, 24), "layers_per_block": 1, "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 8, "attention_head_dim": 2,
        **settings,
    })  # fmt: skip
    for parameter in made.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return made.eval().requires_grad_(False).to(DEVICE)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_is_the_network(name: str) -> None:
    net = network(**NETWORKS[name])
    assert obstacle(net) is None
    pooled = torch.randn(2, 8, device=DEVICE) if name == "SDXL" else None
    asked = Call(
        torch.randn(2, 4, 4, 2, device=DEVICE), torch.tensor([3, 937], device=DEVICE),
        torch.randn(2, 5, 8, device=DEVICE), pooled, 8, 7.5,
    )  # fmt: skip
    expected = stable_diffusion(net, asked)
    given = stable_diffusion_conditions(net, asked)
    assert bool(given) == (name != "Stable Diffusion")
    if DEVICE.type == "cpu":  # the device's matrix products of float32 are not exact
        fused = FusedConditionUNet(copy.deepcopy(net), torch.float32, 4)
        assert error(fused(asked.x, asked.time, asked.words, **given), expected) < 1e-5
    other = replace(asked, words=torch.randn_like(asked.words))
    assert error(stable_diffusion(net, other), expected) > 0.01, "the text counts"
    if DEVICE.type == "cpu" and name != "SDXL":
        return  # the interpreter is slow
    # weights that came in 16 bits, as a pipeline's do; the network that gave them away still works
    loaded = copy.deepcopy(net).half()
    half = FusedConditionUNet(loaded, torch.float16, 4)
    assert error(half(asked.x, asked.time, asked.words, **given), expected) < 1e-2
    if DEVICE.type == "cuda":
        asked = Call(
            asked.x.half(), asked.time, asked.words.half(), None if pooled is None else pooled.half(), 8, 7.5
        )
        assert error(stable_diffusion(loaded, asked), expected) < 1e-2


@pytest.mark.parametrize("channels", [24, 320])
@torch.no_grad()
def test_tokens(channels: int) -> None:
    x, update = (torch.randn(2, 7, channels, device=DEVICE) for _ in range(2))
    norm = nn.LayerNorm(channels, device=DEVICE)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    bias = torch.randn(channels, device=DEVICE)
    torch.testing.assert_close(tokens.norm(x, norm), norm(x), rtol=1e-5, atol=1e-5)
    for offset in (bias, None):
        total = x + update + (0 if offset is None else offset)
        out, normed = tokens.add_norm(x, update, offset, norm)
        torch.testing.assert_close(out, total, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(normed, norm(total), rtol=1e-5, atol=1e-5)
        out, same = tokens.add_norm(x, update, offset, None)
        torch.testing.assert_close(out, total, rtol=1e-6, atol=1e-6)
        assert same is out
    h, bias = torch.randn(2, 7, 2 * channels, device=DEVICE), torch.randn(2 * channels, device=DEVICE)
    for offset in (bias, None):
        a, b = (h + (0 if offset is None else offset)).chunk(2, -1)
        torch.testing.assert_close(tokens.gated(h, offset), a * F.gelu(b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"class_embed_type": "timestep"}, "class_embed_type timestep"),
        ({"only_cross_attention": True}, "its normalisation, attention or positions"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "UNetMidBlock2DSimpleCrossAttn"),
        ({"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 8}, "encoder_hid_dim_type text_proj"),
    ],
)
def test_obstacles_are_named(settings: dict[str, Any], name: str) -> None:
    assert name in str(obstacle(network(**settings)))
