"""Several tasks on one run: nothing twice, nothing left, whoever comes when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import CONFIGS, read_json, restored_keys, write_shard
from run_tasks import TINY, assert_everything_once, tars, tiny_shards, wait_until, written

COUNTED = ["--model.sampler.class_path=counting.CountingREDDiff"]


def test_swapped_ranks_and_staggered_starts(tasks, tmp_path):
    """Two tasks over forty shards; the second starts late, both are started again with their ranks swapped."""
    shards, samples = 40, 4
    pattern = tiny_shards(tmp_path / "in", shards, samples)
    out = tmp_path / "out"
    options = [*TINY, *COUNTED, "--model.sampler.init_args.steps=60", "--data.shards", pattern, "--out", out]
    first = tasks.start("restore", *options, "--rank=0", "--world=2")
    wait_until(lambda: len(list((out / "accounts").glob("*.json"))) >= 3)
    second = tasks.start("restore", *options, "--rank=1", "--world=2")
    wait_until(lambda: len(list((out / "accounts").glob("*.json"))) >= 8)
    swapped = [tasks.start("restore", *options, f"--rank={rank}", "--world=2") for rank in (1, 0)]
    assert [tasks.wait(pid) for pid in (first, second, *swapped)] == [0] * 4
    assert_everything_once(out, shards, samples)
    assert tasks.computed() == shards * samples, "no sample was computed twice"


def test_more_tasks_than_shards_and_an_empty_one(tasks, tmp_path):
    pattern = tiny_shards(tmp_path / "in", 2, 3)
    out = tmp_path / "out"
    options = [*TINY, "--model.sampler.init_args.steps=5", "--data.shards", pattern, "--out", out]
    running = [tasks.start("restore", *options, f"--rank={rank}", "--world=5") for rank in range(5)]
    assert [tasks.wait(pid) for pid in running] == [0] * 5
    assert_everything_once(out, 2, 3)


def test_a_task_finishes_what_a_dead_one_left(tasks, tmp_path):
    pattern = tiny_shards(tmp_path / "in", 4, 8)
    out = tmp_path / "out"
    options = [*TINY, "--model.sampler.init_args.steps=100", "--data.shards", pattern, "--out", out]
    dead = tasks.start("restore", *options, "--rank=0", "--world=2")
    wait_until(lambda: written(out) > 0)
    tasks.kill(dead)
    assert tasks.wait(dead) == -9
    assert tasks.run("restore", *options, "--rank=1", "--world=2") == 0
    assert_everything_once(out, 4, 8)
    log = (out / "logs" / "task-00001.log").read_text()
    assert "left by another task" in log and "task 1 of 2" in log


def test_results_do_not_depend_on_the_number_of_tasks(tasks, tmp_path, photos):
    """The bundled prior with one, two and three tasks: the same bytes."""
    names = list(photos)
    for i in range(3):
        write_shard(
            tmp_path / "in" / f"{i}.tar", [(key, {"jpg": photos[key]}) for key in names[3 * i : 3 * i + 3]]
        )
    options = [
        *("--config", CONFIGS / "tasks" / "inpainting_random.yaml", "--trainer.accelerator=cpu"),
        *("--model.sampler.init_args.steps=2", "--data.batch_size=2"),
        *("--data.shards", tmp_path / "in" / "*.tar"),
    ]
    for world in (1, 2, 3):
        out = tmp_path / f"world{world}"
        running = [
            tasks.start("restore", *options, "--out", out, f"--rank={r}", f"--world={world}")
            for r in range(world)
        ]
        assert [tasks.wait(pid) for pid in running] == [0] * world
        assert tars(out) == tars(tmp_path / "world1")


def test_devices_are_processes_of_their_own(tmp_path):
    """`--trainer.devices 2`: two children; one is killed, the run still ends whole. The parent has no torch."""
    pattern = tiny_shards(tmp_path / "in", 4, 12)
    out = tmp_path / "out"
    gate = tmp_path / "gate"
    command = [sys.executable, "-m", "reddiff_pl", "restore", *TINY, "--trainer.devices=2"]
    command += ["--model.sampler.class_path=counting.WaitingREDDiff", "--model.sampler.init_args.steps=5"]
    command += ["--data.shards", pattern, "--out", out]
    environment = {**os.environ, "GATE": str(gate), "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE, text=True, env=environment)

    def holders() -> list[dict]:
        """Who holds a shard; a lock being written says nothing yet."""
        texts = [path.read_text() for path in (out / "shards").glob("*.lock")]
        return [json.loads(text.splitlines()[-1]) for text in texts if text.endswith("\n")]

    # each holds two shards: the one in work, and the next, which is decoded ahead
    wait_until(lambda: {holder["task"] for holder in holders()} == {0, 1}, seconds=900)
    maps = Path(f"/proc/{parent.pid}/maps").read_text()
    assert "libtorch" not in maps
    os.kill(holders()[0]["pid"], signal.SIGKILL)
    gate.touch()
    _, printed = parent.communicate(timeout=900)
    assert parent.returncode == 0, printed
    assert "1 of 2 processes died" in printed
    assert_everything_once(out, 4, 12)


def test_a_sample_out_of_memory_halves_the_batch(tasks, tmp_path):
    """The same images, and one line about it."""
    pattern = tiny_shards(tmp_path / "in", 1, 9)
    options = [*TINY, "--model.sampler.init_args.steps=5", "--data.shards", pattern]
    assert tasks.run("restore", *options, *COUNTED, "--out", tmp_path / "roomy") == 0
    small = ["--model.sampler.class_path=counting.NarrowREDDiff"]
    assert tasks.run("restore", *options, *small, "--out", tmp_path / "narrow") == 0
    assert_everything_once(tmp_path / "narrow", 1, 9)
    assert tars(tmp_path / "narrow") == tars(tmp_path / "roomy")
    log = (tmp_path / "narrow" / "logs" / "task-00000.log").read_text()
    assert log.count("out of memory") == 1 and "1 images at a time" in log


def test_an_image_too_large_for_the_memory_is_one_that_failed(tasks, tmp_path):
    """The others are restored; where there is room for none, the run ends with a line instead of a traceback."""
    pattern = tiny_shards(tmp_path / "in", 1, 9)
    options = [*TINY, "--model.sampler.init_args.steps=5", "--data.shards", pattern]
    options += ["--model.sampler.class_path=counting.RoomlessREDDiff"]
    one = [*options, "--model.sampler.init_args.keys=-005"]
    assert tasks.run("restore", *one, "--out", tmp_path / "one") == 3
    failed = (tmp_path / "one" / "logs" / "task-00000.log").read_text()
    assert "s0-005" in failed and "too little for an image of 16x16 alone" in failed
    assert len(restored_keys(tmp_path / "one" / "shards" / "000000.tar")) == 8
    assert tasks.run("restore", *options, "--out", tmp_path / "none") == 1
    printed = tasks.printed.read_text()
    assert "too little for an image of 16x16 alone" in printed and "Traceback" not in printed


def test_a_raised_stop_iteration_is_a_crash(tasks, tmp_path):
    """Lightning takes it for the end of the data; the account does not."""
    pattern = tiny_shards(tmp_path / "in", 1, 9)
    options = [
        *TINY,
        "--model.sampler.init_args.steps=5",
        "--data.shards",
        pattern,
        "--out",
        tmp_path / "out",
    ]
    assert tasks.run("restore", *options, "--model.sampler.class_path=counting.EndingREDDiff") == 1
    assert "not finished" in tasks.printed.read_text()


def test_a_crash_leaves_the_shard_resumable(tasks, tmp_path):
    pattern = tiny_shards(tmp_path / "in", 1, 12)
    options = [*TINY, "--model.sampler.init_args.steps=5", "--data.shards", pattern]
    assert tasks.run("restore", *options, *COUNTED, "--out", tmp_path / "calm") == 0
    crashing = ["--model.sampler.class_path=counting.CrashingREDDiff"]
    assert tasks.run("restore", *options, *crashing, "--out", tmp_path / "out") == 1
    printed = tasks.printed.read_text()
    assert "run the same command again" in printed
    out = tmp_path / "out"
    assert len(restored_partial(out / "shards" / "000000.tar.partial")) == 8, (
        "two batches were written before it"
    )
    (out / "config.yaml").unlink()  # the test's own sampler has another name
    assert tasks.run("restore", *options, *COUNTED, "--out", out) == 0
    assert tars(out) == tars(tmp_path / "calm")


def restored_partial(path) -> list[str]:
    from reddiff_pl.shards.tar import scan

    with open(path, "rb") as file:
        return [whole.key for whole in scan(file)]


class TestRetry:
    """Failed samples are tried again when asked for, and the shard is written anew in order."""

    @pytest.fixture
    def mended(self, tasks, tmp_path):
        """A run with failures whose inputs were mended afterwards."""
        pattern = tiny_shards(tmp_path / "in", 2, 10)
        whole = (tmp_path / "in" / "000000.tar").read_bytes()
        options = [*TINY, "--model.sampler.init_args.steps=5", "--data.shards", pattern]
        assert tasks.run("restore", *options, "--out", tmp_path / "calm") == 0
        broken = whole.replace(b"IDAT", b"IDAX", 3)
        (tmp_path / "in" / "000000.tar").write_bytes(broken)
        assert tasks.run("restore", *options, "--out", tmp_path / "out") == 3
        assert len(read_json(tmp_path / "out" / "accounts" / "000000.json")["failed"]) == 3
        assert tasks.run("restore", *options, "--out", tmp_path / "out") == 3, "they are not tried unasked"
        (tmp_path / "in" / "000000.tar").write_bytes(whole)
        return options

    def test_it_ends_as_if_nothing_had_failed(self, tasks, tmp_path, mended):
        other = (tmp_path / "out" / "shards" / "000001.tar").stat()
        assert tasks.run("restore", *mended, "--out", tmp_path / "out", "--retry-failed=true") == 0
        assert_everything_once(tmp_path / "out", 2, 10)
        assert tars(tmp_path / "out") == tars(tmp_path / "calm")
        assert (tmp_path / "out" / "shards" / "000001.tar").stat().st_ino == other.st_ino

    def test_the_old_shard_stays_until_the_new_one_is_whole(self, tasks, tmp_path, mended):
        out = tmp_path / "out"
        old = (out / "shards" / "000000.tar").read_bytes()
        slow = [*mended, "--out", out, "--retry-failed=true"]
        pid = tasks.start("restore", *slow)
        wait_until(lambda: (out / "shards" / "000000.tar.partial").exists() or not pid)
        tasks.kill(pid)
        tasks.wait(pid)
        tar = (out / "shards" / "000000.tar").read_bytes()
        assert tar == old or tar == (tmp_path / "calm" / "shards" / "000000.tar").read_bytes()
        assert tasks.run("restore", *slow) == 0
        assert tars(out) == tars(tmp_path / "calm")


def test_too_many_failures_stop_the_run(tasks, tmp_path):
    write_shard(tmp_path / "in" / "0.tar", [(f"k{i:02d}", {"png": b"broken"}) for i in range(60)])
    options = [*TINY, "--model.sampler.init_args.steps=2", "--data.shards", tmp_path / "in" / "0.tar"]
    assert tasks.run("restore", *options, "--out", tmp_path / "out", "--max-failed=0.5") == 4
    assert not (tmp_path / "out" / "accounts" / "0.json").exists()
    assert len((tmp_path / "out" / "shards" / "0.failed.jsonl").read_text().splitlines()) < 60
    assert tasks.run("restore", *options, "--out", tmp_path / "out") == 3
    assert len(read_json(tmp_path / "out" / "accounts" / "0.json")["failed"]) == 60


def test_overwrite_starts_anew_and_deletes_nothing_else(tasks, tmp_path):
    pattern = tiny_shards(tmp_path / "in", 1, 4)
    options = ["restore", *TINY, "--model.sampler.init_args.steps=2", "--data.shards", pattern]
    out = tmp_path / "out"
    assert tasks.run(*options, "--out", out) == 0
    (out / "notes.txt").write_text("mine")
    assert tasks.run(*options, "--out", out, "--seed=1") == 2
    assert tasks.run(*options, "--out", out, "--seed=1", "--overwrite=true") == 0
    assert (out / "notes.txt").exists()
    assert_everything_once(out, 1, 4)
    assert tasks.run(*options, "--out", out, "--overwrite=true", "--rank=0", "--world=2") == 2
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")
    assert tasks.run(*options, "--out", tmp_path / "home", "--overwrite=true") == 2
    assert (tmp_path / "home" / "thesis.tex").exists()
