"""Output that cannot be written: a clear line, nothing lost, nothing double."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess

import pytest
from run_tasks import TINY, assert_everything_once, tars, tiny_shards

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")


@pytest.fixture
def calm(tasks, tmp_path):
    """The options of a run, and its undisturbed result in `calm`."""
    pattern = tiny_shards(tmp_path / "in", 2, 20)
    options = ["restore", *TINY, "--model.sampler.init_args.steps=3", "--data.shards", pattern]
    assert tasks.run(*options, "--out", tmp_path / "calm") == 0
    return options


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB, half of what the run writes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@needs_root
def test_disk_full(tasks, tmp_path, calm, small_disk):
    out = small_disk / "out"
    assert tasks.run(*calm, "--out", out) == 1
    assert "No space left on device" in tasks.printed.read_text()
    assert tasks.run(*calm, "--out", out) == 1, "and again"
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert tasks.run(*calm, "--out", out) == 0
    assert_everything_once(out, 2, 20)
    assert tars(out) == tars(tmp_path / "calm")


@needs_root
def test_read_only_output(tasks, tmp_path, calm, small_disk):
    out = small_disk / "out"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert tasks.run(*calm, "--out", out) == 2
    assert "Read-only file system" in tasks.printed.read_text()
    subprocess.run(["mount", "-o", "remount,rw,size=8m", str(small_disk)], check=True)
    assert tasks.run(*calm, "--out", out) == 0
    assert_everything_once(out, 2, 20)


def test_a_quota_is_reached(tasks, tmp_path, calm):
    """A limit on the size of files, as a quota: the write fails, the process lives."""
    import resource
    import signal

    out = tmp_path / "out"
    pid = tasks.start(*calm, "--out", out)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    assert tasks.wait(pid) in (1, -signal.SIGXFSZ)
    assert tasks.run(*calm, "--out", out) == 0
    assert tars(out) == tars(tmp_path / "calm")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"complete": true}', "\x00\xff", "another tar"])
def test_a_damaged_sidecar(tasks, tmp_path, calm, damage):
    out = tmp_path / "calm"
    before = tars(out)
    sidecar = out / "accounts" / "000000.json"
    if damage == "another tar":
        (out / "shards" / "000000.tar").write_bytes(before["000000.tar"][:5000])
    else:
        sidecar.write_text(damage)
    assert tasks.run(*calm, "--out", out) == 0
    assert_everything_once(out, 2, 20)
    assert tars(out) == before


def test_a_clock_that_goes_backwards(tasks, tmp_path, calm):
    """Files from the future change nothing."""
    out = tmp_path / "calm"
    before = tars(out)
    for path in (*(out / "shards").iterdir(), *(out / "accounts").iterdir()):
        os.utime(path, (4e9, 4e9))
    (out / "accounts" / "000001.json").unlink()
    assert tasks.run(*calm, "--out", out) == 0
    assert tars(out) == before


def test_a_file_system_without_locks(reddiff, monkeypatch, tmp_path, calm):
    """fcntl is refused by the kernel for this process: the run stops with that line before any work."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    code, printed = reddiff(*calm, "--out", tmp_path / "out")
    assert code == 2 and "refuses locks (No locks available)" in printed
    assert not list((tmp_path / "out" / "shards").glob("*.tar*"))
