"""A real SLURM on this machine: two nodes, on ports and paths of its own, taken down with the tests."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
OTHERS = ("SLURM_", "SBATCH_", "SRUN_", "REDDIFF_")  # settings of another cluster, or of its user
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # where the daemons are, also for who is not root

CONF = """\
ClusterName=reddiff
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5
JobRequeue=1
ReturnToService=2
MpiDefault=none
MaxArraySize=5
KillWait=5
SlurmdTimeout=3
MinJobAge=3600
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=200000 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=200000 Gres=gpu:2
PartitionName=main Nodes=n1,n2 Default=YES State=UP
"""


class Slurm:
    """A cluster of the nodes n1 and n2, each of 8 CPUs and 2 GPUs in name only.

    Args:
        folder: configuration, sockets, state and logs of its daemons.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(OTHERS)}
        self.env |= {
            "PATH": PATH,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Bring the daemons up, each in the foreground as a child of this process."""
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        (self.folder / "state").mkdir()
        for name in ("gpu0", "gpu1"):
            (self.folder / name).symlink_to("/dev/null")  # SLURM wants a device file
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-1]\n")
        (self.folder / "cgroup.conf").touch()
        conf = CONF.format(
            folder=self.folder, user=getpass.getuser(), host=socket.gethostname(), ports=_free_ports(3)
        )
        (self.folder / "slurm.conf").write_text(conf)
        paths = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        self._daemon(
            "munged",
            ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={paths['socket']}"]
            + [f"--{name}-file={paths[name]}" for name in ("pid", "log", "seed")],
        )
        self.wait(paths["socket"].exists, "munged to answer", 120)
        self._daemon("slurmctld", ["slurmctld", "-D", "-c"])
        self.start_node("n1")
        self.start_node("n2")
        self.wait_for_nodes("idle")

    def _daemon(self, name: str, command: list[str]) -> None:
        with open(self.folder / f"{name}.stdout", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                command, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder
            )

    def start_node(self, node: str) -> None:
        self._daemon(node, ["slurmd", "-D", "-N", node])

    def kill_node(self, node: str) -> None:
        """Kill a node's slurmd; what runs on the node runs on."""
        daemon = self.daemons.pop(node)
        daemon.kill()
        daemon.wait()

    def stop(self) -> None:
        """End the jobs and the daemons, and no other process."""
        if "slurmctld" in self.daemons:
            with contextlib.suppress(OSError):  # the daemons end also if someone has cleared the folder away
                self.run("scancel", "--user", getpass.getuser(), check=False)
        for name in ("n1", "n2", "slurmctld", "munged"):
            if daemon := self.daemons.pop(name, None):
                daemon.terminate()
                try:
                    daemon.wait(10)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
        for pid in self._own_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _own_processes(self) -> list[int]:
        """Jobs that outlived their slurmd, and what watches over them: this cluster is in their environment."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # ended meanwhile, or not ours
                items = (path / "environ").read_bytes().split(b"\0")
                job = any(item.startswith(b"SLURM_JOB_ID=") for item in items)
                if f"SLURM_CONF={self.folder}/slurm.conf".encode() in items and (
                    job or (path / "comm").read_text().startswith("slurmstepd")
                ):
                    found.append(int(path.name))
        return found

    @staticmethod
    def wait(
        condition: Callable[[], object], what: str, timeout: float = 900, report: Callable[[], object] = str
    ) -> None:
        """Wait until a condition holds; fails the test after so many seconds, with a report."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"waited {timeout:.0f} s for {what} {report()}")
            time.sleep(0.1)

    def run(self, *command: object, check: bool = True) -> str:
        """Run a command against this cluster; returns what it printed."""
        done = subprocess.run(
            [str(part) for part in command],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def sbatch(self, *arguments: object) -> str:
        """Submit a script; returns the job's number."""
        return self.run("sbatch", "--parsable", *arguments).strip()

    def reddiff(self, *arguments: object, check: bool = True) -> str:
        return self.run(sys.executable, "-m", "reddiff_pl", *arguments, check=check)

    def job(self, job: str) -> dict[str, str]:
        """A job's fields as `scontrol show job` names them."""
        words = self.run("scontrol", "show", "job", "--oneliner", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job: str) -> str:
        return self.job(job)["JobState"]

    def wait_for_job(self, job: str, *states: str, restarts: int = 0, timeout: float = 900) -> dict[str, str]:
        """Wait until a job that was requeued so many times is in one of `states`; returns its fields."""

        def there() -> bool:
            fields = self.job(job)
            return fields["JobState"] in states and int(fields["Restarts"]) >= restarts

        def report() -> list[str]:
            fields = self.job(job)
            return [f"{name}={fields[name]}" for name in ("JobState", "Reason", "Restarts", "ExitCode")]

        self.wait(there, f"job {job} to be {' or '.join(states)}", timeout, report)
        return self.job(job)

    def wait_for_nodes(self, state: str) -> None:
        def there() -> bool:
            states = self.run("sinfo", "--noheader", "--Node", "--format=%T", check=False).split()
            return states == [state, state]

        self.wait(there, f"the nodes to be {state}", 600, lambda: self.run("sinfo", "--Node", check=False))

    def start_now(self, job: str) -> None:
        """Let a requeued job start, which SLURM makes wait for two minutes.

        In two seconds: a node refuses a job within the second in which its first attempt was ended there.
        """
        self.wait_for_job(job, "PENDING")
        self.run("scontrol", "update", f"jobid={job}", "starttime=now+2")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A running cluster; without SLURM the tests that need it skip."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        pytest.skip(f"needs a real SLURM, not found: {', '.join(missing)} (apt-get install slurm-wlm munge)")
    # not in pytest's folder: munged wants one that all can enter, and a socket's path must be short
    folder = Path(tempfile.mkdtemp(prefix="reddiff-slurm-"))
    folder.chmod(0o755)
    cluster = Slurm(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
