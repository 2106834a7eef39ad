"""The networks that are timed: their random weights, their FLOP, and whether their activations are alive.

A product of zeros draws less power and runs faster than one of ordinary numbers, so weights, inputs and activations
must not be zero. Published networks of the ADM family begin training with their last convolutions at zero.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reddiff_pl.errors import ConfigError

ADM256: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "sample_size": 256,
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": [256, 256, 512, 512, 1024, 1024],
    "layers_per_block": 2,
    "down_block_types": ["ResnetDownsampleBlock2D"] * 3 + ["AttnDownBlock2D"] * 3,
    "up_block_types": ["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"] * 3,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 64,
    "norm_num_groups": 32,
    "attn_norm_num_groups": 32,
    "norm_eps": 1e-5,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "act_fn": "silu",
}
"""The unconditional 256x256 network of the ADM family: 552.8 million parameters, 2,240 GFLOP a forward pass.

References:
    Diffusion Models Beat GANs on Image Synthesis | https://arxiv.org/abs/2105.05233
"""

MOST_ZEROS = 0.01  # share of exact zeros in an activation above which a timing would flatter


def make_network(folder: str | Path, config: dict[str, Any] | None = None, seed: int = 0) -> str:
    """Write a random network as a diffusers folder with float16 weights; leaves one that is there alone.

    Args:
        folder: where; made if need be.
        config: the config.json of a UNet2DModel; default: `ADM256`.
        seed: of its weights.

    Returns:
        The folder's path.

    Raises:
        ConfigError: the folder cannot be written.
    """
    folder = Path(folder)
    if (folder / "diffusion_pytorch_model.safetensors").is_file():  # written last
        return str(folder)
    from reddiff_pl.training.files import schedule, write_prior

    config = config or ADM256
    network = empty_network(config).to_empty(device="cpu")
    randomise(network, seed)
    try:
        write_prior(folder, config, network.state_dict(), schedule("epsilon"))
    except OSError as error:
        raise ConfigError(f"--work: cannot write {folder}: {error.strerror}") from error
    return str(folder)


def empty_network(config: dict[str, Any]) -> nn.Module:
    """A UNet2DModel without memory, on the meta device."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    from reddiff_pl.priors.loading import wide_unet

    with torch.device("meta"):
        return wide_unet(config).eval()


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Random weights that keep activations at ordinary sizes, none of them zero.

    Matrices and kernels are normal with variance 1 / fan-in; scales of norms 1 + 0.1 n; offsets 0.02 n.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(network.named_parameters()):
            draws = torch.empty(value.shape).normal_(generator=generator)
            if value.ndim > 1:
                value.copy_(draws / math.sqrt(value[0].numel()))
            elif name.endswith("bias"):
                value.copy_(0.02 * draws)
            else:
                value.copy_(1 + 0.1 * draws)


def flop(network: nn.Module, shape: tuple[int, int, int], classes: int = 0) -> int:
    """Floating-point operations of one image's forward pass, two for each multiplication with its addition.

    Counted on the meta device: products and convolutions, attention as the two products that it is.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counted = empty_network(network_config(network))
    label = torch.zeros(1, dtype=torch.long, device="meta") if classes else None
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        counted(
            torch.zeros(1, *shape, device="meta"),
            torch.zeros(1, dtype=torch.long, device="meta"),
            class_labels=label,
        )
    return counter.get_total_flops()


def network_config(network: Any) -> dict[str, Any]:
    """Its config.json, without diffusers' private entries."""
    return {key: value for key, value in network.config.items() if not key.startswith("_")}


def zeros(network: nn.Module, x: Tensor, t: Tensor, label: Tensor | None = None) -> dict[str, Any]:
    """How many exact zeros the layers of an eager forward pass give.

    Args:
        network: a UNet2DModel, on the device of `x`.
        x: noisy images, (B, C, H, W).
        t: timesteps, long (B,).
        label: class labels, long (B,), for class-conditional networks.

    Returns:
        tensors: floating outputs of layers that were looked at; all_zero and over_1_percent: names of the layers with
        such an output; largest: the largest share of zeros; alive: whether both lists are empty; zero_weights: matrices
        and kernels that are all zero.
    """
    shares: dict[str, float] = {}

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            for value in output if isinstance(output, tuple) else (output,):
                if isinstance(value, Tensor) and value.is_floating_point():
                    share = (value == 0).float().mean().item()
                    shares[name] = max(share, shares.get(name, 0.0))

        return hook

    hooks = [
        module.register_forward_hook(look(name or "network")) for name, module in network.named_modules()
    ]
    try:
        with torch.no_grad():
            network(x, t, class_labels=label, return_dict=False)
    finally:
        for hook in hooks:
            hook.remove()
    dead = [name for name, value in network.named_parameters() if value.ndim > 1 and not value.any()]
    all_zero = sorted(name for name, share in shares.items() if share == 1)
    many = sorted(name for name, share in shares.items() if share > MOST_ZEROS)
    return {
        "tensors": len(shares),
        "largest": max(shares.values(), default=0.0),
        "all_zero": all_zero,
        "over_1_percent": many,
        "zero_weights": dead,
        "alive": not (all_zero or many or dead),
    }
