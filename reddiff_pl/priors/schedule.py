"""Noise schedules: abar_t = prod_{s<=t} (1 - beta_s) from the scheduler_config.json of a diffusers model.

References:
    Denoising Diffusion Probabilistic Models | https://arxiv.org/abs/2006.11239
    Improved Denoising Diffusion Probabilistic Models | https://arxiv.org/abs/2102.09672
    Common Diffusion Noise Schedules and Sample Steps are Flawed | https://arxiv.org/abs/2305.08891
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")

# abar of the last timestep where a schedule ends in pure noise: 0 would make sigma_t / alpha_t infinite
_LAST_ABAR = 2.0**-24


def abar_from(config: Mapping[str, Any]) -> Tensor:
    """abar, (T,), float64, descending, of a scheduler's configuration with diffusers' names and defaults.

    Reads num_train_timesteps, trained_betas, or beta_schedule, beta_start and beta_end, and rescale_betas_zero_snr.

    Raises:
        ConfigError: a schedule that is not one over discrete timesteps, or not known.
    """
    kind = str(config.get("_class_name", ""))
    if "FlowMatch" in kind:
        raise ConfigError(
            f"model.prior: a network with a {kind} is a flow; it goes through reddiff_pl.priors.Flow"
        )
    if any(word in kind for word in ("ScoreSde", "Karras", "EDM", "Consistency", "CMStochastic")):
        raise ConfigError(
            f"model.prior: {kind} has no discrete timesteps; networks in sigma go through reddiff_pl.priors.EDM"
        )
    betas = config.get("trained_betas")
    try:
        given = _betas(config) if betas is None else torch.tensor(betas, dtype=torch.float64)
        abar = (1 - given).cumprod(0)
    except (
        TypeError,
        ValueError,
        OverflowError,
        RuntimeError,
    ) as error:  # a text for a number, a negative length
        raise ConfigError(
            f"model.prior: the schedule cannot be made: {' '.join(str(error).split())}"
        ) from error
    if not (abar.ndim == 1 and len(abar) and ((abar >= 0) & (abar < 1)).all()):
        raise ConfigError("model.prior: the schedule's betas must be between 0 and 1")
    if config.get("rescale_betas_zero_snr"):
        root = abar.sqrt()
        abar = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
    return abar.clamp(min=_LAST_ABAR)


def _betas(config: Mapping[str, Any]) -> Tensor:
    T = 1000 if config.get("num_train_timesteps") is None else int(config["num_train_timesteps"])
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    schedule = config.get("beta_schedule", "linear")
    if schedule == "linear":
        return torch.linspace(start, end, T, dtype=torch.float64)
    if schedule == "scaled_linear":
        return torch.linspace(math.sqrt(start), math.sqrt(end), T, dtype=torch.float64).square()
    if schedule == "squaredcos_cap_v2":
        time = torch.arange(T + 1, dtype=torch.float64) / T
        level = ((time + 0.008) / 1.008 * math.pi / 2).cos().square()
        return (1 - level[1:] / level[:-1]).clamp(max=0.999)
    if schedule == "sigmoid":
        return torch.linspace(-6, 6, T, dtype=torch.float64).sigmoid() * (end - start) + start
    raise ConfigError(
        f"model.prior.init_args.beta_schedule: must be one of {', '.join(SCHEDULES)}, got {schedule}"
    )
