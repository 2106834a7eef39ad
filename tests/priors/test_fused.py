"""The fused forward pass against diffusers' own, and each kernel against what it stands for.

Without a CUDA device the kernels run in Triton's interpreter, which knows no bfloat16.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device or TRITON_INTERPRET=1", allow_module_level=True)

from diffusers import UNet2DModel
from networks import error

from reddiff_pl.priors.fused import convs, ops, products, unet
from reddiff_pl.priors.fused.obstacle import obstacle
from reddiff_pl.priors.fused.unet import FusedUNet
from reddiff_pl.priors.loading import full_precision

full_precision()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

ATTENTION = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
RESNETS = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
NETWORKS: dict[str, dict[str, Any]] = {
    # 40 + 16 channels in 8 groups: one group lies across the concatenation
    "as the bundled prior": {
        **ATTENTION,
        "block_out_channels": (16, 40),
        "resnet_time_scale_shift": "scale_shift",
    },
    "t is added": {**ATTENTION, "block_out_channels": (16, 24), "downsample_padding": 0},
    "ADM with classes": {
        **RESNETS,
        "block_out_channels": (16, 32),
        "out_channels": 6,
        "num_class_embeds": 3,
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 8,
    },
    "centred input, other size": {**ATTENTION, "block_out_channels": (8, 16), "center_input_sample": True},
}


def network(settings: dict[str, Any]) -> UNet2DModel:
    torch.manual_seed(0)
    made = UNet2DModel(
        **{
            "sample_size": 8,
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "attention_head_dim": 8,
            **settings,
        }
    )
    for parameter in made.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # none is zero, nor a norm's weight one
    return made.eval().requires_grad_(False).to(DEVICE)


def evaluated(name: str) -> tuple[UNet2DModel, Tensor, Tensor, Tensor | None, Tensor]:
    """One of NETWORKS, noisy images, timesteps and labels, and what diffusers' own forward pass makes of them."""
    net = network(NETWORKS[name])
    size = (4, 12) if "size" in name else (8, 8)
    x = torch.randn(2, 3, *size, device=DEVICE)  # of few: the interpreter is slow
    t = torch.tensor([3, 937], device=DEVICE)
    labels = torch.tensor([2, 1], device=DEVICE) if "classes" in name else None
    expected = net(x, t, class_labels=labels, return_dict=False)[0][:, :3]
    return net, x, t, labels, expected


def doubled(x: Tensor) -> Tensor:
    """(B, H, W, C), enlarged to nearest neighbours."""
    return x.repeat_interleave(2, 1).repeat_interleave(2, 2)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_is_the_network(name: str) -> None:
    """To the precision of its numbers: float32 1e-5, float16 better than autocast in bfloat16."""
    net, x, t, labels, expected = evaluated(name)
    assert obstacle(net) is None
    if DEVICE.type == "cpu":  # the device's matrix products of float32 are not exact
        fused = FusedUNet(copy.deepcopy(net), torch.float32, 3)
        assert error(fused(x, t, labels), expected) < 1e-5
    half = FusedUNet(copy.deepcopy(net), torch.float16, 3)
    assert error(half(x, t, labels), expected) < 5e-3
    # the network that gave its weights away still works
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert error(half.network(x, t, class_labels=labels, return_dict=False)[0][:, :3], expected) < 0.05


@torch.no_grad()
def test_images_may_lie_in_memory_in_any_order() -> None:
    """As operators give them: transposed, channels last, a part of something larger."""
    net, x, t, *_ = evaluated("as the bundled prior")
    fused = FusedUNet(copy.deepcopy(net), torch.float16, 3)
    expected = fused(x, t)
    larger = torch.zeros(2, 4, 9, 9, device=DEVICE)
    larger[:, 1:, :8, :8] = x
    for same in (x.mT.contiguous().mT, x.to(memory_format=torch.channels_last), larger[:, 1:, :8, :8]):
        assert not same.is_contiguous()
        assert torch.equal(fused(same, t), expected)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_is_the_network_in_eight_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels in float32 exactly; in 8 bits, on a device, to what 3 bits of mantissa leave."""
    monkeypatch.setattr(unet, "EIGHT_BITS_FROM", 20)  # the lower level's maps stay as they are
    net, x, t, labels, expected = evaluated(name)
    if DEVICE.type == "cpu":
        exact = FusedUNet(copy.deepcopy(net), torch.float32, 3, torch.float32)
        assert exact.eight
        assert error(exact(x, t, labels), expected) < 1e-5
        part = FusedUNet(copy.deepcopy(net), torch.float32, 3, torch.float32, exact_blocks=(1, 2))
        assert len(part.eight) == len(exact.eight) - 1
        assert sum(second is None for _, second in part.eight.values()) == 2
        assert error(part(x, t, labels), expected) < 1e-5
        assert error(part(x, t, labels, eight_bits=False), expected) < 1e-5
    else:  # Triton's interpreter rounds to 8 bits wrongly: 1.97 to 1
        coarse = FusedUNet(copy.deepcopy(net), torch.float16, 3, torch.float8_e4m3fn)
        assert 1e-4 < error(coarse(x, t, labels), expected) < 0.1


@pytest.mark.parametrize("enlarged", [False, True])
@pytest.mark.parametrize("channels", [(32, 48), (80, 16), (16, 144)])
@torch.no_grad()
def test_convolution_in_eight_bits(channels: tuple[int, int], enlarged: bool) -> None:
    """Of numbers that 8 bits hold: exact but for the order of the sums; beyond the borders there are zeros."""
    C, N = channels
    B, H, W = 2, 5, 12
    x = torch.randint(-7, 8, (B, H, W, C), device=DEVICE).half()
    weight = torch.randint(-7, 8, (N, C, 3, 3), device=DEVICE).float()
    identity = torch.ones(B, C, device=DEVICE), torch.zeros(B, C, device=DEVICE)
    operand = ops.activate([x], identity, silu=False, operand=torch.float8_e4m3fn)
    assert operand.shape == (B, H + 1, W + 1, C)
    assert not operand[:, H].float().any() and not operand[:, :, W].float().any()
    large = doubled(x) if enlarged else x
    plain = F.conv2d(large.permute(0, 3, 1, 2).double(), weight.double(), padding=1).permute(0, 2, 3, 1)
    bias, whole = torch.randn(N, device=DEVICE), torch.randn_like(plain)
    half = whole[:, ::2, ::2][:, : plain.shape[1] // 2, : plain.shape[2] // 2]
    for residual in (None, whole, half) if plain.shape[1] % 2 == 0 else (None, whole):
        given = None if residual is None else residual.float().contiguous()
        out, sums = convs.conv(
            operand, convs.weights8(weight, torch.float8_e4m3fn, enlarged), torch.float32, bias, given, 0.5
        )
        expected = plain + bias
        if residual is not None:
            expected = expected + (residual if residual is whole else doubled(residual))
        expected = expected / 2
        # of an enlarged map, sums of weights are rounded
        assert error(out, expected) < (0.03 if enlarged else 1e-5 if DEVICE.type == "cpu" else 1e-3)
        torch.testing.assert_close(sums.sum(1)[:, 0], out.sum((1, 2)), atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(sums.sum(1)[:, 1], out.square().sum((1, 2)), atol=1e-2, rtol=1e-4)
    assert (
        convs.conv(operand, convs.weights8(weight, operand.dtype), torch.float32, sums=False)[1].numel() == 0
    )


@torch.no_grad()
def test_operands_stay_finite() -> None:
    """What is beyond the range of 8 bits is the largest number there, not NaN."""
    x = torch.full((1, 2, 2, 16), 60000.0, device=DEVICE, dtype=torch.float16)
    ones = torch.ones(1, 16, device=DEVICE)
    operand = ops.activate([x, -x], (ones.repeat(1, 2), 0 * ones.repeat(1, 2)), False, torch.float8_e4m3fn)
    assert operand[:, :2, :2].float().abs().eq(448).all()


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch() -> None:
    """But for convolutions and products, whose library may choose another way for another batch."""
    h, bias = torch.randn(3, 20, 12, 24, device=DEVICE), torch.randn(24, device=DEVICE)
    norm = nn.GroupNorm(8, 24).to(DEVICE)

    def normalised(h: Tensor) -> Tensor:
        map = ops.add(h, bias)
        return ops.activate([map.x], ops.affine([map.sums], 240, norm))

    assert torch.equal(normalised(h)[1:2], normalised(h[1:2]))


@pytest.mark.parametrize("shape", [(2, 8, 8, 32), (3, 12, 20, 40), (1, 2, 2, 16)])
@torch.no_grad()
def test_add_and_normalise(shape: tuple[int, int, int, int]) -> None:
    B, H, W, C = shape
    h, residual = torch.randn(shape, device=DEVICE), torch.randn(shape, device=DEVICE)
    half = torch.randn(B, H // 2, W // 2, C, device=DEVICE)
    bias = torch.randn(C, device=DEVICE)
    norm = nn.GroupNorm(8, C).to(DEVICE)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    enlarged = doubled(half)
    for other, value in ((None, 0), (residual, residual), (half, enlarged)):
        map = ops.add(h, bias, other, 0.5)
        expected = (h + bias + value) / 2
        torch.testing.assert_close(map.x, expected)
        torch.testing.assert_close(map.sums.sum(1)[:, 0], expected.sum((1, 2)), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(map.sums.sum(1)[:, 1], expected.square().sum((1, 2)), atol=1e-4, rtol=1e-5)

    modulation = torch.randn(B, 2 * C + 5, device=DEVICE)[:, : 2 * C]
    scale, shift = (part[:, :, None, None] for part in modulation.chunk(2, 1))
    sums = ops.sums_of(h)
    a, b = ops.affine([sums], H * W, norm, bias, modulation=modulation)
    expected = F.silu(norm((h + bias).permute(0, 3, 1, 2)) * (1 + scale) + shift)
    value = ops.activate([h], (a, b)).permute(0, 3, 1, 2)
    torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-4)

    added = modulation[:, :C]
    expected = F.silu(norm((h + bias + added[:, None, None]).permute(0, 3, 1, 2)))
    scales = ops.affine([sums], H * W, norm, bias, shift=added)
    value = ops.activate([h], scales).permute(0, 3, 1, 2)
    torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-4)
    value, reduced = (each.permute(0, 3, 1, 2) for each in ops.halve(h, scales))
    torch.testing.assert_close(value, F.avg_pool2d(expected, 2), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(reduced, F.avg_pool2d(h.permute(0, 3, 1, 2), 2))
    assert torch.equal(ops.double(half), enlarged)


@torch.no_grad()
def test_a_convolution_of_an_enlarged_map() -> None:
    """In pieces, which every kernel reads as the map that they are."""
    x, weight = torch.randn(2, 6, 10, 16, device=DEVICE), torch.randn(24, 16, 3, 3, device=DEVICE)
    pieces = ops.conv_enlarged(x, ops.halves(weight))
    expected = F.conv2d(enlarge(x.permute(0, 3, 1, 2)), weight, padding=1)
    bias = torch.randn(24, device=DEVICE)
    map = ops.add(pieces, bias)
    torch.testing.assert_close(
        map.x.permute(0, 3, 1, 2), expected + bias[:, None, None], atol=1e-3, rtol=1e-4
    )
    torch.testing.assert_close(map.sums.sum(1)[:, 0], map.x.sum((1, 2)), atol=1e-2, rtol=1e-4)
    norm = nn.GroupNorm(8, 24).to(DEVICE)
    value = ops.activate([pieces], ops.affine([ops.sums_of(pieces)], 240, norm))
    torch.testing.assert_close(value.permute(0, 3, 1, 2), F.silu(norm(expected)), atol=1e-3, rtol=1e-3)


def enlarge(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


@pytest.mark.parametrize("channels", [(32, 24), (40, 0)])
@torch.no_grad()
def test_concatenation(channels: tuple[int, int]) -> None:
    """The shortcut's product, and a normalisation whose groups lie across two maps."""
    xs = [torch.randn(2, 12, 20, C, device=DEVICE).half() for C in channels if C]
    whole = torch.cat(xs, 3)
    norm = nn.GroupNorm(8, whole.shape[3]).to(DEVICE)
    maps = [ops.add(x, None) for x in xs]
    value = ops.activate(xs, ops.affine([map.sums for map in maps], 240, norm))
    expected = F.silu(norm(whole.float().permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
    assert error(value, expected) < 1e-3
    weight, h = (
        torch.randn(48, whole.shape[3], device=DEVICE).half(),
        torch.randn(2, 12, 20, 48, device=DEVICE).half(),
    )
    bias = torch.randn(48, device=DEVICE)
    map = products.shortcut(xs, weight, h, bias, 0.5)
    expected = (h.float() + bias + whole.float() @ weight.float().T) / 2
    assert error(map.x, expected) < 1e-3
    torch.testing.assert_close(map.sums.sum(1)[:, 0], map.x.float().sum((1, 2)), atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(
        map.sums.sum(1)[:, 1], map.x.float().square().sum((1, 2)), atol=1e-2, rtol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_convolutions_of_few_channels(dtype: torch.dtype) -> None:
    """As exact as their weights, whatever the maps are."""
    image = torch.randn(2, 3, 12, 20, device=DEVICE)
    weight, bias = torch.randn(24, 3, 3, 3, device=DEVICE).half(), torch.randn(24, device=DEVICE)
    map = products.conv_in(image, products.few_in(weight), bias, dtype)
    expected = F.conv2d(image, weight.float(), bias, padding=1).permute(0, 2, 3, 1)
    assert map.x.dtype == dtype
    rounding = error(expected.to(dtype), expected)
    if DEVICE.type == "cpu":  # the interpreter cuts
        rounding *= 2
    assert error(map.x, expected) < rounding + 5e-4
    x = torch.randn(2, 12, 20, 24, device=DEVICE).to(dtype)
    a, b = torch.randn(2, 24, device=DEVICE), torch.randn(2, 24, device=DEVICE)
    weight, bias = torch.randn(3, 24, 3, 3, device=DEVICE).half(), torch.randn(3, device=DEVICE)
    value = products.conv_out(x, (a, b), products.few_out(weight), bias)
    active = F.silu(x.float() * a[:, None, None] + b[:, None, None]).permute(0, 3, 1, 2)
    assert value.is_contiguous()
    assert error(value, F.conv2d(active, weight.float(), bias, padding=1)) < 1e-3


@torch.no_grad()
def test_the_first_and_the_last_weights_are_finer_than_bfloat16() -> None:
    """Their rounding would be a colour cast: the same in every pixel."""
    net = network(NETWORKS["as the bundled prior"])
    fused = FusedUNet(copy.deepcopy(net), torch.bfloat16, 3)
    assert error(fused.conv_in, products.few_in(net.conv_in.weight)) < 5e-4
    assert error(fused.conv_out, products.few_out(net.conv_out.weight)) < 5e-4


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({**ATTENTION, "up_block_types": ("AttnUpBlock2D", "SkipUpBlock2D")}, "SkipUpBlock2D"),
        ({**ATTENTION, "time_embedding_type": "fourier"}, "fourier"),
        ({**ATTENTION, "act_fn": "gelu"}, "GELU"),
        ({**ATTENTION, "block_out_channels": (12, 24), "norm_num_groups": 4}, "12 channels"),
    ],
)
def test_obstacles_are_named(settings: dict[str, Any], name: str) -> None:
    assert name in str(obstacle(network({"block_out_channels": (32, 64), **settings})))
