"""Checks of the samplers' options: one line that names the option, before any work."""

from __future__ import annotations

import math

from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.samplers.timesteps import Grid, time_grid


def chosen_times(
    timesteps: list[int] | None, grid: Grid, abar: Tensor, steps: int, t_max: int | None, t_min: int | None
) -> list[int]:
    """The timesteps that the options say, descending.

    Raises:
        ConfigError: which option does not fit the prior.
    """
    T = len(abar)
    if timesteps is None:
        try:
            return time_grid(grid, abar, steps, t_max, t_min)
        except ValueError as error:
            name = "steps" if str(error).startswith("steps") else "t_min"
            raise ConfigError(f"model.sampler.init_args.{name}: {error}") from error
    wrong = [t for t in timesteps if not 0 <= t < T]
    if wrong or not timesteps:
        raise ConfigError(f"model.sampler.init_args.timesteps: must be in 0..{T - 1}, got {wrong or '[]'}")
    return sorted(timesteps, reverse=True)


_PREFIX = "model.sampler.init_args."


def check_option(
    name: str, value: float, low: float = 0.0, high: float = math.inf, prefix: str = _PREFIX
) -> None:
    """Refuse an option out of [low, high], or one that is not finite; it is a sampler's but for another prefix.

    Raises:
        ConfigError: which option.
    """
    if not low <= value <= high or not math.isfinite(value):
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ConfigError(f"{prefix}{name}: must be {bounds}, got {value}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a sampler's option that is none of the choices.

    Raises:
        ConfigError: which option.
    """
    if value not in choices:
        raise ConfigError(f"model.sampler.init_args.{name}: must be one of {', '.join(choices)}, got {value}")
