"""A process takes the cores and the memory that it needs, and its helpers no more than their share."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch
from run_tasks import TINY, tiny_shards

from reddiff_pl.devices.cores import cores, share
from reddiff_pl.physics import Inpainting

SEEN: set[tuple[bool, int]] = set()


class WatchedInpainting(Inpainting):
    """Notes how many threads each thread that calls it may use."""

    def A(self, x, **kwargs):
        decoding = threading.current_thread().name.startswith("decode")
        SEEN.add((decoding, torch.get_num_threads()))
        return super().A(x, **kwargs)


def test_a_process_bound_to_a_core_has_one():
    program = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    program += "from reddiff_pl.devices.cores import cores; print(cores({}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 1


def test_slurm_and_the_user_are_asked():
    everything = cores({})
    assert 1 <= everything <= len(os.sched_getaffinity(0))
    assert cores({"SLURM_CPUS_PER_TASK": "1"}) == 1
    assert cores({"SLURM_CPUS_PER_TASK": "100000"}) == cores({"SLURM_CPUS_PER_TASK": ""}) == everything
    assert share(1, {}) == {"OMP_NUM_THREADS": str(everything)}
    assert share(2, {}) == {"OMP_NUM_THREADS": str(max(everything // 2, 1))}
    assert share(1000, {}) == {"OMP_NUM_THREADS": "1"}, "none is left without"
    assert share(2, {"OMP_NUM_THREADS": "3"}) == {}, "the user's stays"


@pytest.mark.parametrize("mine", ["", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_command_sets_what_torch_reads_unless_the_user_did(mine):
    env = {k: v for k, v in os.environ.items() if "ALLOC_CONF" not in k and k != "OMP_WAIT_POLICY"}
    env |= {mine: "max_split_size_mb:64"} if mine else {}
    program = "import os, reddiff_pl.__main__\n"
    program += "print(*(f'{k}={v}' for k, v in sorted(os.environ.items()) if 'ALLOC' in k or k.startswith('OMP_WAIT')))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env
    )
    allocator = f"{mine}=max_split_size_mb:64" if mine else "PYTORCH_ALLOC_CONF=expandable_segments:True"
    assert done.stdout.split() == ["OMP_WAIT_POLICY=PASSIVE", allocator]


def test_decoding_threads_take_one_core_each(reddiff, tmp_path):
    SEEN.clear()
    before = torch.get_num_threads()
    options = [f"--model.physics.class_path={__name__}.WatchedInpainting", "--limit=4"]
    options += ["--data.shards", tiny_shards(tmp_path / "in", 1, 4), "--out", tmp_path / "out"]
    code, printed = reddiff("restore", *TINY, "--model.sampler.init_args.steps=2", *options)
    assert code == 0, printed
    assert {number for decoding, number in SEEN if decoding} == {1}
    assert {number for decoding, number in SEEN if not decoding} == {before} == {torch.get_num_threads()}
