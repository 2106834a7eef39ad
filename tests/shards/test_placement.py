"""Rank and world from whatever started the task."""

from __future__ import annotations

import pytest

from reddiff_pl.errors import ConfigError
from reddiff_pl.shards.placement import place

ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "6"}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, (0, 1)),
        (ARRAY, (3, 6)),
        ({**ARRAY, "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "2"}, (3, 6)),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "8"}, (2, 8)),
        ({**ARRAY, "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (7, 12)),
        ({**ARRAY, "REDDIFF_ARRAY_OFFSET": "1000", "REDDIFF_WORLD": "2006"}, (1003, 2006)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        ({"JOB_COMPLETION_INDEX": "5", "REDDIFF_WORLD": "9"}, (5, 9)),
        # part of an array submitted again: no rank is out of the world, the locks do the rest
        ({"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "2", "SLURM_ARRAY_TASK_COUNT": "2"}, (1, 2)),
    ],
)
def test_from_the_environment(env, expected):
    assert place(env=env) == expected


def test_given_ones_win_and_must_fit():
    assert place(1, 3, ARRAY) == (1, 3)
    for rank, world in ((3, 3), (-1, 3), (0, 0), (None, 3), (1, None)):
        with pytest.raises(ConfigError, match="--rank"):
            place(rank, world, {})
    with pytest.raises(ConfigError, match="not numbers"):
        place(env={"RANK": "one", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(("arrays", "processes"), [(1, 1), (4, 1), (3, 2), (1, 5)])
def test_every_task_of_an_array_of_steps_has_its_own_rank(arrays, processes):
    ranks = [
        place(
            env={
                "SLURM_ARRAY_TASK_ID": str(a),
                "SLURM_ARRAY_TASK_COUNT": str(arrays),
                "SLURM_NTASKS": str(processes),
                "SLURM_PROCID": str(p),
            }
        )
        for a in range(arrays)
        for p in range(processes)
    ]
    assert sorted(ranks) == [(i, arrays * processes) for i in range(arrays * processes)]
