"""Output shards cut anywhere go on at the next whole sample; the bytes depend on nothing else."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from helpers import write_shard

from reddiff_pl.evaluation.pairs import Results
from reddiff_pl.files import sha256
from reddiff_pl.shards import tar
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import finished, read_sidecar
from reddiff_pl.shards.reader import Failure, RawSample
from reddiff_pl.shards.survey import survey
from reddiff_pl.shards.writer import ShardWriter

KEYS = ["a", "b/" + "long" * 40, "ключ", "d"]
BAD = Failure(2, "bad", "because")


def write(run: Run, stop_after: int | None = None) -> bool:
    """Write what is missing of five samples, one of them bad; stop before the commit after some of them."""
    writer = ShardWriter(run, "x/s")
    assert writer.open()
    entries = [RawSample(i + (i >= 2), key) for i, key in enumerate(KEYS)]
    entries.insert(2, BAD)
    written = 0
    for entry in entries:
        if writer.has(entry):
            continue
        if written == stop_after:
            writer.close()
            return False
        if isinstance(entry, Failure):
            writer.fail(entry)
        else:
            writer.write(
                entry.key, [("png", entry.key.encode() * 99)], {"psnr": 10.0 + entry.index, "misfit": 0.1}
            )
        written += 1
    writer.commit(True, {"hello": 1})
    return True


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("whole"))
    assert write(run)
    return run


def test_a_shard_is_a_plain_tar_without_times_or_owners(whole):
    with tarfile.open(whole.tar("x/s")) as archive:
        members = archive.getmembers()
    assert [m.name for m in members] == [
        f"{key}.{suffix}" for key in KEYS for suffix in ("png", "json", "reddiff.json")
    ]
    assert all(m.mtime == 0 and m.uid == 0 and m.uname == "" for m in members)


def test_the_sidecar_accounts_for_everything(whole):
    sidecar = finished(whole, "x/s")
    assert sidecar["restored"] == 4 and sidecar["failed"] == [{"index": 2, "key": "bad", "reason": "because"}]
    assert sidecar["metrics"] == {"psnr": [10 + 11 + 13 + 14, 4], "misfit": [pytest.approx(0.4), 4]}
    assert sidecar["attempts"] == 1 and sidecar["hello"] == 1
    assert [p.name for p in whole.shards.rglob("*") if p.is_file()] == ["s.tar"], "tars alone"


def test_cut_at_every_byte(whole, tmp_path):
    """Whatever length of the .partial survives, the finished shard is the same."""
    content = whole.tar("x/s").read_bytes()
    run = Run(tmp_path)
    run.partial("x/s").parent.mkdir(parents=True)
    lengths = range(len(content) + 1) if len(content) < 5000 else [*range(0, len(content), 101), len(content)]
    for length in lengths:
        run.partial("x/s").write_bytes(content[:length])
        assert write(run)
        assert run.tar("x/s").read_bytes() == content, length
        run.sidecar("x/s").unlink()
        run.tar("x/s").unlink()


@pytest.mark.parametrize("stop", range(6))
def test_stopped_after_any_sample(whole, tmp_path, stop):
    run = Run(tmp_path)
    while not write(run, stop_after=max(stop, 1)):
        assert finished(run, "x/s") is None and not run.tar("x/s").exists()
    assert run.tar("x/s").read_bytes() == whole.tar("x/s").read_bytes()
    assert read_sidecar(run, "x/s")["failed"] == read_sidecar(whole, "x/s")["failed"]


def test_a_cut_list_of_failures(whole, tmp_path):
    """A line cut by a kill is written again, whole and once."""
    run = Run(tmp_path)
    write(run, stop_after=4)
    line = run.failed("x/s").read_bytes()
    for length in range(len(line) - 1):
        run.failed("x/s").write_bytes(line[:length])
        assert not write(run, stop_after=1)
        assert [json.loads(entry) for entry in run.failed("x/s").read_text().splitlines()] == [BAD.__dict__]


def test_a_tar_without_sidecar_is_taken_up(whole, tmp_path):
    """The crash between the rename and the commit mark."""
    run = Run(tmp_path)
    run.tar("x/s").parent.mkdir(parents=True)
    run.tar("x/s").write_bytes(whole.tar("x/s").read_bytes())
    assert write(run)
    assert run.tar("x/s").read_bytes() == whole.tar("x/s").read_bytes()


def test_two_writers_never_share_a_shard(tmp_path):
    """fcntl locks belong to a process, so the other writer is one."""
    import subprocess
    import sys

    run = Run(tmp_path)
    writer = ShardWriter(run, "s")
    assert writer.open()
    program = (
        "import sys\nfrom reddiff_pl.shards.layout import Run\nfrom reddiff_pl.shards.writer import ShardWriter\n"
        "print(ShardWriter(Run(sys.argv[1]), 's').open())"
    )

    def other() -> str:
        command = [sys.executable, "-c", program, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert other() == "False"
    assert writer._lock.attempts() == 1
    assert other() == "False", "to count the attempts does not drop the lock"
    writer.close()
    assert other() == "True"


def test_scan_stops_at_damage():
    good = tar.encode([("a.png", b"1"), ("a.json", b"{}"), ("a.reddiff.json", b"{}")])
    damaged = good + b"\x01" * 512 + good
    assert [whole.key for whole in tar.scan(io.BytesIO(damaged))] == ["a"]
    assert list(tar.scan(io.BytesIO(b""))) == []


def test_metadata_that_is_called_as_a_metric_is_not_added_up(tmp_path):
    run = Run(tmp_path)
    writer = ShardWriter(run, "s")
    assert writer.open()
    for key, psnr in (("a", 20.0), ("b", None)):  # an infinite PSNR has no mean
        writer.write(key, [("png", b"x")], {"psnr": psnr, "misfit": 0.5}, b'{"psnr": 99, "seed": "mine"}')
    writer.commit(True, {})
    assert finished(run, "s")["metrics"] == {"psnr": [20.0, 1], "misfit": [1.0, 2]}
    with open(run.tar("s"), "rb") as file:
        assert [whole.meta for whole in tar.scan(file)] == [b'{"psnr": 99, "seed": "mine"}'] * 2


OLDER = [
    (key, {"png": key.encode() * 99, "json": json.dumps({"psnr": 30.0, "caption": key}).encode()})
    for key in KEYS
]


def test_a_shard_that_an_earlier_version_finished(tmp_path):
    """Its sidecar lies beside the tar, and one .json holds what is the user's and what is the run's."""
    run = Run(tmp_path)
    write_shard(run.tar("x/s"), OLDER)
    sidecar = {"complete": True, "restored": 4, "failed": [], "metrics": {"psnr": [120.0, 4]}}
    sidecar |= {"tar_bytes": run.tar("x/s").stat().st_size, "tar_sha256": sha256(run.tar("x/s"))}
    run.older_sidecar("x/s").write_text(json.dumps(sidecar))
    assert finished(run, "x/s") == sidecar
    assert not ShardWriter(run, "x/s").open(), "nothing is left to do"
    results = Results(tmp_path)
    assert results.names == ["x/s"] and results.keys("x/s") == KEYS
    for pair, key in zip(results.pairs("x/s"), KEYS, strict=True):
        assert (pair.key, pair.meta, pair.record) == (key, {"caption": key}, {"psnr": 30.0})
    report = survey(run, None, {})
    assert (report["shards"]["done"], report["samples"]["restored"]) == (1, 4)


@pytest.mark.parametrize("committed", [True, False])
def test_a_shard_that_an_earlier_version_began(whole, tmp_path, caplog, committed):
    """Its samples are written anew, as are those of a shard that --limit cut short; the log says so."""
    run = Run(tmp_path)
    path = write_shard(run.tar("x/s") if committed else run.partial("x/s"), OLDER[:3])
    if committed:
        sidecar = {"complete": False, "restored": 3, "failed": [], "metrics": {}}
        run.older_sidecar("x/s").write_text(
            json.dumps(sidecar | {"tar_bytes": path.stat().st_size, "tar_sha256": sha256(path)})
        )
    assert write(run)
    assert "x/s: an earlier version began it" in caplog.text
    assert run.tar("x/s").read_bytes() == whole.tar("x/s").read_bytes()
    assert not run.older_sidecar("x/s").exists() and finished(run, "x/s")["restored"] == 4
