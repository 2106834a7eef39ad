"""Shards from commands, web servers and a real S3 server, and their publication; nothing ends early in silence."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

import fsspec
import pytest
from helpers import CONFIGS, QUICK, read_json, read_tar, restored_keys, write_shard

from reddiff_pl.errors import ConfigError, OutputError
from reddiff_pl.shards import publishing, stores
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.plan import Shard, plan
from reddiff_pl.shards.reader import Failure, RawSample, read_shard
from reddiff_pl.shards.writer import ShardWriter

INPAINTING = ["--config", str(CONFIGS / "tasks" / "inpainting_random.yaml")]


@pytest.fixture
def shard(tmp_path):
    """Twenty samples, 800 kB."""
    return write_shard(tmp_path / "s.tar", [(f"k{i:02d}", {"npy": os.urandom(40_000)}) for i in range(20)])


def read(url: str) -> tuple[dict[str, bytes], list[Failure]]:
    entries = list(read_shard(Shard("s", str(url))))
    samples = {e.key: e.members["npy"] for e in entries if isinstance(e, RawSample)}
    return samples, [e for e in entries if isinstance(e, Failure)]


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shards", "names"),
    [
        (["a=pipe:cat x.tar"], ["a"]),
        (["x/a.tar=pipe:true", "x/b=pipe:true"], ["x/a", "x/b"]),
        (["n{0..2}=pipe:cat {0..2}.tar"], ["n0", "n1", "n2"]),
        (["http://h/d/a.tar?sig=x/../y", "http://h/e/b.tar"], ["d/a", "e/b"]),
        (["http://h:80/a.tar.gz"], ["a"]),
        (["http://h/d/../../up.tar", "http://h/d/c.tar"], ["h/d/c", "up"]),
        (["file:///d/{x,y}/0.tar"], ["x/0", "y/0"]),
        (["{here}/s.tar", "http://h/t.tar", "p=pipe:true"], ["{here}/s", "h/t", "p"]),
    ],
)
def test_names(shard, shards, names):
    shards, names = (
        [text.replace("{here}", str(shard.parent)) for text in texts] for texts in (shards, names)
    )
    assert sorted(s.name for s in plan(shards, None)) == sorted(name.lstrip("/") for name in names)


def test_braces_of_name_and_command_go_together():
    planned = plan("n{0..1}=pipe:cat {0..1}.tar | sed 's/\\./_/'", None)
    assert [s.url for s in planned] == [f"n{i}=pipe:cat {i}.tar | sed 's/\\./_/'" for i in (0, 1)]
    [planned] = plan("n=pipe:awk '{print $1, $2}' ${LIST}", None)
    assert planned.url == "n=pipe:awk '{print $1, $2}' ${LIST}", (
        "without braces in the name the shell gets it as it is"
    )


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ("pipe:cat x.tar", "NAME=pipe:"),
        ("=pipe:cat x.tar", "NAME=pipe:"),
        ("../x=pipe:true", "relative path"),
        ("/x=pipe:true", "relative path"),
        ("n{0..2}=pipe:cat {0..1}.tar", "3 names for 2 commands"),
        (["n=pipe:cat 1", "n=pipe:cat 2"], "would both be written as n"),
        ("http://127.0.0.1/*.tar", "http cannot list"),
        ("nothing://x.tar", "nothing"),
        ("gs://bucket/a.tar", r"pip install 'reddiff_pl\[gs\]'"),
        ("run:1.tar", "not found"),
    ],
)
def test_bad_shards_stop_with_one_line(monkeypatch, shards, message):
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # not installed
    with pytest.raises(ConfigError, match=message) as caught:
        plan(shards, None)
    assert str(caught.value).startswith("--data.shards: ") and "\n" not in str(caught.value)


# --- commands ------------------------------------------------------------------------------------------------------


def test_pipes_restore_under_their_names(reddiff, tmp_path, photos):
    for i in range(2):
        key, photo = list(photos.items())[i]
        write_shard(tmp_path / f"{i}.tar", [(key, {"jpg": photo})])
    pipes = f"set/n{{0..1}}=pipe:gzip -c {tmp_path}/{{0..1}}.tar | cat"
    code, printed = reddiff("restore", *QUICK, *INPAINTING, "--data.shards", pipes, "--out", tmp_path / "out")
    assert code == 0, printed
    for i in range(2):
        assert restored_keys(tmp_path / "out" / "shards" / "set" / f"n{i}.tar") == [list(photos)[i]]
    code, printed = reddiff(
        "restore", *QUICK, *INPAINTING, "--data.shards", "pipe:true", "--out", tmp_path / "no"
    )
    assert code == 2 and "--data.shards: pipe:true: give the shard a name" in printed


@pytest.mark.parametrize(
    ("command", "whole", "message"),
    [
        ("echo no such thing >&2; exit 7", 0, "exit code 7: no such thing"),
        ("no-such-command", 0, "exit code 127: .*no-such-command"),
        ("head -c 400000 {tar}; echo reset >&2; exit 56", 4, "exit code 56: reset"),
        ("head -c 400000 {tar}", 9, "unexpected end of data|truncated tar"),
        ("cat {tar}; exit 3", 10, "exit code 3"),
        ("(cat {tar}; exit 3) | cat", 10, "exit code 3"),
        ("cat {tar}; kill -9 $$", 10, "SIGKILL"),
        ("true", 0, "empty file"),
    ],
)
def test_a_command_that_fails_is_a_failure(shard, command, whole, message):
    """Also one that fails after it wrote a whole tar. What came well before is used."""
    url = f"n=pipe:{command.format(tar=shlex.quote(str(shard)))}"
    good = read(shard)[0]
    samples, [failure] = read(url)
    assert len(samples) >= whole and samples == dict(list(good.items())[: len(samples)])
    assert failure.key == (list(good)[len(samples)] if samples else None)
    assert url in failure.reason and re.search(message, failure.reason) and "\n" not in failure.reason


@pytest.mark.parametrize(
    "command", ["cat {tar}", "cd {folder}; tar -cf - *", "(cat {tar}; yes) | head -c {size}"]
)
def test_a_command_that_succeeds(shard, tmp_path, command):
    good = read(shard)[0]
    folder = tmp_path / "members"
    folder.mkdir()
    for key, content in good.items():
        (folder / f"{key}.npy").write_bytes(content)
    samples, failures = read(f"n=pipe:{command.format(tar=shard, folder=folder, size=shard.stat().st_size)}")
    assert samples == good and not failures


def test_a_command_that_fails_in_the_padding(shard):
    """Whole blocks, the end mark among them, were read before its end."""
    padding = -shard.stat().st_size % stores.PIPE_BLOCK + 1
    _, [failure] = read(f"n=pipe:cat {shard}; head -c {padding} /dev/zero; exit 3")
    assert "exit code 3" in failure.reason


def test_files_that_vanish_while_they_are_packed(tmp_path):
    """tar then writes a whole archive without them, and fails."""
    (tmp_path / "a.npy").write_bytes(b"1")
    _, [failure] = read(f"n=pipe:tar -C {tmp_path} -cf - a.npy b.npy")
    assert "exit code 2: tar: " in failure.reason


def test_a_stop_signal_to_the_whole_job_leaves_the_command_alone(shard):
    samples, failures = read(f"n=pipe:kill -USR1 $$; sh -c 'kill -USR2 $$; cat {shard}'")
    assert samples == read(shard)[0] and not failures


def test_a_command_that_is_not_read_to_its_end_is_ended(shard, tmp_path):
    entries = read_shard(Shard("s", f"n=pipe:sleep 1000 >&2 & echo $$ > {tmp_path}/pid; cat {shard}; wait"))
    assert isinstance(next(entries), RawSample)
    group = int((tmp_path / "pid").read_text())
    os.killpg(group, 0)
    entries.close()
    deadline = time.monotonic() + 60
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.01)


# --- web servers ---------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Serves one file in ways that its path names: /KIND/..."""

    protocol_version = "HTTP/1.1"
    content = b""
    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.headers.get("Range", "all"))
        kind, content, number = self.path.split("/")[1], self.content, len(self.requests)
        if kind == "missing" or (kind == "busy" and number < 3):
            return self.send_error(404 if kind == "missing" else 503)
        start = 0
        if kind in ("resumes", "always cut") and "Range" in self.headers:
            assert self.headers["If-Range"] == '"v1"'
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", '"v1"')
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = kind == "cut" or (kind == "resumes" and number < 4)
        self.wfile.write(content[start : start + 200_000] if cut else content[start:])
        self.close_connection = True

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def web(shard, monkeypatch):
    """Address of a server of the shard, and what it was asked for."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(stores, "WAITS", (0.01, 0.01, 0.01))
    handler = type("ShardHandler", (Handler,), {"content": shard.read_bytes(), "requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler.requests
        server.shutdown()


@pytest.mark.parametrize("kind", ["whole", "busy", "resumes"])
def test_a_download_is_whole(web, shard, kind):
    samples, failures = read(f"{web[0]}/{kind}/s.tar?sig=a b")
    assert samples == read(shard)[0] and not failures
    ranges = ["all", *(f"bytes={n}00000-" for n in (2, 4, 6))]
    assert web[1] == {"whole": ["all"], "busy": ["all"] * 3, "resumes": ranges}[kind]


def test_a_cut_download_is_a_failure(web, shard):
    samples, [failure] = read(f"{web[0]}/cut/s.tar")
    good = read(shard)[0]
    assert list(samples) == list(good)[: len(samples)] and len(samples) >= 3
    assert failure.key == list(good)[len(samples)]
    assert f"{web[0]}/cut/s.tar" in failure.reason
    assert f"cut at byte 200000 of {shard.stat().st_size}" in failure.reason


def test_a_missing_download_is_a_failure(web, reddiff, tmp_path):
    url = f"{web[0]}/missing/s.tar"
    code, printed = reddiff("restore", *QUICK, *INPAINTING, "--data.shards", url, "--out", tmp_path / "out")
    assert code == 3 and "Traceback" not in printed
    [failure] = read_json(tmp_path / "out" / "accounts" / "s.json")["failed"]
    assert failure["key"] is None and url in failure["reason"] and "404" in failure["reason"]
    assert web[1] == ["all"], "a 404 is not asked for again"


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(stores, "WAITS", (0.01,))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # taken, but not listening
        _, [failure] = read(f"http://127.0.0.1:{listener.getsockname()[1]}/s.tar")
    assert failure.key is None and "refused" in failure.reason


# --- S3 ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory):
    """A server process on a free port: its address, and its log with a line a request."""
    path = tmp_path_factory.mktemp("s3") / "log"
    with open(path, "wb") as file:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "NO_COLOR": "1"})
    try:
        while not (address := re.search(r"Running on (http://\S+)", path.read_text())):
            assert process.poll() is None, path.read_text()
            time.sleep(0.05)
        yield address[1], path
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def s3(s3_server, monkeypatch, tmp_path):
    """An empty bucket, by the name of s3://bucket."""
    set_store(monkeypatch, s3_server[0])
    urlopen(Request(f"{s3_server[0]}/moto-api/reset", method="POST")).close()
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    fs.mkdir("bucket")
    return fs


def set_store(monkeypatch, address: str) -> None:
    """Where s3:// leads to from now on."""
    environment = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "name",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_MAX_ATTEMPTS": "1",
        "no_proxy": "127.0.0.1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stores, "WAITS", (0.01,))
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # they remember their address


@pytest.fixture
def requests(s3_server):
    """Called: what was written to or deleted from the server since the last call, as (method, path)."""
    path, seen = s3_server[1], 0

    def new() -> list[tuple[str, str]]:
        nonlocal seen
        content = path.read_text()
        lines, seen = content[seen:], len(content)
        return re.findall(r"(PUT|POST|DELETE) (/\S+) HTTP", lines)

    new()
    return new


def test_restoring_from_s3(reddiff, s3, tmp_path, photos):
    items = list(photos.items())
    for i in range(3):
        path = write_shard(
            tmp_path / "in" / f"{i}.tar", [(k, {"jpg": v}) for k, v in items[3 * i : 3 * i + 3]]
        )
        s3.put_file(str(path), f"bucket/in/{i}.tar")
    restore = ["restore", *QUICK, *INPAINTING, "--data.shards"]
    assert reddiff(*restore, tmp_path / "in" / "*.tar", "--out", tmp_path / "local")[0] == 0
    for name, pattern in {"braces": "s3://bucket/in/{0..2}.tar", "glob": "s3://bucket/in/[0-2].t?r"}.items():
        code, printed = reddiff(*restore, pattern, "--out", tmp_path / name)
        assert code == 0, printed
        for i in range(3):
            one, other = (tmp_path / out / "shards" / f"{i}.tar" for out in ("local", name))
            assert one.read_bytes() == other.read_bytes()
    code, printed = reddiff(*restore, "s3://bucket/in/{2..3}.tar", "--out", tmp_path / "missing")
    assert code == 3 and "s3://bucket/in/3.tar" in printed and "not found" in printed
    assert len(restored_keys(tmp_path / "missing" / "shards" / "2.tar")) == 3
    [failure] = read_json(tmp_path / "missing" / "accounts" / "3.json")["failed"]
    assert failure["key"] is None and "\n" not in failure["reason"]


@pytest.mark.parametrize("pattern", ["s3://bucket/none/*.tar", "s3://no-such-bucket/*.tar"])
def test_a_pattern_that_matches_nothing(s3, pattern):
    with pytest.raises(ConfigError, match=r"--data\.shards: s3://.* matches no file"):
        plan(pattern, None)


def test_missing_credentials_are_no_failure_of_the_samples(reddiff, s3, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    out = tmp_path / "out"
    code, printed = reddiff(
        "restore", *QUICK, *INPAINTING, "--data.shards", "s3://bucket/a.tar", "--out", out
    )
    assert code == 2 and "--data.shards: s3://bucket/a.tar" in printed and "credentials" in printed, printed
    assert not (out / "accounts" / "a.json").exists()


def test_a_shard_of_many_blocks(s3, shard, monkeypatch):
    monkeypatch.setattr(stores, "BLOCK", 100_001)
    s3.put_file(str(shard), "bucket/s.tar")
    samples, failures = read("s3://bucket/s.tar")
    assert samples == read(shard)[0] and not failures


# --- publication ---------------------------------------------------------------------------------------------------


def finish(run: Run, name: str, content: bytes = b"image") -> None:
    """Write a shard of one sample."""
    writer = ShardWriter(run, name)
    assert writer.open()
    writer.write("key", [("png", content)], {"psnr": 20.0})
    writer.commit(True, {})


def test_publishing_twice_uploads_once_and_the_sidecar_last(s3, requests, tmp_path):
    run = Run(tmp_path)
    finish(run, "x/a")
    publishing.publish(run, "x/a", "s3://bucket/results/")
    assert requests() == [
        ("PUT", f"/bucket/results/{name}") for name in ("shards/x/a.tar", "accounts/x/a.json")
    ]
    assert s3.cat_file("bucket/results/shards/x/a.tar") == run.tar("x/a").read_bytes()
    assert s3.cat_file("bucket/results/accounts/x/a.json") == run.sidecar("x/a").read_bytes()
    publishing.publish(run, "x/a", "s3://bucket/results")
    publishing.publish_missing(run, ["x/a"], "s3://bucket/results")
    assert requests() == []


def test_a_shard_written_anew_replaces_the_published_one(s3, requests, tmp_path):
    """The old sidecar goes first: it would not be that of the tar beside it."""
    finish(Run(tmp_path / "old"), "a", b"old")
    finish(Run(tmp_path / "new"), "a", b"new")
    publishing.publish(Run(tmp_path / "old"), "a", "s3://bucket")
    requests()
    publishing.publish(Run(tmp_path / "new"), "a", "s3://bucket")
    steps = [("DELETE", "accounts/a.json"), ("PUT", "shards/a.tar"), ("PUT", "accounts/a.json")]
    assert requests() == [(method, f"/bucket/{name}") for method, name in steps]
    assert s3.cat_file("bucket/shards/a.tar") == Run(tmp_path / "new").tar("a").read_bytes()


def test_the_same_tar_with_another_sidecar_is_not_uploaded(s3, requests, tmp_path):
    run = Run(tmp_path)
    finish(run, "a")
    publishing.publish(run, "a", "s3://bucket")
    requests()
    sidecar = {**read_json(run.sidecar("a")), "attempts": 2}
    run.sidecar("a").write_text(json.dumps(sidecar))
    publishing.publish_missing(run, ["a"], "s3://bucket")
    assert requests() == [("PUT", "/bucket/accounts/a.json")]
    assert json.loads(s3.cat_file("bucket/accounts/a.json")) == sidecar


def test_what_is_missing_is_published(s3, requests, tmp_path):
    run = Run(tmp_path)
    for name in ("a", "b", "c"):
        finish(run, name)
    publishing.publish(run, "b", "s3://bucket")
    writer = ShardWriter(run, "cut")
    writer.open()
    writer.write("key", [("png", b"image")], {})
    writer.close()
    s3.pipe_file("bucket/accounts/c.json", run.sidecar("c").read_bytes()[:-20])  # cut
    requests()
    run.tar("b").chmod(0)  # what is published is not read again
    publishing.publish_missing(run, ["a", "b", "c", "cut", "pending"], "s3://bucket")
    names = sorted({path for _, path in requests()})
    assert names == [
        f"/bucket/{name}" for name in ("accounts/a.json", "accounts/c.json", "shards/a.tar", "shards/c.tar")
    ]
    assert sorted(s3.ls("bucket/shards")) == [f"bucket/shards/{name}.tar" for name in "abc"]
    assert sorted(s3.ls("bucket/accounts")) == [f"bucket/accounts/{name}.json" for name in "abc"]


@contextmanager
def breaking(address: str, request: str, times: int = 1000):
    """A way to a server that breaks when a request that matches passes, so many times; its address."""
    host, port = re.match(r"http://(.*):(\d+)", address).groups()
    left = [None] * times

    def forward(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if re.match(request.encode(), data) and left:
                    left.pop()
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection((host, int(port)))
            for ends in ((client, server), (server, client)):
                threading.Thread(target=forward, args=ends, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "broken",
    ["(HEAD|GET) /bucket/accounts/a.json", "PUT /bucket/shards/a.tar", "PUT /bucket/accounts/a.json"],
)
def test_an_upload_that_breaks_is_taken_up(s3, s3_server, requests, monkeypatch, tmp_path, broken):
    run = Run(tmp_path)
    finish(run, "a")
    with breaking(s3_server[0], broken) as address:
        set_store(monkeypatch, address)
        monkeypatch.setattr(stores, "WAITS", ())
        with pytest.raises(
            OutputError, match="--publish: shard a cannot be uploaded to s3://bucket: "
        ) as caught:
            publishing.publish_missing(run, ["a"], "s3://bucket")
    assert "\n" not in str(caught.value) and str(run.tar("a")) in str(caught.value)
    set_store(monkeypatch, s3_server[0])
    there = {("PUT", "/bucket/shards/a.tar")} if broken == "PUT /bucket/accounts/a.json" else set()
    assert set(requests()) == there and not s3.exists("bucket/accounts/a.json")
    publishing.publish_missing(run, ["a"], "s3://bucket")
    assert requests() == [("PUT", "/bucket/shards/a.tar"), ("PUT", "/bucket/accounts/a.json")]
    assert json.loads(s3.cat_file("bucket/accounts/a.json")) == read_json(run.sidecar("a"))


def test_an_upload_is_tried_again(s3, s3_server, requests, monkeypatch, tmp_path):
    run = Run(tmp_path)
    finish(run, "a")
    # more often than s3fs and its HTTP client try by themselves
    with breaking(s3_server[0], "PUT /bucket/accounts/a.json", times=12) as address:
        set_store(monkeypatch, address)
        monkeypatch.setattr(stores, "WAITS", (0.01, 0.02, 0.03))
        publishing.publish(run, "a", "s3://bucket")
    set_store(monkeypatch, s3_server[0])
    assert s3.cat_file("bucket/accounts/a.json") == run.sidecar("a").read_bytes()


def test_publishing_into_a_bucket_that_is_not_there(s3, requests, tmp_path):
    """It is not made: its name may be a slip."""
    finish(Run(tmp_path), "a")
    with pytest.raises(OutputError, match="bucket does not exist"):
        publishing.publish(Run(tmp_path), "a", "s3://buckett")
    assert not s3.exists("buckett")


def test_publishing_into_a_folder(tmp_path):
    run = Run(tmp_path / "out")
    finish(run, "x/a")
    for url in (f"file://{tmp_path}/there", str(tmp_path / "path")):
        publishing.publish(run, "x/a", url)
        folder = Path(url.removeprefix("file://"))
        assert read_tar(folder / "shards/x/a.tar") == read_tar(run.tar("x/a"))
        assert (folder / "accounts/x/a.json").read_bytes() == run.sidecar("x/a").read_bytes()


@pytest.mark.parametrize(
    "url", ["http://h/x", "pipe:cat", "nothing://x", "file://{out}", "{out}", "gs://bucket"]
)
def test_where_nothing_can_be_published(monkeypatch, tmp_path, url):
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # not installed
    run = Run(tmp_path)
    finish(run, "a")
    before = run.tar("a").read_bytes()
    for call in (
        lambda: publishing.publish(run, "a", url.format(out=tmp_path)),
        lambda: publishing.publish_missing(run, [], url.format(out=tmp_path)),
    ):
        with pytest.raises(ConfigError, match="--publish: "):
            call()
    assert run.tar("a").read_bytes() == before


def test_restore_publishes(reddiff, s3, monkeypatch, tmp_path, photos):
    """What is finished is uploaded; what could not be is by the next run, and is not computed again."""
    items = list(photos.items())
    for i in range(2):
        write_shard(tmp_path / "in" / f"{i}.tar", [(k, {"jpg": v}) for k, v in items[3 * i : 3 * i + 3]])
    out = tmp_path / "out"
    restore = ["restore", *QUICK, *INPAINTING, "--data.shards", tmp_path / "in" / "*.tar", "--out", out]
    code, printed = reddiff(*restore, "--publish", "s3://bucket/set", "--limit", "4")
    assert code == 0, printed
    assert sorted(s3.find("bucket/set")) == ["bucket/set/accounts/0.json", "bucket/set/shards/0.tar"]
    code, printed = reddiff(*restore, "--publish", "s3://no-bucket")
    assert code == 1 and "--publish: shard 0 cannot be uploaded to s3://no-bucket" in printed
    assert "Traceback" not in printed
    assert reddiff(*restore)[0] == 0
    before = Run(out).tar("1").stat()
    code, printed = reddiff(*restore, "--publish", "s3://bucket/set")
    assert code == 0, printed
    assert Run(out).tar("1").stat().st_mtime_ns == before.st_mtime_ns
    for name in ("0", "1"):
        assert s3.cat_file(f"bucket/set/shards/{name}.tar") == Run(out).tar(name).read_bytes()
        assert s3.cat_file(f"bucket/set/accounts/{name}.json") == Run(out).sidecar(name).read_bytes()
