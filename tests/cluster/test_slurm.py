"""The scripts of slurm/ and `reddiff submit` on a real SLURM: what is requeued, what is not, and nothing lost."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from helpers import CONFIGS, png, read_json, restored_keys, write_shard

SCRIPTS = Path(__file__).parents[2] / "slurm"

# stands for `reddiff restore` where the scripts are what is tested: one task ends by itself, the others wait
PROGRAM = """\
#!/bin/bash
me="${SLURM_ARRAY_TASK_ID:-$SLURM_PROCID} restart ${SLURM_RESTART_COUNT:-0}"
echo "begins $me pid $$ gpu ${CUDA_VISIBLE_DEVICES:-none} cores $SLURM_CPUS_PER_TASK options$(printf ' <%s>' "$@")"
trap 'echo "USR2 $me"; exit 85' USR2
[ -z "$CODES" ] || { codes=($CODES); exit "${codes[${SLURM_ARRAY_TASK_ID:-0}]}"; }
while :; do sleep 0.1; done
"""


@pytest.fixture
def program(slurm, tmp_path) -> list[str]:
    """Options of `submit` for the program above."""
    path = tmp_path / "program"
    path.write_text(PROGRAM)
    path.chmod(0o755)
    write_shard(tmp_path / "in" / "a.tar", [])
    return [
        *("--command", str(path), "--cpus-per-task", "1", "--mem", "1G"),
        *("--data.shards", str(tmp_path / "in" / "a.tar"), "--out", str(tmp_path / "out")),
    ]


def submitted(printed: str) -> list[str]:
    return re.findall(r"^submitted (\d+)", printed, re.MULTILINE)


def test_only_exit_code_85_is_requeued(slurm, program, tmp_path, monkeypatch):
    """Five tasks of one array; the number of the last one's job is that of the array."""
    monkeypatch.setitem(slurm.env, "CODES", "0 1 3 143 85")
    array = submitted(slurm.reddiff("submit", "--tasks", 5, "--gres", "none", *program))[0]
    assert slurm.wait_for_job(f"{array}_4", "PENDING", restarts=1)["JobId"] == array
    for task, state in enumerate(["COMPLETED", "FAILED", "FAILED", "FAILED"]):
        fields = slurm.wait_for_job(f"{array}_{task}", state)
        assert fields["Restarts"] == "0", "nothing but 85 is requeued, nor the whole array with it"
    log = tmp_path / "out" / "slurm" / f"{array}_4.out"
    assert "cores 1 options <restore> <--data.shards>" in log.read_text()

    slurm.start_now(f"{array}_4")
    slurm.wait_for_job(f"{array}_4", "PENDING", restarts=2)
    assert log.read_text().count("begins 4 restart") == 2, "the log is appended to"
    slurm.run("scancel", array)

    monkeypatch.setitem(slurm.env, "SLURM_RESTART_COUNT", "20")
    array = submitted(slurm.reddiff("submit", "--tasks", 5, "--gres", "none", *program))[0]
    assert slurm.wait_for_job(f"{array}_4", "FAILED")["ExitCode"] == "85:0"
    assert "restarted 20 times already" in (tmp_path / "out" / "slurm" / f"{array}_4.out").read_text()


def test_scripts_take_options_as_arguments(slurm, tmp_path, monkeypatch):
    """As they are in slurm/, with a `reddiff` on the path."""
    path = tmp_path / "bin" / "reddiff"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    path.chmod(0o755)
    monkeypatch.setitem(slurm.env, "PATH", f"{path.parent}:{slurm.env['PATH']}")
    monkeypatch.setitem(slurm.env, "CODES", "0")
    given = ("--cpus-per-task=2", "--mem=1G", f"--output={tmp_path}/%j.out")
    array = slurm.sbatch("--array=0", *given, SCRIPTS / "restore.sbatch", "--limit", "a b")
    fit = slurm.sbatch(
        *("--nodes=2", "--ntasks-per-node=2", "--gres=gpu:2", *given, SCRIPTS / "fit.sbatch", "--out", "a b")
    )
    slurm.wait_for_job(array, "COMPLETED")
    slurm.wait_for_job(fit, "COMPLETED")
    begun = re.findall(
        r"begins (\d) .* gpu (\S+) cores 2 options (.*)", (tmp_path / f"{array}.out").read_text()
    )
    assert begun == [("0", "0", "<restore> <--limit> <a b>")]
    begun = re.findall(
        r"begins (\d) .* gpu (\S+) cores 2 options (.*)", (tmp_path / f"{fit}.out").read_text()
    )
    options = "<fit> <--out> <a b> <--trainer.num_nodes=2> <--trainer.devices=2> <--trainer.strategy=ddp>"
    assert sorted(begun) == [(str(rank), "0,1", options) for rank in range(4)]


def test_slurm_has_its_say(slurm, program):
    """How long an array may be, and what it refuses."""
    printed = slurm.reddiff("submit", "--dry-run", "--tasks", 7, *program)
    assert re.findall(r"^#SBATCH --array=(.*)$", printed, re.MULTILINE) == ["0-4", "0-1"]
    printed = slurm.reddiff("submit", "--tasks", 1, "--partition", "nowhere", *program, check=False)
    assert "reddiff submit: error: " in printed and "invalid partition" in printed


def test_slurm_itself_stops_a_task_before_its_time_limit(slurm, program, tmp_path):
    """120 s before; with a limit of two minutes that is at once, or when SLURM looks next."""
    job = submitted(slurm.reddiff("submit", "--tasks", 1, "--time", "2", *program))[0] + "_0"
    slurm.wait_for_job(job, "PENDING", restarts=1)
    text = (tmp_path / "out" / "slurm" / f"{job}.out").read_text()
    assert "USR2 0" in text and "ended with exit code 85" in text
    slurm.run("scancel", job)


def test_one_job_with_many_tasks(slurm, program, tmp_path):
    """One killed leaves the others working; they ask for a requeue when stopped, and get it."""
    job = submitted(slurm.reddiff("submit", "--multinode", 2, 2, *program))[0]
    log = tmp_path / "out" / "slurm" / f"{job}.out"
    slurm.wait(lambda: log.exists() and log.read_text().count("begins") == 4, "four tasks")
    tasks = re.findall(r"begins (\d) restart 0 pid (\d+) gpu (\d) ", log.read_text())
    assert sorted((rank, gpu) for rank, _, gpu in tasks) == [("0", "0"), ("1", "1"), ("2", "0"), ("3", "1")]
    os.kill(next(int(pid) for rank, pid, _ in tasks if rank == "1"), signal.SIGKILL)
    slurm.wait(lambda: "task 1: Exited with exit code 137" in log.read_text(), "the end of a task")
    assert slurm.state(job) == "RUNNING"
    slurm.run("scancel", "--signal=USR2", job)
    slurm.wait_for_job(job, "PENDING", restarts=1)
    assert sorted(re.findall(r"USR2 (\d)", log.read_text())) == ["0", "2", "3"]
    slurm.run("scancel", job)


def holders(out: Path) -> dict[int, tuple[int, str]]:
    """Tasks with a sample written in the shard they hold: {rank: (process, shard)}."""
    found = {}
    for path in (out / "shards").glob("*.lock"):
        partial = path.with_suffix(".tar.partial")
        if partial.exists() and partial.stat().st_size:
            line = json.loads(path.read_text().splitlines()[-1])
            found[line["task"]] = (line["pid"], path.stem)
    return found


def test_an_array_outlives_what_a_cluster_does(slurm, tmp_path):
    """Four tasks over seven shards: one killed, one stopped and requeued, one cancelled, one cut off with its node.

    Each is held (SIGSTOP) at its first shard until its turn comes, so that the order of events does not depend on
    the machine's speed.
    """
    random = np.random.default_rng(0)
    keys = {f"{i}": [f"s{i}-{j}" for j in range(8)] for i in range(7)}
    for name, its in keys.items():
        images = [png(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in its]
        write_shard(tmp_path / f"in/{name}.tar", [(k, {"png": i}) for k, i in zip(its, images, strict=True)])
    out = tmp_path / "out"
    command = [
        *("submit", "--cpus-per-task", "1", "--mem", "1G", "--time", "20"),
        *("--config", CONFIGS / "priors/gaussian.yaml", "--config", CONFIGS / "tasks/inpainting_random.yaml"),
        *("--model.prior.init_args.shape", "[3,16,16]", "--model.sampler.init_args.steps=200"),
        *("--trainer.accelerator=cpu", "--data.batch_size=1"),
        *("--data.shards", tmp_path / "in" / "*.tar", "--out", out),
    ]
    printed = slurm.reddiff(*command, "--tasks", 4)
    assert "7, 0 finished, 7 to do" in printed
    array = submitted(printed)[0]

    held: dict[int, tuple[int, str]] = {}

    def hold() -> bool:
        for rank, (pid, shard) in holders(out).items():
            if rank not in held:
                os.kill(pid, signal.SIGSTOP)
                held[rank] = (pid, shard)
        return len(held) == 4

    slurm.wait(hold, "a sample of each task")
    assert sorted(shard for _, shard in held.values()) == ["0", "1", "2", "3"]
    nodes = {rank: slurm.job(f"{array}_{rank}")["NodeList"] for rank in held}
    lost = nodes[3]
    killed, stopped = (rank for rank in range(4) if nodes[rank] != lost)
    cancelled, cut_off = (rank for rank in range(4) if nodes[rank] == lost)

    os.kill(held[killed][0], signal.SIGKILL)
    slurm.run("scancel", f"{array}_{cancelled}")
    slurm.wait_for_job(f"{array}_{killed}", "FAILED")
    slurm.wait_for_job(f"{array}_{cancelled}", "CANCELLED")
    slurm.kill_node(lost)
    os.kill(held[stopped][0], signal.SIGCONT)
    slurm.run("scancel", "--signal=USR2", f"{array}_{stopped}")
    slurm.wait_for_job(f"{array}_{stopped}", "PENDING", restarts=1)
    slurm.start_now(f"{array}_{stopped}")

    # SLURM gives the node up and starts its task elsewhere, while the first attempt is still alive
    slurm.wait_for_job(f"{array}_{cut_off}", "PENDING", restarts=1)
    slurm.start_now(f"{array}_{cut_off}")
    pid, shard = held[cut_off]
    log = out / "logs" / f"task-{cut_off:05d}.log"
    slurm.wait(
        lambda: f"shard {shard}: held by" in log.read_text(), "the second attempt to find the shard held"
    )
    assert f"process {pid}" in log.read_text()
    assert slurm.job(f"{array}_{cut_off}")["NodeList"] != lost
    partial = out / "shards" / f"{shard}.tar.partial"
    before = partial.stat().st_size
    os.kill(pid, signal.SIGCONT)
    slurm.wait(lambda: partial.stat().st_size > before, "the first attempt to go on")
    os.kill(pid, signal.SIGSTOP)
    for rank in (stopped, cut_off):
        slurm.wait_for_job(f"{array}_{rank}", "COMPLETED")

    # the node is back, and SLURM ends what should not run there
    slurm.start_node(lost)
    slurm.wait(lambda: not Path(f"/proc/{pid}").exists(), "the end of the first attempt")
    assert {rank: slurm.state(f"{array}_{rank}") for rank in (killed, cancelled)} == {
        killed: "FAILED",
        cancelled: "CANCELLED",
    }, "not resurrected"

    printed = slurm.reddiff(*command, "--tasks", 2, "--max-array-size", 1, "--follow-up")
    assert "7, 6 finished, 1 to do" in printed
    first, second, follow_up = submitted(printed)
    slurm.wait_for_job(follow_up, "COMPLETED")
    assert [slurm.state(job) for job in (first, second)] == ["COMPLETED", "COMPLETED"]
    assert "7 of 7 shards done" in (out / "slurm" / f"follow-up-{follow_up}.out").read_text()
    assert "nothing is left to do" in slurm.reddiff(*command, "--tasks", 2)

    names = sorted(path.name for path in (out / "shards").iterdir())
    assert names == sorted(f"{name}.tar" for name in keys)
    for name, its in keys.items():
        assert restored_keys(out / "shards" / f"{name}.tar") == its
        assert read_json(out / "accounts" / f"{name}.json")["restored"] == 8

    def logs(rank: int) -> tuple[str, str]:
        return (
            (out / "logs" / f"task-{rank:05d}.log").read_text(),
            (out / "slurm" / f"{array}_{rank}.out").read_text(),
        )

    assert "ended with exit code 137" in logs(killed)[1]
    assert "stopped by a signal" in logs(cancelled)[0] and "CANCELLED" in logs(cancelled)[1]
    assert "stopped by a signal" in logs(stopped)[0] and "ended with exit code 85" in logs(stopped)[1]
    assert "restart 1" in logs(stopped)[1] and "left by another task" in logs(stopped)[0] + logs(cut_off)[0]
    assert "Node failure" in logs(cut_off)[1] and "restart 1" in logs(cut_off)[1]
