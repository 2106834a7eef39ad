"""Killed again and again over restarts with one, two and three tasks: everything once, and the same bytes."""

from __future__ import annotations

import random
import signal
import time

import numpy as np
from helpers import CONFIGS, png, restored_keys, write_shard
from run_tasks import TINY, alive, assert_everything_once, tars, tiny_shards, wait_until, written


def kill_at_random(
    tasks, command, out, kills: int, pause: float, ends: frozenset[int] | set[int] = frozenset({0})
) -> int:
    """Rounds of one, two and three tasks, each killed at a random time after the round's first written sample.

    A task that ends before its turn has found nothing left to do. Ends after `kills` kills, or when the run is
    finished, with the exit code `ends`; returns how many it were.
    """
    chance = random.Random(0)
    done = rounds = 0
    while done < kills:
        world = 1 + rounds % 3
        rounds += 1
        before = written(out)
        running = [
            tasks.start(*command, "--out", out, f"--rank={i}", f"--world={world}") for i in range(world)
        ]
        wait_until(lambda: written(out) != before or not any(map(alive, running)))  # noqa: B023
        for pid in chance.sample(running, world):
            time.sleep(chance.uniform(0, pause))
            tasks.kill(pid)
        codes = [tasks.wait(pid) for pid in running]
        assert set(codes) <= {0, ends, -signal.SIGKILL}
        if -signal.SIGKILL not in codes:
            break
        done += codes.count(-signal.SIGKILL)
    print(f"{done} kills in {rounds} rounds")
    return done


def test_thirty_kills(tasks, tmp_path):
    """As many runs as thirty kills take: how long one lasts depends on the machine."""
    shards, samples, kills = 3, 40, 30
    pattern = tiny_shards(tmp_path / "in", shards, samples)
    options = ["--model.sampler.class_path=counting.CountingREDDiff", "--model.sampler.init_args.steps=40"]
    command = ["restore", *TINY, *options, "--data.shards", pattern]
    assert tasks.run(*command, "--out", tmp_path / "calm") == 0
    assert tasks.computed() == shards * samples
    done = runs = 0
    while done < kills:
        runs += 1
        out = tmp_path / f"chaos{runs}"
        done += kill_at_random(tasks, command, out, kills=kills - done, pause=0.1)
        assert tasks.run(*command, "--out", out) == 0
        assert_everything_once(out, shards, samples)
        assert tars(out) == tars(tmp_path / "calm")
    twice = tasks.computed() - (1 + runs) * shards * samples
    print(f"{done} kills, {twice} samples computed more than once in {runs} runs of {shards * samples}")
    # a kill costs the batch in work, one waiting to be written, and the cut one's written part
    assert twice <= done * 3 * 4


def test_kills_with_the_bundled_prior(tasks, tmp_path, photos):
    """A real network: the restarted run gives the bytes of the undisturbed one, with one task or three."""
    names = list(photos)[:9]
    for i in range(3):
        samples = [(key, {"jpg": photos[key]}) for key in names[3 * i : 3 * i + 3]]
        write_shard(tmp_path / "in" / f"{i}.tar", samples)
    command = [
        *("restore", "--config", CONFIGS / "tasks" / "superresolution_4x.yaml", "--trainer.accelerator=cpu"),
        *("--model.sampler.init_args.steps=2", "--data.batch_size=1"),
        *("--data.shards", tmp_path / "in" / "*.tar"),
    ]
    assert tasks.run(*command, "--out", tmp_path / "calm") == 0
    out = tmp_path / "chaos"
    kill_at_random(tasks, command, out, kills=3, pause=0.5)
    running = [tasks.start(*command, "--out", out, f"--rank={i}", "--world=3") for i in range(3)]
    assert [tasks.wait(pid) for pid in running] == [0, 0, 0]
    assert tars(out) == tars(tmp_path / "calm")
    assert [key for i in range(3) for key in restored_keys(out / "shards" / f"{i}.tar")] == names


def test_kills_among_many_sizes(tasks, tmp_path):
    """Ten sizes in a shard, restored together: the same bytes whatever was killed."""
    random = np.random.default_rng(0)
    sides = [(16, 16), (20, 31), (9, 5), (40, 17), (16, 33), (24, 24), (5, 40), (31, 20), (17, 16), (35, 35)]
    samples = []
    for i in range(30):
        picture = random.integers(0, 255, (*sides[7 * i % 10], 3), dtype=np.uint8)
        # some that fail, at their own places
        samples.append((f"{i:03d}", {"png": png(picture)[: 100 if i % 11 == 5 else None]}))
    shard = write_shard(tmp_path / "in.tar", samples)
    command = [
        *("restore", *TINY, "--data.fit=whole", "--model.sampler.init_args.steps=20"),
        *("--data.batch_size=7", "--data.shards", shard),
    ]
    assert tasks.run(*command, "--out", tmp_path / "calm") == 3
    out = tmp_path / "chaos"
    kill_at_random(tasks, command, out, kills=3, pause=0.2, ends=3)
    assert tasks.run(*command, "--out", out) == 3
    assert tars(out) == tars(tmp_path / "calm")
    assert restored_keys(out / "shards" / "in.tar") == [f"{i:03d}" for i in range(30) if i % 11 != 5]
