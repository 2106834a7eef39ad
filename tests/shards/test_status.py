"""`reddiff status` says how far a run is, from its files alone, and changes none of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import write_shard

from reddiff_pl.files import write_atomically
from reddiff_pl.shards.failures import count_failure, kind_of
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.lock import ShardLock
from reddiff_pl.shards.progress import WINDOW, count_samples, images_per_second
from reddiff_pl.shards.reader import Failure
from reddiff_pl.shards.survey import STALE, survey
from reddiff_pl.shards.tar import END, encode, scan
from reddiff_pl.shards.writer import ShardWriter

HEAVY = ("torch", "lightning", "webdataset", "numpy")
HOLDER = """
import sys
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.writer import ShardWriter
writer = ShardWriter(Run(sys.argv[1]), sys.argv[2], task=3)
assert writer.open()
for i in range(int(sys.argv[3])):
    writer.write(f"k{i}", [("png", b"x" * 700)], {"psnr": 20.0})
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path):
    """A run over the six input shards a/0 ... b/2, not begun."""
    for name in ("a/0", "a/1", "a/2", "b/0", "b/1", "b/2"):
        write_shard(tmp_path / "in" / f"{name}.tar", [("k", {"jpg": b"."})])
    run = Run(tmp_path / "out")
    run.shards.mkdir(parents=True)
    config = {"data": {"shards": f"{tmp_path}/in/{{a,b}}/*.tar", "batch_size": 4}}
    run.config.write_text(f"# prior_sha256: 0\n{json.dumps(config)}\n")  # JSON is YAML
    return run


def write(run, name, restored, failed=(), complete=True, commit=True, **fields):
    """A shard with samples k0, k1, ... and failures, finished or given up; `fields` go into its sidecar."""
    writer = ShardWriter(run, name)
    assert writer.open()
    for i in range(restored):
        writer.write(f"k{i}", [("png", b"x" * 700)], {"psnr": 20.0 + i, "misfit": 0.5})
    for i, (key, reason) in enumerate(failed):
        writer.fail(Failure(restored + i, key, reason))
    if not commit:
        writer.close()
        return
    writer.commit(complete, {})
    sidecar = json.loads(run.sidecar(name).read_text())
    write_atomically(run.sidecar(name), json.dumps(sidecar | fields).encode())


def hold(run, name, samples):
    """Another process that writes a shard; it ends when its stdin is closed."""
    command = [sys.executable, "-c", HOLDER, str(run.out), name, str(samples)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "written\n"
    return process


@pytest.fixture
def look(reddiff, run):
    """`reddiff status OUT --json`; returns its exit code and object."""

    def look():
        code, printed = reddiff("status", run.out, "--json")
        return code, json.loads(printed)

    return look


def everything(folder: Path) -> dict[str, tuple]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino, p.stat().st_size) for p in folder.rglob("*")}


def test_a_run_from_its_beginning_to_its_end(run, look, reddiff):
    code, report = look()
    assert code == 0 and report["shards"]["pending"] == report["shards"]["total"] == 6
    assert report["images_per_second"] is report["eta_seconds"] is None and report["notes"] == []
    for name in ("a/0", "a/1", "a/2", "b/0", "b/1"):
        write(run, name, 4)
    code, report = look()
    assert code == 0 and not report["complete"]
    assert (report["shards"]["done"], report["shards"]["pending"]) == (5, 1)
    write(run, "b/2", 2)
    code, report = look()
    assert (
        code == 0
        and report["complete"]
        and report["samples"] == {"restored": 22, "in_progress": 0, "failed": 0}
    )
    assert report["metrics"] == {"psnr": pytest.approx((5 * 86 + 41) / 22), "misfit": pytest.approx(0.5)}
    code, text = reddiff("status", run.out)
    assert (
        code == 0
        and "6 of 6 shards done" in text
        and "22 restored, 0 failed" in text
        and "misfit 0.5" in text
    )


def test_memory_is_the_most_that_any_shard_took(run, look, reddiff):
    write(run, "a/0", 1)
    assert look()[1]["peak_memory_gib"] is None, "on a CPU it is not known"
    write(run, "a/1", 1, peak_memory_gib=9.5)
    write(run, "b/0", 1, peak_memory_gib=7)
    assert look()[1]["peak_memory_gib"] == 9.5


def test_done_with_failed_samples_is_exit_code_3(run, look, reddiff):
    for name in ("a/0", "a/1", "a/2", "b/0", "b/1"):
        write(run, name, 1)
    write(run, "b/2", 2, [("bad", "empty file")])
    assert reddiff("status", run.out)[0] == look()[0] == 3
    run.sidecar("a/0").unlink()
    assert look()[0] == 0, "not while a shard is left"


def test_a_held_shard_is_running_and_a_dead_task_s_is_left_behind(run, look, reddiff):
    holder = hold(run, "a/1", 5)
    try:
        before = everything(run.out)
        code, report = look()
        assert code == 0 and report["shards"]["running"] == 1 and report["shards"]["left_behind"] == 0
        [entry] = report["working"]
        expected = {
            "name": "a/1",
            "state": "running",
            "host": socket.gethostname(),
            "pid": holder.pid,
            "task": 3,
        }
        assert (
            entry.items() >= expected.items()
            and entry["samples"] == 5
            and entry["exact"]
            and not entry["stale"]
        )
        assert 0 <= entry["seconds_since_sample"] < 60
        assert report["samples"]["in_progress"] == 5 and report["samples"]["restored"] == 0
        assert not ShardLock(run.lock("a/1")).acquire(), "the holder still has it"
        assert everything(run.out) == before, "nothing is made or changed"

        holder.kill()
        holder.wait()
        code, report = look()
        assert code == 0 and report["shards"]["running"] == 0 and report["shards"]["left_behind"] == 1
        assert report["working"][0]["state"] == "left behind" and report["working"][0]["samples"] == 5
        assert "left behind by task 3" in reddiff("status", run.out)[1]
        assert everything(run.out) == before
        program = "import sys\nfrom pathlib import Path\nfrom reddiff_pl.shards.lock import ShardLock\n"
        program += "sys.exit(not ShardLock(Path(sys.argv[1])).acquire())"
        assert subprocess.run([sys.executable, "-c", program, run.lock("a/1")]).returncode == 0
    finally:
        holder.kill()
        holder.communicate()


def test_a_task_that_writes_nothing_any_more_looks_stale(run, look, reddiff):
    holder = hold(run, "a/1", 5)
    try:
        long_ago = time.time() - STALE - 100
        line = json.loads(run.lock("a/1").read_text())
        run.lock("a/1").write_text(json.dumps(line | {"time": long_ago - 50}) + "\n")
        os.utime(run.partial("a/1"), (long_ago, long_ago))
        [entry] = look()[1]["working"]
        assert entry["stale"] and STALE < entry["seconds_since_sample"] < STALE + 200
        assert "looks stale" in reddiff("status", run.out)[1]
    finally:
        holder.communicate()
    assert look()[1]["working"][0]["state"] == "left behind"


@pytest.mark.parametrize(
    "lock", [None, "", "{", "null\n", '{"host": "h"}\n{"host": "g", "pid"', '{"time": "x"}\n']
)
def test_a_lock_file_that_says_nothing(run, look, reddiff, lock):
    write(run, "a/1", 2, commit=False)
    run.lock("a/1").unlink()
    if lock is not None:
        run.lock("a/1").write_text(lock)
    [entry] = look()[1]["working"]
    assert entry["samples"] == 2 and entry["pid"] is None
    assert "a/1  2 samples" in reddiff("status", run.out)[1]


def test_thousands_of_similar_failures_are_one_line_with_an_example(run, reddiff, look):
    shape = "y has shape (3, {0}, 64), but that of {1} in the same batch (3, 64, 64); keep images of one size"
    write(run, "a/0", 1, [(f"img_{i:05d}", shape.format(i, f"img_{i + 1:05d}")) for i in range(2000)])
    write(
        run, "b/0", 1, [(f"dog {i}", "duplicate key; the first one in the shard counts") for i in range(30)]
    )
    write(run, "b/1", 1, [(f"cat{i}", f"cat{i}.json is not an object") for i in range(9)])
    _, report = look()
    assert [one["count"] for one in report["failures"]] == [2000, 30, 9]
    assert report["samples"]["failed"] == 2039
    assert report["failures"][1]["key"] == "dog 0" and report["failures"][1]["shard"] == "b/0"
    assert report["failures"][2]["reason"] == "KEY.json is not an object"
    text = reddiff("status", run.out)[1]
    assert text.count("has shape") == 1 and "(e.g. img_00000 in a/0)" in text


def test_files_of_a_folder_are_one_kind_however_keys_call_them():
    kinds = {}
    for key, file in (("a", "a.gif"), ("b/b", "b.gif"), ("c/d_e", "d.e.gif"), ("f_gif", "f.gif")):
        count_failure(kinds, {"key": key, "reason": f"{file} has 2 frames; store each"})
    assert [(kind, one["count"]) for kind, one in kinds.items()] == [
        ("KEY.gif has N frames; store each", 3),
        ("KEY has N frames; store each", 1),
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "cannot read /data/x-01.tar on: bad header at byte 512",
            "cannot read s3://b/y.tar on: bad header at byte 7",
        ),
        ("truncated tar (no end mark at byte 10240)", "truncated tar (no end mark at byte 99)"),
        ("label 12 is not one of 10", "label -3 is not one of 10"),
        ("no class 'tench'", "no class 'gold fish'"),
        ("value 1e-05 of 0.5", "value 3.25 of 17"),
    ],
)
def test_kinds_of_reasons(one, other):
    assert kind_of(one) == kind_of(other) != one


@pytest.mark.parametrize(
    "reason", ["expected float32, got uint8", "mask.png is missing", "y.npy: not an array"]
)
def test_what_is_the_same_for_all_samples_stays(reason):
    assert kind_of(reason) == reason


def test_no_number_of_kinds_of_failures_makes_the_report_long(run, look, reddiff):
    words = ["".join(chr(97 + int(c)) for c in str(i)) for i in range(500)]
    write(run, "a/0", 0, [(None, f"reason {word}") for word in words])
    _, report = look()
    assert len(report["failures"]) < 150 and report["samples"]["failed"] == 500
    assert len(reddiff("status", run.out)[1].splitlines()) < 50


def test_failures_of_a_shard_in_work_count(run, look):
    write(run, "a/0", 2, [("bad", "empty file"), ("worse", "empty file")], commit=False)
    with open(run.failed("a/0"), "a") as file:
        file.write('{"index": 9, "key": "cu')  # cut by a kill
    _, report = look()
    assert report["samples"] == {"restored": 0, "in_progress": 2, "failed": 2}
    assert report["failures"] == [{"reason": "empty file", "count": 2, "key": "bad", "shard": "a/0"}]


def test_keys_and_reasons_do_not_steer_the_terminal(run, reddiff):
    write(run, "a/0", 1, [("\x1b[2Jkey", "unsafe\x07 \x1b]0;title\x07 reason\nnew line")])
    text = reddiff("status", run.out)[1]
    assert "key" in text and all(line.isprintable() for line in text.splitlines())
    assert not any(line.startswith("new line") for line in text.splitlines())


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "{}", b"\xff\xfe"),
        *({"restored": "many"}, {"failed": 3}, {"failed": ["x"]}, {"tar_bytes": 1}),
        *({"metrics": {"psnr": [float("nan"), 1]}}, {"metrics": {"psnr": 1}}, {"metrics": None}),
    ],
)
def test_a_corrupted_sidecar_is_listed(run, look, reddiff, content):
    for name in ("a/0", "a/1"):
        write(run, name, 3)
    if isinstance(content, dict):
        content = json.dumps(json.loads(run.sidecar("a/1").read_text()) | content)
    write_atomically(run.sidecar("a/1"), content if isinstance(content, bytes) else content.encode())
    code, report = look()
    assert code == 0 and [bad["name"] for bad in report["damaged"]] == ["a/1"]
    assert (report["shards"]["done"], report["shards"]["pending"]) == (1, 5)
    assert report["samples"]["restored"] == 3
    assert "a/1  its sidecar" in reddiff("status", run.out)[1]


def test_a_sidecar_without_its_tar(run, look):
    write(run, "a/0", 3)
    run.tar("a/0").unlink()
    _, report = look()
    assert "has no tar" in report["damaged"][0]["reason"] and report["shards"]["done"] == 0


def test_a_preview_is_not_done(run, look, reddiff):
    for name in ("a/0", "a/1", "a/2", "b/0", "b/1"):
        write(run, name, 1)
    write(run, "b/2", 3, complete=False)
    code, report = look()
    assert code == 0 and not report["complete"] and report["samples"]["restored"] == 8
    assert report["shards"]["cut_by_limit"] == report["shards"]["pending"] == 1
    assert "cut short by --limit" in reddiff("status", run.out)[1]


def test_a_clock_that_was_set_back(run, look, reddiff):
    """All files are of tomorrow: no age is negative, and no speed comes of it."""
    tomorrow = time.time() + 86400
    write(run, "a/0", 3, finished=tomorrow, seconds=10.0)
    write(run, "a/2", 5, commit=False)
    holder = hold(run, "a/1", 5)
    try:
        for name in ("a/1", "a/2"):
            line = json.loads(run.lock(name).read_text().splitlines()[-1])
            run.lock(name).write_text(json.dumps(line | {"time": tomorrow}) + "\n")
            os.utime(run.partial(name), (tomorrow, tomorrow))
        code, report = look()
        assert code == 0 and [entry["seconds_since_sample"] for entry in report["working"]] == [0.0, 0.0]
        assert not report["working"][0]["stale"]
        assert report["images_per_second"] is report["eta_seconds"] is None
        assert "-" not in reddiff("status", run.out)[1].split("unfinished")[1]
    finally:
        holder.communicate()


@pytest.mark.parametrize("change", ["inputs", "config", "garbage", "no data", "shape"])
def test_without_its_inputs_the_known_shards_are_shown(run, look, reddiff, tmp_path, change):
    write(run, "a/0", 3)
    write(run, "a/1", 2, commit=False)
    write(run, "a/2", 3)
    run.sidecar("a/2").write_text("{")
    if change == "inputs":
        (tmp_path / "in").rename(tmp_path / "moved")
    elif change == "config":
        run.config.unlink()
    else:
        run.config.write_text({"garbage": "a: [", "no data": "seed: 0\n", "shape": "data: 3\n"}[change])
    code, report = look()
    assert code == 0 and len(report["notes"]) == 1 and "only the shards found in OUT" in report["notes"][0]
    assert report["shards"] == {
        "total": 3,
        "done": 1,
        "running": 0,
        "left_behind": 1,
        "pending": 1,
        "cut_by_limit": 0,
    }
    assert "only the shards found in OUT" in reddiff("status", run.out)[1]
    assert {"inputs": "--data.shards", "config": "No such file"}.get(change, "cannot be read") in report[
        "notes"
    ][0]


def test_shards_beyond_the_inputs_are_counted_and_said(run, look):
    write(run, "old", 1)
    _, report = look()
    assert report["shards"]["total"] == 7 and report["shards"]["done"] == 1
    assert report["notes"] == ["not among the inputs of config.yaml: 1 of the shards in OUT"]


def test_a_folder_of_images(run, look, tmp_path, monkeypatch):
    monkeypatch.setattr("reddiff_pl.shards.folder.IMAGES_PER_SHARD", 4)
    for i in range(10):
        (tmp_path / f"{i}.png").touch()
    run.config.write_text(f"data:\n  images: {tmp_path}\n")
    assert look()[1]["shards"] == {
        "total": 3,
        "done": 0,
        "running": 0,
        "left_behind": 0,
        "pending": 3,
        "cut_by_limit": 0,
    }
    write(run, "images-000000", 4, finished=time.time() - 10, seconds=40.0)
    holder = hold(run, "images-000001", 1)
    try:
        line = json.loads(run.lock("images-000001").read_text())
        run.lock("images-000001").write_text(json.dumps(line | {"time": time.time() - 10}) + "\n")
        _, report = look()
    finally:
        holder.communicate()
    # 4 images in the 40 s before, 1 in the 10 s since; 3 and 2 images are left, as the folder says
    assert report["images_per_second"] == pytest.approx(5 / 50, rel=0.05)
    assert report["eta_seconds"] == pytest.approx(5 / 0.1, rel=0.05)


def test_time_left_from_the_mean_of_the_finished_shards(run, look):
    now = time.time()
    write(run, "a/0", 4, finished=now - 100, seconds=100.0)
    write(run, "a/1", 8, finished=now - 20, seconds=80.0)
    assert look()[1]["images_per_second"] == pytest.approx(12 / 180, rel=0.01)
    assert look()[1]["eta_seconds"] is None, "nobody is at work"
    holder = hold(run, "a/2", 2)
    try:
        line = json.loads(run.lock("a/2").read_text())
        run.lock("a/2").write_text(json.dumps(line | {"time": now - 20}) + "\n")
        _, report = look()
    finally:
        holder.communicate()
    # 6 a shard: 3 shards and 4 samples are left
    assert report["images_per_second"] == pytest.approx(14 / 200, rel=0.05)
    assert report["eta_seconds"] == pytest.approx(22 / (14 / 200), rel=0.05)


def test_what_an_earlier_attempt_restored_is_no_speed(run, look):
    """A shard taken up at its last sample was not restored within its last attempt's second."""
    write(run, "a/0", 400, commit=False)
    write(run, "a/0", 1, finished=time.time(), seconds=2.0)
    assert json.loads(run.sidecar("a/0").read_text())["restored"] == 401
    rate = look()[1]["images_per_second"]
    assert rate is None or rate <= 1


NOW = 1e9


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], None),
        ([(NOW - 100, NOW, 50)], 0.5),
        ([(NOW - 100, NOW, 50), (NOW - 100, NOW, 50)], 1.0),  # two tasks
        ([(NOW - 100, NOW - 50, 50), (NOW - 50, NOW, 50)], 1.0),  # one shard after the other
        ([(NOW - 400, NOW - 300, 50), (NOW - 50, NOW, 25)], 0.5),  # a pause between two jobs is not work
        ([(NOW - 2 * WINDOW, NOW, 1200)], 1200 / (2 * WINDOW)),  # what is within the window
        ([(NOW - 3 * WINDOW, NOW - 2 * WINDOW, 50)], None),  # long ago
        ([(NOW + 1000, NOW + 2000, 50)], None),  # a clock was set back
        ([(NOW - 100, NOW + 5, 100)], 1.0),  # clocks of two hosts
        ([(NOW - 100, NOW + 1000, 100)], None),
        ([(NOW + 10, NOW, 50)], None),
        ([(NOW - 100, NOW, 0)], None),
        ([(NOW - 0.1, NOW, 50)], None),  # too short to say
        ([(NOW - 100, NOW, -3), (NOW - 100, NOW, 50)], 0.5),
    ],
)
def test_images_per_second(spans, expected):
    rate = images_per_second(spans, NOW)
    assert rate == (None if expected is None else pytest.approx(expected, rel=0.06))


def test_samples_of_a_partial_cut_at_any_byte(tmp_path):
    """The same number as the writer's own scan finds, from the headers alone."""
    keys = ["a", "b/" + "long" * 40, "ключ"]
    content = (
        b"".join(encode([(f"{key}.png", b"1" * 600), (f"{key}.reddiff.json", b"{}")]) for key in keys) + END
    )
    path = tmp_path / "x.partial"
    for length in [*range(0, len(content), 61), len(content)]:
        path.write_bytes(content[:length])
        with open(path, "rb") as file:
            assert count_samples(path, 10**6)[:2] == (len(list(scan(file))), True)


def test_samples_of_a_long_partial_are_estimated(tmp_path):
    path = tmp_path / "x.partial"
    path.write_bytes(
        b"".join(encode([(f"{i}.png", b"1" * 600), (f"{i}.reddiff.json", b"{}")]) for i in range(100))
    )
    assert count_samples(path, 201)[:2] == (100, True)
    assert count_samples(path, 50)[:2] == (100, False)


def test_only_a_replaced_sidecar_is_read_again(run):
    accounts = {}
    write(run, "a/0", 3, [("bad", "empty file")])
    planned = dict.fromkeys(("a/0", "a/1"), 0)
    assert survey(run, planned, accounts)["samples"]["failed"] == 1
    sidecar = json.loads(run.sidecar("a/0").read_text())
    write_atomically(run.sidecar("a/0"), json.dumps(sidecar | {"failed": [], "restored": 4}).encode())
    assert survey(run, planned, accounts)["samples"] == {"restored": 4, "in_progress": 0, "failed": 0}
    run.sidecar("a/0").write_text("")  # in place, as no task does: what was read is not read again
    assert survey(run, planned, accounts)["samples"]["restored"] == 4
    run.tar("a/0").unlink()
    run.sidecar("a/0").unlink()
    assert survey(run, planned, accounts)["shards"]["done"] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "OUT"),
        (["nothing/here"], "OUT: nothing/here is not the output directory of a run"),
        (["."], "is not the output directory of a run"),
        ([".", "--watch", "0"], "--watch: must be more than 0"),
        (["--watch", "."], "--watch: expects seconds, got .; give OUT before it"),
        ([".", "--colour"], "--colour"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(reddiff, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    code, printed = reddiff("status", *options)
    assert code == 2 and len(printed.splitlines()) == 1 and said in printed
    assert printed.startswith("reddiff status: error: ")


def start(*argv):
    command = [sys.executable, "-m", "reddiff_pl", "status", *map(str, argv)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_watch_ends_when_all_is_done(run):
    for name in ("a/0", "a/1", "a/2", "b/0", "b/1"):
        write(run, name, 1)
    watch = start(run.out, "--json", "--watch", "0.05")
    assert json.loads(watch.stdout.readline())["shards"]["done"] == 5
    write(run, "b/2", 1, [("bad", "empty file")])
    rest, _ = watch.communicate(timeout=600)
    last = json.loads(rest.splitlines()[-1])
    assert watch.returncode == 3 and last["complete"] and last["samples"]["failed"] == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_watch_ends_on_a_signal(run, number, code):
    watch = start(run.out, "--watch", "30")
    assert "0 of 6 shards done" in watch.stdout.readline()
    watch.send_signal(number)
    _, errors = watch.communicate(timeout=600)
    assert watch.returncode == code and errors == ""


MEASURE = """
import sys
from reddiff_pl.__main__ import main
calls = 0
def count(frame, event, argument):
    global calls
    calls += 1
sys.setprofile(count)  # what is called, Python's own functions too: no clock tells it, and no other load changes it
code = main(["status", *sys.argv[1:]])
sys.setprofile(None)
# ru_maxrss would count the process that this one was forked from
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(calls, int(peak) / 1024, *sys.modules, file=sys.stderr)
sys.exit(code)
"""


def measure(out):
    """The report, calls, peak MiB and modules of a process that runs `reddiff status OUT --json`."""
    command = [sys.executable, "-c", MEASURE, str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    calls, mib, *modules = done.stderr.split()
    return json.loads(done.stdout), int(calls), float(mib), set(modules)


def many(folder, shards):
    """Shards of one sample; nine in ten finished, one in a hundred left behind half way."""
    run = Run(folder / "out")
    run.shards.mkdir(parents=True)
    run.accounts.mkdir()
    (folder / "in").mkdir()
    content = encode([("a.png", b"x"), ("a.reddiff.json", b'{"psnr": 20.0}')]) + END
    for i in range(shards):
        name = f"{i:06d}"
        (folder / "in" / f"{name}.tar").write_bytes(content)
        if i < shards * 9 // 10:
            run.tar(name).write_bytes(content)
            sidecar = {
                "name": name,
                "complete": True,
                "restored": 1,
                "failed": [{"index": 1, "key": "b", "reason": f"no tag {i}"}] if i % 10 == 0 else [],
                "metrics": {"psnr": [20.0, 1], "ssim": [0.5, 1], "misfit": [0.1, 1]},
                "seconds": 60.0,
                "finished": time.time() - 9000 + i,
                "attempts": 1,
                "tar_bytes": len(content),
                "tar_sha256": "0" * 64,
            }
            run.sidecar(name).write_text(json.dumps(sidecar, indent=1))
        elif i < shards * 91 // 100:
            run.partial(name).write_bytes(content)
            line = {"host": "n1", "pid": 1, "task": 0, "time": time.time() - 9000, "done": 0}
            run.lock(name).write_text(json.dumps(line) + "\n")
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {shards: many(tmp_path_factory.mktemp("many"), shards) for shards in (500, 5000)}


@pytest.mark.parametrize("given", ["braces", "wildcard", "list"])
def test_work_grows_with_the_shards_and_no_faster(runs, given):
    """Ten times the shards, at most eleven times the calls, of plan and status together; and nothing heavy imported."""
    calls = {}
    for shards, run in runs.items():
        folder = run.out.parent / "in"
        names = {
            "braces": f"{folder}/{{000000..{shards - 1:06d}}}.tar",
            "wildcard": f"{folder}/*.tar",
            "list": [f"{folder}/{i:06d}.tar" for i in range(shards)],
        }[given]
        run.config.write_text(json.dumps({"data": {"shards": names}}, indent=1))
        report, calls[shards], _, modules = measure(run.out)
        finished, left = shards * 9 // 10, shards // 100
        assert report["notes"] == [] and report["samples"] == {
            "restored": finished,
            "in_progress": left,
            "failed": finished // 10,
        }
        assert report["shards"] == {
            "total": shards,
            "done": finished,
            "running": 0,
            "left_behind": left,
            "pending": shards - finished - left,
            "cut_by_limit": 0,
        }
        assert modules.isdisjoint(HEAVY)
    assert calls[5000] < 11 * calls[500], calls


def test_memory_does_not_grow_with_the_samples(tmp_path):
    """20 shards of 10 samples, and of 6,000 of which half failed: as much memory."""
    peaks = {}
    for samples in (10, 6000):
        run = Run(tmp_path / str(samples))
        run.shards.mkdir(parents=True)
        run.accounts.mkdir()
        half = samples // 2
        content = b"".join(encode([(f"{i}.reddiff.json", b"{}")]) for i in range(half)) + END
        for name in map(str, range(20)):
            reasons = [
                f"y has shape (3, {i}, 64), but that of img_{i}_{name} (3, 64, 64)" for i in range(half)
            ]
            failed = [{"index": i, "key": f"k{i}", "reason": reason} for i, reason in enumerate(reasons)]
            sidecar = {"complete": True, "restored": half, "failed": failed, "metrics": {"psnr": [1.0, half]}}
            run.tar(name).write_bytes(content)
            sidecar |= {"tar_bytes": len(content), "tar_sha256": "0" * 64}
            run.sidecar(name).write_text(json.dumps(sidecar))
        run.partial("20").write_bytes(content)
        report, _, peaks[samples], _ = measure(run.out)
        assert report["samples"] == {"restored": 20 * half, "in_progress": half, "failed": 20 * half}
    assert peaks[6000] < peaks[10] + 12, peaks
    print(peaks)
