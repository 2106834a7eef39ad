"""Which of how many tasks this process is. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping

from reddiff_pl.errors import ConfigError


def place(
    rank: int | None = None, world: int | None = None, env: Mapping[str, str] = os.environ
) -> tuple[int, int]:
    """Rank and world of this task: given, or from SLURM, torchrun or a Kubernetes indexed job; else 0 of 1.

    Under SLURM the task's place in its array and the process's place in its step are combined.
    REDDIFF_ARRAY_OFFSET is added to the place in the array, and REDDIFF_WORLD says how many tasks there are in
    all, for sites whose arrays must be short.

    Args:
        rank: --rank.
        world: --world.
        env: the environment.

    Raises:
        ConfigError: only one is given, or they do not fit each other.
    """
    if (rank is None) != (world is None):
        raise ConfigError("--rank and --world: give both or none")
    if rank is None or world is None:
        try:
            rank, world = _from_environment(env)
        except ValueError as error:
            raise ConfigError(
                f"--rank and --world: the environment's are not numbers ({error}); give both"
            ) from error
    elif not 0 <= rank < world:
        raise ConfigError(f"--rank: must be in 0..{world - 1}, got {rank}")
    return rank % max(world, 1), max(world, 1)


def _from_environment(env: Mapping[str, str]) -> tuple[int, int]:
    def number(name: str, default: int) -> int:
        return int(env.get(name) or default)

    whole = number("REDDIFF_WORLD", 0)
    if "SLURM_ARRAY_TASK_ID" in env or "SLURM_PROCID" in env:
        step = number("SLURM_ARRAY_TASK_STEP", 1)
        place_in_array = (number("SLURM_ARRAY_TASK_ID", 0) - number("SLURM_ARRAY_TASK_MIN", 0)) // step
        arrays = number("SLURM_ARRAY_TASK_COUNT", 1)
        processes = number("SLURM_NTASKS", 1)
        rank = (place_in_array + number("REDDIFF_ARRAY_OFFSET", 0)) * processes + number("SLURM_PROCID", 0)
        return rank, whole or arrays * processes
    if "RANK" in env and "WORLD_SIZE" in env:
        return number("RANK", 0), number("WORLD_SIZE", 1)
    if "JOB_COMPLETION_INDEX" in env:
        return number("JOB_COMPLETION_INDEX", 0), whole or 1
    return 0, 1
