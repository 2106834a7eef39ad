"""The network to train: by its constructor's arguments, with random weights or those of a folder."""

from __future__ import annotations

import json
from typing import Any

import torch
from diffusers import UNet2DModel

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.loading import find_folder, load_network


def make_network(network: UNet2DModel | None, init_from: str | None) -> UNet2DModel:
    """The network in channels-last order, with gradients."""
    if network is None and init_from is None:
        raise ConfigError("--model.network: name the network's arguments, or give --model.init_from")
    if init_from is not None:
        option = "--model.init_from"
        found: Any = load_network(find_folder(init_from, False, option), ("UNet2DModel",), option)
        if network is None:
            network = found
        elif architecture(network.config) != architecture(found.config):
            mine, theirs = architecture(network.config), architecture(found.config)
            key = next(k for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k))
            raise ConfigError(
                f"--model.init_from: {init_from} is another network: {key} is {theirs.get(key)}, "
                f"that of --model.network {mine.get(key)}"
            )
        else:
            network.load_state_dict(found.state_dict())
    assert network is not None
    return network.to(memory_format=torch.channels_last).requires_grad_(True).train()


def architecture(config: Any) -> dict[str, Any]:
    """A network's configuration without what does not change its numbers."""
    plain = json.loads(json.dumps({k: v for k, v in config.items() if not k.startswith("_")}))
    # None and the default of T are the same
    return {**plain, "num_train_timesteps": plain.get("num_train_timesteps") or 1000, "dropout": None}
