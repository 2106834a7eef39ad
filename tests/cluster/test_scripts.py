"""`reddiff submit` and the scripts it fills in, without SLURM."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import CONFIGS, QUICK, write_shard

from reddiff_pl.cluster.submit import arrays
from reddiff_pl.import_path import python_command
from reddiff_pl.shards.placement import place

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "slurm").glob("*.sbatch"))
TASK = str(CONFIGS / "tasks" / "inpainting_random.yaml")


@pytest.fixture(autouse=True)
def no_slurm(tmp_path, monkeypatch):
    """A machine without SLURM's commands, and three shards."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        write_shard(tmp_path / "in" / f"{name}.tar", [])


@pytest.fixture
def dry(reddiff):
    """Runs `reddiff submit --dry-run` on the three shards; returns plan and scripts by their names."""

    def run(*argv: str) -> tuple[str, dict[str, str]]:
        code, printed = reddiff("submit", "--dry-run", *argv, "--data.shards", "in/*.tar", "--out", "out")
        assert code == 0, printed
        plan, *parts = re.split(r"^# \S*/slurm/(\S+\.sbatch)\n", printed, flags=re.MULTILINE)
        assert not Path("out").exists(), "nothing is written"
        return plan, dict(zip(parts[::2], parts[1::2], strict=True))

    return run


def directives(script: str) -> list[str]:
    return re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)


def words(script: str, variable: str) -> list[str]:
    """The shell's own reading of the program's name or its options in a script."""
    lines = script[: script.index("\n\n", script.index("\nset -- "))]
    done = subprocess.run(
        ["/bin/bash", "-c", f'{lines}\nprintf "%s\\0" "{variable}"'],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shipped_scripts_are_sound(path):
    assert subprocess.run(["/bin/bash", "-n", path], capture_output=True).stderr == b""
    lines = path.read_text().splitlines()
    body = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[body:] if line.startswith("#SBATCH")], "SLURM would not see them"
    for before, line in itertools.pairwise(lines):
        if line.startswith("#SBATCH"):
            assert before.startswith("# "), f"{line} says why it is there"
    assert "--job-name=bash" not in path.read_text()


@pytest.mark.parametrize("fails", ["", "evaluate"])
def test_the_follow_up_runs_what_the_version_has(tmp_path, fails):
    program = tmp_path / "reddiff"
    program.write_text(
        "#!/bin/bash\n"
        "[ $1 != --help ] || exec printf 'commands:\\n  evaluate  this\\n  reporting  not this\\n'\n"
        f'echo "$@" >>{tmp_path}/called\n'
        f"[ $1 != '{fails}' ]\n"
    )
    program.chmod(0o755)
    command = ["/bin/bash", str(ROOT / "slurm" / "follow_up.sbatch"), "o ut"]
    done = subprocess.run(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert (tmp_path / "called").read_text() == "evaluate o ut\nstatus o ut\n"
    assert done.returncode == (1 if fails else 0)


def test_the_plan_counts_what_is_left(dry, reddiff):
    plan, scripts = dry("--tasks", "2")
    assert "3, 0 finished, 3 to do" in plan and "2, about 2 shards a task" in plan
    assert list(scripts) == ["restore.sbatch"] and "--array=0-1" in directives(scripts["restore.sbatch"])
    _, printed = reddiff("submit", "--dry-run", "--tasks=5", "--data.shards", "in/*.tar", "--out", "out")
    assert "warning: 5 tasks for 3 shards: 2 will find nothing to do" in printed

    restore = ["restore", *QUICK, "--config", TASK, "--data.shards", "in/{b,c}.tar", "--out", "out"]
    assert reddiff(*restore)[0] == 3  # empty shards are done, and a failure
    command = ["submit", "--dry-run", "--tasks", "2", "--data.shards", "in/*.tar", "--out", "out"]
    code, printed = reddiff(*command)
    assert code == 0 and "3, 2 finished, 1 to do" in printed and "1 will find nothing to do" in printed

    command[command.index("in/*.tar")] = "in/{b,c}.tar"
    code, printed = reddiff(*command)
    assert code == 0 and "nothing is left to do" in printed and "#SBATCH" not in printed
    code, printed = reddiff(*command, "--retry-failed=true")
    assert code == 0 and "#SBATCH" in printed


def test_tables_are_shared_by_the_tasks(reddiff):
    tables = ["tables", "--suite", "daps", "--samplers", "reddiff", "--set", "hdr.seed=1", "--out", "o ut"]
    code, printed = reddiff("submit", "--dry-run", "--tasks", "3", "--time=1:00:00", "--", *tables)
    assert code == 0 and not Path("o ut").exists()
    plan, _, script = printed.partition("/slurm/restore.sbatch\n")
    assert sum(line.endswith("to do") for line in plan.splitlines()) == 7, "all tasks but the nonlinear blur"
    assert "--array=0-2" in directives(script) and words(script, "$what") == ["tables"]
    assert words(script, "$@") == tables[1:]
    code, printed = reddiff("submit", "--dry-run", "--tasks", "3", "--", *tables, "--task", "hdr")
    assert code == 2 and "--task: did you mean --tasks" in printed and printed.count("\n") == 1
    code, printed = reddiff("submit", "--dry-run", "--tasks=3", "--follow-up", "--", *tables)
    assert code == 2 and "--follow-up: the last task" in printed


def test_options_reach_their_places(dry):
    _, scripts = dry(
        *("--tasks", "3", "--throttle", "2", "--partition", "gpu", "--account=me", "--time", "01:00:00"),
        *("--cpus-per-task", "8", "--mem", "64G", "--gres", "gpu:a100:1", "--setup", "module load a; . b c"),
        *("--sbatch-arg=--qos=long", "--sbatch-arg=--job-name=other", "--sbatch-arg=-C a100"),
        "--sbatch-arg=--exclusive",
    )
    script = scripts["restore.sbatch"]
    assert {
        *("--array=0-2%2", "--partition=gpu", "--account=me", "--time=01:00:00", "--cpus-per-task=8"),
        *("--mem=64G", "--gres=gpu:a100:1", "--qos=long", "--job-name=other", "-C a100", "--exclusive"),
        *(f"--output={Path.cwd()}/out/slurm/%A_%a.out", f"--chdir={Path.cwd()}", "--signal=USR2@120"),
    } <= set(directives(script))
    names = [directive.partition("=")[0] for directive in directives(script)]
    assert len(names) == len(set(names)), "nothing is said twice"
    assert "\nmodule load a; . b c\n" in script and "\nreddiff=(reddiff)\n" in script
    _, scripts = dry("--tasks", "3", "--gres", "none")
    assert not [d for d in directives(scripts["restore.sbatch"]) if d.startswith("--gres")]
    assert words(scripts["restore.sbatch"], "${reddiff[@]}") == python_command()
    _, scripts = dry("--multinode", "2", "4", "--follow-up", "--command", "apptainer exec 'a b.sif' reddiff")
    assert list(scripts) == ["restore_multinode.sbatch", "follow_up.sbatch"]
    for script in scripts.values():
        assert words(script, "${reddiff[@]}") == ["apptainer", "exec", "a b.sif", "reddiff"]
    assert {"--nodes=2", "--ntasks-per-node=4", "--gres=gpu:4"} <= set(
        directives(scripts["restore_multinode.sbatch"])
    )
    assert words(scripts["follow_up.sbatch"], "$@") == ["out"]


def test_what_restore_gets_is_unchanged(dry):
    odd = [
        "--model.sampler",
        "{class_path: X}",
        "--limit",
        "5",
        '--a.b=it\'s "$HOME" `x` \\',
        "--neg",
        "-1",
        "--empty",
        "",
    ]
    ours, theirs = ["--tasks", "2"], ["--data.shards", "in/*.tar", "--out", "out"]
    assert words(dry(*ours, *odd)[1]["restore.sbatch"], "$@") == [*odd, *theirs]
    assert words(dry(*odd[:2], *ours, *odd[2:])[1]["restore.sbatch"], "$@") == [*odd, *theirs]
    assert words(dry(*ours, "--", "--time", "x", *odd)[1]["restore.sbatch"], "$@") == [
        *("--time", "x"),
        *odd,
        *theirs,
    ]
    near = ("seed", "limit", "retry-failed", "max-failed", "publish", "trust-physics")
    dry(*ours, *(f"--{name}=1" for name in near))  # none is taken for a misspelt option of submit


@pytest.mark.parametrize(
    ("tasks", "throttle", "largest"), [(1, None, 1), (7, 5, 3), (10, 4, 5), (2500, 64, 1000)]
)
def test_arrays_share_tasks_and_throttle(tasks, throttle, largest):
    split = arrays(tasks, throttle, largest)
    ranks = [
        place(
            env={
                "SLURM_ARRAY_TASK_ID": str(i),
                "SLURM_ARRAY_TASK_COUNT": str(array.count),
                "REDDIFF_ARRAY_OFFSET": str(array.offset),
                "REDDIFF_WORLD": str(tasks),
            }
        )
        for array in split
        for i in range(array.count)
    ]
    assert ranks == [(rank, tasks) for rank in range(tasks)]
    assert max(array.count for array in split) <= largest
    if throttle is not None:
        assert sum(array.throttle or 0 for array in split) == throttle
        assert all(array.throttle for array in split)


def test_many_tasks_become_several_arrays(dry):
    _, scripts = dry("--tasks", "7", "--throttle", "5", "--max-array-size", "3")
    assert list(scripts) == ["restore.sbatch", "restore-3.sbatch", "restore-6.sbatch"]
    found = [
        (words(script, "$REDDIFF_ARRAY_OFFSET $REDDIFF_WORLD")[0], directives(script)[1])
        for script in scripts.values()
    ]
    assert found == [("0 7", "--array=0-2%2"), ("3 7", "--array=0-2%2"), ("6 7", "--array=0-0%1")]


def test_options_may_stand_in_configurations(reddiff, tmp_path):
    for name, content in {
        "one.yaml": {"out": "one", "data": {"shards": ["in/a.tar", "in/b.tar"]}},
        "two.yaml": {"out": "two"},
    }.items():
        Path(name).write_text(yaml.safe_dump(content))
    command = ["submit", "--dry-run", "--tasks", "1", "--config", "one.yaml"]
    for argv, out, shards in [
        ([], "one", 2),
        (["--config=two.yaml"], "two", 2),
        (["--config", "two.yaml", "--out", "three", "--data.shards={in/c,in/a,in/b}.tar"], "three", 3),
        (["--data.shards", '["in/c.tar"]'], "one", 1),
    ]:
        code, printed = reddiff(*command, *argv)
        assert code == 0, printed
        assert f"{shards}, 0 finished" in printed and f"/{out}/slurm/restore.sbatch" in printed


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--tasks", "1"], "sbatch: not found"),
        ([], "--tasks --multinode is required"),
        (["--tasks", "0"], "at least 1"),
        (["--tasks", "1", "--multinode", "1", "1"], "not allowed with"),
        (["--multinode", "2", "2", "--throttle", "1"], "--throttle"),
        (["--tasks", "9", "--throttle", "2", "--max-array-size", "3", "--dry-run"], "--throttle: 3 arrays"),
        (["--tasks", "1", "--partion", "gpu"], "did you mean --partition"),
        (["--tasks", "1", "--throttel=2"], "did you mean --throttle"),
        (["--partion", "gpu", "--tasks", "1", "--"], "--partion"),
        (["--tasks", "1", "--rank", "0", "--world", "2"], "--rank and --world"),
        (["--tasks", "1", "--overwrite", "true"], "--overwrite: "),
        (["--tasks", "1", "--config", "none.yaml"], "--config: none.yaml"),
        (
            ["--tasks", "1", "--dry-run", "--data.images", "in"],
            "--data.shards, --data.images or --data.measured",
        ),
    ],
)
def test_wrong_options_are_one_line(reddiff, argv, message):
    code, printed = reddiff("submit", *argv, "--data.shards", "in/*.tar", "--out", "out")
    assert code == 2 and message in printed, printed
    assert printed.startswith("reddiff submit: error: ") and printed.count("\n") == 1
    assert not Path("out").exists()


def test_out_is_needed(reddiff):
    code, printed = reddiff("submit", "--tasks", "1", "--dry-run", "--data.shards", "in/*.tar")
    assert code == 2 and printed.startswith("reddiff submit: error: --out: ")


def test_it_answers_without_the_heavy_libraries(reddiff):
    """And its help says what it is about."""
    program = (
        "import sys; from reddiff_pl.__main__ import main; code = main(sys.argv[1:]); "
        "sys.exit(code or (9 if {'torch', 'lightning', 'webdataset'} & set(sys.modules) else 0))"
    )
    command = ["submit", "--tasks", "1", "--dry-run", "--data.shards", "in/*.tar", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-c", program, *command], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0
    code, printed = reddiff("submit", "--help")
    assert code == 0 and "--sbatch-arg=--qos=long" in printed
