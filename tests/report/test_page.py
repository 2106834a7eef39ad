"""The page of runs that are hostile, unfinished, without references, or none."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import npy
from runs import SIDE, configure, inputs, write

from reddiff_pl.shards.layout import Run


class Page(HTMLParser):
    """A page's elements, its text, its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._raw = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._raw = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._raw = ""

    def handle_data(self, data):
        if self._raw == "script":
            self.scripts[-1] += data
        elif not self._raw:
            self.text += data

    @property
    def data(self):
        return json.loads(self.scripts[1])


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "out")


@pytest.fixture
def page(reddiff, run):
    """Writes the report of `run`; returns the page, parsed."""

    def page(*options):
        code, printed = reddiff("report", run.out, *options)
        assert code == 0, printed
        assert len(printed.splitlines()) == 1 and str(run.report) in printed
        return Page(run.report.read_text())

    return page


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`${alert(3)}{{ 7*7 }}"


def test_nothing_hostile_gets_out_of_its_text(run, page):
    key, long = EVIL.replace(".", ""), "n" * 10_000
    pickled = io.BytesIO()
    np.save(pickled, np.array([EVIL], dtype=object), allow_pickle=True)
    record = {"psnr": 20.0, "misfit": 0.1, "caption": EVIL, EVIL: 1, "long": long, "deep": [[[EVIL]]]}
    write(
        run,
        "a",
        [
            (key, [("std.npy", pickled.getvalue()), ("steps.png", b"no image")], record),
            ("k" * 4000, [("std.npy", npy(np.full((3, 3), np.nan, np.float16)))], {**record, "psnr": 21.0}),
            ("\u202eevil\u2028", [("start.png", b"")], {**record, "psnr": 22.0, "misfit": "<b>"}),
        ],
        failed=[(key, EVIL), (long, long)],
        host=EVIL,
        versions={EVIL: EVIL},
        device=EVIL,
    )
    (run.out / "logs").mkdir()
    (run.out / "logs" / "task-00000.log").write_text(f"2026-01-01 00:00:00,000 WARNING {EVIL}\n")
    run.config.write_text(f"model: {{sampler: {{class_path: {json.dumps(EVIL)}}}}}\n# {EVIL}\n")
    (run.out / "summary.json").write_text(json.dumps({"metrics": {EVIL: {"mean": EVIL}, "psnr": EVIL}}))
    found = page()

    scripts = [attributes for tag, attributes in found.elements if tag == "script"]
    assert len(scripts) == 3 and scripts[1] == {"type": "application/json", "id": "data"}
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        if tag == "img":
            assert attributes["src"].startswith("data:image/webp;base64,")
        for name in ("href", "src", "action"):
            assert re.match(r"#|data:|$", attributes.get(name, "")), (tag, attributes)
    shown = {item["key"] for item in found.data["items"]}
    assert shown == {key, f"{'k' * 60}…{'k' * 59}", "\ufffdevil\ufffd"}
    assert "</script>" in found.text and "n" * 500 not in run.report.read_text()
    assert not re.search("[\u202e\u2028]", run.report.read_text())
    assert run.report.stat().st_size < 200_000

    # and if something did, the page's own policy would not run it
    [policy] = [a["content"] for tag, a in found.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    for script in (found.scripts[0], found.scripts[2]):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_pictures_errors_and_spread(run, page, tmp_path):
    """Error maps are those of the images: black where the reference was met."""
    from PIL import Image

    keys = [f"k{i}" for i in range(4)]
    spread = [("std.npy", npy(np.full((3, SIDE, SIDE), 0.02 * i, np.float16))) for i in range(4)]
    write(run, "a", [(key, [spread[i]], {"psnr": 30.0 - i, "misfit": 0.1}) for i, key in enumerate(keys)])
    # the references of k2 and k3 are each other's
    configure(run, shards=inputs(tmp_path / "in", ["a"], ["k0", "k1", "k3", "k2"]))
    items = {item["key"]: item for item in page().data["items"]}
    assert list(items) == keys, "best first"

    def mean(key, kind):
        content = base64.b64decode(items[key]["pictures"][kind].partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(float).mean()

    assert set(items["k0"]["pictures"]) == {"reference", "restored", "error", "spread"}
    assert mean("k0", "error") < 3 and mean("k3", "error") > 100
    assert mean("k0", "spread") < 3 < mean("k1", "spread") < mean("k3", "spread")


def test_another_run_slides_over_this_one(run, page, tmp_path):
    """Its images of the same keys, under its name; the first picture compares the two."""
    other, strange = Run(tmp_path / "dial <1>"), Run(tmp_path / "strange")
    keys = ["k0", "k1", "k2"]
    write(run, "a", [(key, [], {"psnr": 30.0 - i}) for i, key in enumerate(keys)])
    write(other, "a", [("k1", [], {"psnr": 1.0}), ("k0", [], {"psnr": 1.0})])  # k0's picture is k1's here
    write(strange, "b", [("k0", [], {"psnr": 1.0})])
    for one in (run, other, strange):
        configure(one, shards=inputs(tmp_path / "in", ["a"], keys))
    found = page("--beside", other.out, "--beside", strange.out)
    assert found.data["kinds"]["beside0"] == "dial <1>"
    items = {item["key"]: item["pictures"] for item in found.data["items"]}
    assert (
        items["k0"]["beside0"] == items["k1"]["restored"]
        and items["k1"]["beside0"] == items["k0"]["restored"]
    )
    assert set(items["k1"]) == {"reference", "restored", "beside0", "error"}
    assert "beside0" not in items["k2"], "it is not in that run"
    assert not any("beside1" in pictures for pictures in items.values())
    assert f"--beside {strange.out}: it holds none of the images that are shown" in found.text
    assert "dial &lt;1&gt; to the left, restored to the right" in run.report.read_text()


def test_without_references_it_is_by_misfit_and_has_pictures(run, page):
    samples = [(f"k{i}", [], {"misfit": 0.1 * (i + 1)}) for i in range(9)]
    write(run, "a", samples, finished=2e9, seconds=10.0)
    found = page()
    assert [item["key"] for item in found.data["items"]] == [f"k{i}" for i in range(9)]
    assert "By misfit." in found.text and "PSNR" not in found.text
    assert "0.9 images/s" in found.text
    assert len([tag for tag, _ in found.elements if tag == "img"]) == 9
    assert "no references" in found.text


def test_what_evaluate_measured_is_shown(run, page):
    """Its columns order the images, its intervals and distances are in the tables; what is not a number is not."""
    import pyarrow as pa
    import pyarrow.parquet

    write(run, "a", [(f"k{i}", [], {"psnr": 20.0 + i, "misfit": 0.1}) for i in range(4)])
    columns = {
        "shard": pa.array(["a"] * 3 + ["gone"]),
        "key": pa.array(["k0", "k1", "k2", "k3"]),
        "psnr": pa.array([20.0, None, 22.0, 99.0]),  # null beside a number: the PSNR of an exact image
        "ssim": pa.array([0.5, 1.0, 0.7, 0.9]),
        "lpips-alex": pa.array([0.2, 0.0, 0.3, 0.9]),
        "top1-net": pa.array([1, 0, 1, 0], pa.int32()),
    }
    pyarrow.parquet.write_table(pa.table(columns), run.out / "metrics.parquet")
    metrics = {
        "psnr": {"n": 3, "mean": 21.0, "low": 20.25, "high": 21.75, "interval": "bootstrap"},
        "fd-net": {"n": 3, "value": 18.3906, "note": "fewer images than features"},
        "top1-net": {"n": 3, "mean": 0.25, "low": 0.1, "high": 0.5},
        "ssim": {"n": 3, "mean": "0.7"},
        "kd-net": {"n": 3, "value": None},
    }
    left_out = {"fid": "no weights"}
    (run.out / "summary.json").write_text(json.dumps({"metrics": metrics, "left_out": left_out}))
    found = page("--by", "lpips-alex")
    assert [item["key"] for item in found.data["items"]] == ["k1", "k0", "k2"]
    assert [metric["name"] for metric in found.data["metrics"]] == ["psnr", "ssim", "lpips-alex"]
    assert found.data["items"][0]["values"][0] == "inf"
    text = re.sub(r"\s+", " ", found.text)
    for said in (
        "20.25 to 21.75",
        "18.39",
        "fewer images than features",
        "25.0",
        "10.0 to 50.0",
        "and 1 exact",
    ):
        assert said in text, said
    assert "fid was not evaluated: no weights" in text and "KD-net" not in text
    assert "3 of the 4 images" in text, "one more was restored than evaluated"


def test_an_unfinished_run_says_so(run, page, tmp_path):
    keys = ["k0", "k1"]
    configure(run, shards=inputs(tmp_path / "in", ["a", "b", "c"], keys))
    write(run, "a", [(key, [], {"psnr": 20.0}) for key in keys])
    write(run, "b", [("k0", [], {"psnr": 10.0})], [("k1", "bad")], commit=False)
    found = page()
    assert "Unfinished. 1 of 3 shards done" in re.sub(r"\s+", " ", found.text)
    assert "1 image of the others" in re.sub(r"\s+", " ", found.text)
    assert {(item["shard"], item["key"]) for item in found.data["items"]} == {
        ("a", "k0"),
        ("a", "k1"),
        ("b", "k0"),
    }
    assert "bad" in found.text


def test_a_run_that_has_nothing_yet(run, page):
    configure(run, shards="nothing/*.tar")
    run.shards.mkdir()
    assert page().data["items"] == []


def test_a_sample_is_said_to_be_one(run, page):
    write(run, "a", [(f"k{i:03d}", [], {"psnr": float(i)}) for i in range(60)])
    found = page("--images", "12")
    assert "A sample of 1" in found.text and "of 60 images" in found.text
    values = [item["values"][0] for item in found.data["items"]]
    assert 12 <= len(values) <= 21 and {0.0, 59.0} <= set(values)


def test_the_pictures_keep_to_their_budget(run, page):
    from helpers import png

    rng = np.random.default_rng(0)
    large = png(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8))  # noise: nothing takes more bytes
    write(run, "a", [(f"k{i:03d}", [("start.png", large)], {"psnr": float(i)}) for i in range(60)])
    found = page("--megabytes", "1")
    size = sum(len(uri) for item in found.data["items"] for uri in item["pictures"].values())
    assert 200_000 < size < 1_100_000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "OUT"),
        (["nothing/here"], "nothing/here: not the output directory of a run"),
        (["out", "--by", "beauty"], "--by: no beauty in this run; there is psnr"),
        (["out", "--images", "0"], "--images"),
        (["out", "--inputs", "nothing/*.tar"], "--inputs"),
        (["out", "--beside", "nothing"], "--beside: nothing: not the output directory of a run"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(reddiff, run, monkeypatch, tmp_path, options, said):
    write(run, "a", [("k", [], {"psnr": 20.0})])
    monkeypatch.chdir(tmp_path)
    code, printed = reddiff("report", *options)
    assert code == 2 and len(printed.splitlines()) == 1 and said in printed, printed
    assert printed.startswith("reddiff report: error: ")
