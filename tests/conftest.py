"""Fixtures that all tests share."""

from __future__ import annotations

import logging
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# before torch, as the command does it
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# several workers (pytest -n) share the cores, as do the processes that they start
os.environ.setdefault(
    "OMP_NUM_THREADS", "2" if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") == "1" else "1"
)
# kernels run in Triton's interpreter where there is no device for them; read when triton is imported
os.environ.setdefault("TRITON_INTERPRET", "0" if os.path.exists("/dev/nvidiactl") else "1")

import torch
from helpers import VAL_SHARD


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def _heard() -> None:
    """A command that ran in this process keeps its log lines to itself; caplog is to hear those of this test."""
    logger = logging.getLogger("reddiff_pl")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On a shared machine waiting for a second thread costs ten times the work of a small tensor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def photos() -> dict[str, bytes]:
    """The val photos, {key: JPEG file}."""
    with tarfile.open(VAL_SHARD) as archive:
        return {m.name[:-4]: archive.extractfile(m).read() for m in archive if m.name.endswith(".jpg")}


@pytest.fixture
def reddiff(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs a command in this process; returns its exit code and all it printed."""
    from reddiff_pl.__main__ import main

    def run(*argv: str | Path) -> tuple[int, str]:
        capfd.readouterr()
        try:
            code = main([str(a) for a in argv])
        except SystemExit as exit:
            code = int(exit.code or 0)
        out, err = capfd.readouterr()
        return code, out + err

    return run


@pytest.fixture(scope="session")
def zygote():
    from run_tasks import Zygote

    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture
def tasks(zygote, tmp_path):
    """Runs commands in processes of their own."""
    from run_tasks import Tasks

    tasks = Tasks(zygote, tmp_path)
    yield tasks
    tasks.close()
