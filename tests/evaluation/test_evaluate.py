"""`reddiff evaluate`: the same numbers whoever computed them and however often it was killed; references or none."""

from __future__ import annotations

import json
import random
import shutil
import signal

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from helpers import CONFIGS, QUICK, account, npy, png, read_json, read_tar, write_shard
from judges import Small
from run_tasks import TINY, tiny_shards
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.image.fid import FrechetInceptionDistance

from reddiff_pl.evaluation.judge import Judge
from reddiff_pl.evaluation.pairs import Results
from reddiff_pl.evaluation.records import features_path, read, sidecar_path
from reddiff_pl.evaluation.sets import Features
from reddiff_pl.evaluation.summary import merge

TASK = ["--config", str(CONFIGS / "tasks" / "inpainting_random.yaml")]
SMALL = ["--metrics", "psnr,ssim,misfit,fd,kd,top", "--network", "judges.Small"]
SHARDS, SAMPLES = 6, 5


@pytest.fixture(scope="module")
def restored(zygote, tmp_path_factory):
    """A run of six shards of five tiny images."""
    from run_tasks import Tasks

    folder = tmp_path_factory.mktemp("restored")
    tasks = Tasks(zygote, folder)
    pattern = tiny_shards(folder / "in", SHARDS, SAMPLES)
    command = ["restore", *TINY, "--model.sampler.init_args.steps=3", "--data.shards", pattern]
    assert tasks.run(*command, "--out", folder / "out") == 0, tasks.printed.read_text()
    return folder / "out"


@pytest.fixture
def out(restored, tmp_path):
    """A copy of it."""
    shutil.copytree(restored, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture(scope="module")
def alone(restored, zygote, tmp_path_factory):
    """What one task makes of it."""
    from run_tasks import Tasks

    folder = tmp_path_factory.mktemp("alone")
    shutil.copytree(restored, folder / "out")
    tasks = Tasks(zygote, folder)
    assert tasks.run("evaluate", folder / "out", *SMALL) == 0, tasks.printed.read_text()
    return folder / "out"


def assert_same(out, other):
    """Summaries and rows equal to 1e-9."""
    one, two = (read_json(folder / "summary.json") for folder in (out, other))
    assert list(one["metrics"]) == list(two["metrics"]) and one["images"] == two["images"] == SHARDS * SAMPLES
    for name, entry in one["metrics"].items():
        for key, value in entry.items():
            expected = two["metrics"][name][key]
            if isinstance(value, float):
                # singular values that are zero but for rounding count by their roots
                rough = "value" in entry and key in ("low", "high", "halves")
                expected = pytest.approx(expected, rel=0, abs=1e-6 if rough else 1e-9)
            assert value == expected, (name, key)
    tables = [parquet.read_table(folder / "metrics.parquet") for folder in (out, other)]
    assert tables[0].equals(tables[1])


@pytest.mark.parametrize("world", [2, 5])
def test_any_number_of_tasks_gives_the_same_numbers(tasks, out, alone, world):
    running = [tasks.start("evaluate", out, *SMALL, f"--rank={i}", f"--world={world}") for i in range(world)]
    assert [tasks.wait(pid) for pid in running] == [0] * world, tasks.printed.read_text()
    assert_same(out, alone)
    assert not list(out.rglob("*.lock"))


@pytest.mark.parametrize("world", [2, 5])
def test_any_order_gives_the_same_numbers(out, alone, world):
    """Parts of several tasks, shuffled, and only then added up."""
    judges = [Judge(["psnr", "ssim", "misfit"], networks=[Small()]) for _ in range(world)]
    results = Results(out)
    for i in random.Random(world).sample(range(SHARDS), SHARDS):
        judges[i % world].shard(results, results.names[i])
    merge(Results(out))
    assert_same(out, alone)


def test_killed_and_taken_up(tasks, out, alone):
    """In the middle of the third and of the fifth shard; what is finished is not computed again."""
    dying = "{class_path: judges.Small, init_args: {dies_at: %d, by: %s}}"
    command = ["evaluate", out, *SMALL[:2], "--batch-size", "2"]
    # a call to see that it fits, then three batches a shard, each restored and reference
    code = tasks.run(*command, "--network", dying % (1 + 2 * 6 + 3, "SIGKILL"))
    assert code == -signal.SIGKILL and not (out / "summary.json").exists()
    done = sorted(path.name for path in (out / "evaluation").glob("*.json"))
    assert done == ["000000.json", "000001.json"]
    before = [(out / "evaluation" / name).stat().st_mtime_ns for name in done]
    assert tasks.run(*command, "--network", dying % (1 + 2 * 6 + 3, "SIGUSR1")) == 85
    assert len(list((out / "evaluation").glob("*.json"))) == 4
    assert tasks.run(*command, "--network", "judges.Small") == 0
    assert before == [(out / "evaluation" / name).stat().st_mtime_ns for name in done]
    assert_same(out, alone)
    assert "run the same command again" in tasks.printed.read_text()


def test_restore_scikit_image_and_evaluate_agree(alone):
    table = parquet.read_table(alone / "metrics.parquet").to_pylist()
    rows = {row["key"]: row for row in table}
    assert len(rows) == SHARDS * SAMPLES == len(table)
    options = dict(
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=2
    )
    for name in ("000000", "000004"):
        for pair in Results(alone).pairs(name):
            row = rows[pair.key]
            assert all(round(row[m], 4) == pair.record[m] for m in ("psnr", "ssim"))
            assert row["misfit"] == pair.record["misfit"] and row["shard"] == name
            one, other = (v.permute(1, 2, 0).numpy() / 255 for v in (pair.image, pair.reference))
            assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(one, other, data_range=1), abs=1e-9)
            _, full = structural_similarity(one, other, full=True, **options)
            assert row["ssim"] == pytest.approx(full.mean(), abs=1e-9)
    means = read_json(alone / "summary.json")["metrics"]
    assert means["psnr"]["mean"] == pytest.approx(np.mean([row["psnr"] for row in table]), abs=1e-9)
    assert means["psnr"]["low"] < means["psnr"]["mean"] < means["psnr"]["high"]


def test_fid_is_that_of_torchmetrics_and_only_inception_gives_it(out):
    """The same features through torchmetrics; the path from images to summary is in between."""
    network = Small()
    network.name = "inception"
    results = Results(out)
    judge = Judge([], networks=[network])
    for name in results.names:
        judge.shard(results, name)
    found = merge(results)["metrics"]
    theirs = FrechetInceptionDistance(feature=_Counted(network))
    for name in results.names:
        for pair in results.pairs(name):
            theirs.update(pair.image[None], real=False)
            theirs.update(pair.reference[None], real=True)
    assert found["fid"]["value"] == pytest.approx(theirs.compute().item(), rel=1e-4)
    assert set(found) >= {"fid", "kid"} and not any(name.startswith("fd") for name in found)


class _Counted(torch.nn.Module):
    num_features = 12

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images)


def test_of_many_images_the_kernel_distance_takes_some_and_frechet_all(alone, monkeypatch):
    results = Results(alone)
    records = {name: read(results, name) for name in results.names}
    features = Features([features_path(results.run, name) for name in records], "small/restored")
    moments, pool = features.gather(0)
    assert features.n == moments.n == len(pool) == SHARDS * SAMPLES
    torch.testing.assert_close(moments.sum, pool.double().sum(0), rtol=0, atol=1e-9)
    monkeypatch.setattr("reddiff_pl.evaluation.sets.POOL", 7)
    again, some = features.gather(0)
    assert torch.equal(again.outer, moments.outer) and len(some) == 7
    places = [int((pool == row).all(1).nonzero()) for row in some]
    assert places == sorted(set(places)) and not torch.equal(some, features.gather(1)[1])


def test_another_network_is_never_called_fid(alone):
    text = (alone / "summary.md").read_text() + (alone / "summary.tex").read_text()
    assert "FD-small" in text and "KD-small" in text
    assert (
        "FID" not in text and "KID" not in text and "fid" not in read_json(alone / "summary.json")["metrics"]
    )


def test_tables(alone):
    md, tex = (alone / "summary.md").read_text(), (alone / "summary.tex").read_text()
    psnr = read_json(alone / "summary.json")["metrics"]["psnr"]
    row = f"{psnr['mean']:.2f}", f"{psnr['low']:.2f} .. {psnr['high']:.2f}", "30"
    assert f"| PSNR [dB] ↑ | {' | '.join(row)} |" in md
    assert f"PSNR [dB] $\\uparrow$ & {' & '.join(row)} \\\\" in tex
    assert tex.count(" & ") == 3 * (md.count("\n| ")), "the rows of both are the same"
    assert "95 \\% interval" in tex and "KD-small x1000 $\\downarrow$" in tex


def test_other_metrics_are_added_and_finished_ones_kept(reddiff, out):
    assert reddiff("evaluate", out, "--metrics", "misfit")[0] == 0
    assert set(read_json(out / "summary.json")["metrics"]) == {"misfit"}
    code, printed = reddiff("evaluate", out, "--metrics", "psnr,fd", "--network", "judges.Small")
    assert code == 0 and "shard 000000: psnr, small" in printed
    assert set(read_json(out / "summary.json")["metrics"]) == {"misfit", "psnr", "fd-small", "kd-small"} | {
        m for m in read_json(out / "summary.json")["metrics"] if m.startswith("top")
    }
    code, printed = reddiff("evaluate", out, "--metrics", "psnr,misfit")
    assert code == 0 and "shard 000000" not in printed


def test_a_shard_restored_anew_is_evaluated_anew(reddiff, out):
    assert reddiff("evaluate", out, "--metrics", "psnr")[0] == 0
    tar, sidecar = out / "shards" / "000001.tar", read_json(out / "accounts" / "000001.json")
    sidecar["tar_sha256"] = "0" * 64
    (out / "accounts" / "000001.json").write_text(json.dumps(sidecar))
    assert tar.exists()
    code, printed = reddiff("evaluate", out, "--metrics", "psnr")
    assert code == 0 and "shard 000001: psnr" in printed and "shard 000000" not in printed


def test_merge_alone_adds_up_what_is_there(reddiff, out):
    results = Results(out)
    for name in results.names[:2]:
        Judge(["psnr"]).shard(results, name)
    code, printed = reddiff("evaluate", out, "--merge")
    summary = read_json(out / "summary.json")
    assert code == 0 and "4 finished shards are not evaluated yet" in printed
    assert summary["images"] == 10 and summary["shards"]["missing"] == results.names[2:]


def test_a_shard_held_by_another_task_is_left_to_it(reddiff, tasks, out):
    """The last to end adds up; a task that leaves one behind says so."""
    path = sidecar_path(Results(out).run, "000003").with_suffix(".lock")
    holding = f"import fcntl,sys,time; f=open({str(path)!r},'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True);"
    path.parent.mkdir()
    import subprocess
    import sys

    process = subprocess.Popen([sys.executable, "-c", f"{holding} time.sleep(600)"], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"1\n"
        code, printed = reddiff("evaluate", out, "--metrics", "psnr")
        assert code == 0 and "1 shards are held by other tasks" in printed
        assert not (out / "summary.json").exists()
    finally:
        process.kill()
        process.communicate()
    assert reddiff("evaluate", out, "--metrics", "psnr")[0] == 0
    assert read_json(out / "summary.json")["images"] == SHARDS * SAMPLES


def test_without_references(reddiff, tmp_path):
    """Measurements alone: misfit, counts and failures are still there."""
    generator = np.random.default_rng(0)
    samples = [
        (f"k{i}", {"y.npy": npy(generator.uniform(-1, 1, (3, 4, 4)).astype("float32"))}) for i in range(4)
    ]
    samples.insert(2, ("bad", {"y.npy": npy(np.full((3, 4, 4), np.nan, "float32"))}))
    shard = write_shard(tmp_path / "a.tar", samples)
    options = [
        *QUICK,
        "--config",
        CONFIGS / "tasks" / "superresolution_4x.yaml",
        "--model.prior.init_args.shape",
    ]
    assert (
        reddiff("restore", *options, "[3,16,16]", "--data.shards", shard, "--out", tmp_path / "out")[0] == 3
    )
    code, printed = reddiff("evaluate", tmp_path / "out", *SMALL)
    summary = read_json(tmp_path / "out" / "summary.json")
    assert code == 0 and set(summary["metrics"]) == {"misfit"} and summary["metrics"]["misfit"]["n"] == 4
    assert (summary["images"], summary["references"], summary["failed"]) == (4, 0, 1)
    assert "4 images, 0 with a reference, 1 failed" in printed
    rows = parquet.read_table(tmp_path / "out" / "metrics.parquet").to_pylist()
    assert [row["key"] for row in rows] == ["k0", "k1", "k2", "k3"] and rows[0]["prediction-small"] in range(
        10
    )


def test_references_that_turn_up_later_count(reddiff, out, restored, tmp_path):
    config = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(config.replace(str(restored.parent / "in"), str(tmp_path / "gone")))
    code, printed = reddiff("evaluate", out, "--metrics", "psnr,misfit")
    assert code == 0 and set(read_json(out / "summary.json")["metrics"]) == {"misfit"}
    assert "give --inputs" in printed
    code, _ = reddiff(
        "evaluate", out, "--metrics", "psnr,misfit", "--inputs", restored.parent / "in" / "*.tar"
    )
    assert code == 0 and read_json(out / "summary.json")["metrics"]["psnr"]["n"] == SHARDS * SAMPLES


def test_an_infinite_psnr_is_null_and_not_in_the_mean(reddiff, out):
    results = Results(out)
    judge = Judge(["psnr", "ssim"])
    for name in results.names:
        judge.shard(results, name)
    path = sidecar_path(results.run, "000000")
    finite = [
        v for name in results.names for v in read_json(sidecar_path(results.run, name))["columns"]["psnr"]
    ]
    tar = out / "shards" / "000000.tar"
    members = read_tar(tar)
    pairs = list(results.pairs("000000"))
    members[f"{pairs[1].key}.png"] = png(pairs[1].reference.permute(1, 2, 0).numpy())
    write_shard(
        tar, [(p.key, {s: members[f"{p.key}.{s}"] for s in ("png", "json", "reddiff.json")}) for p in pairs]
    )
    sidecar = read_json(account(tar))
    account(tar).write_text(json.dumps({**sidecar, "tar_sha256": "new", "tar_bytes": tar.stat().st_size}))
    code, printed = reddiff("evaluate", out, "--metrics", "psnr,ssim")
    assert code == 0 and "1 images equal their reference" in printed
    columns = read_json(path)["columns"]
    assert columns["psnr"][1] is None and columns["ssim"][1] == 1
    entry = read_json(out / "summary.json")["metrics"]["psnr"]
    assert (entry["infinite"], entry["n"]) == (1, SHARDS * SAMPLES - 1)
    assert entry["mean"] == pytest.approx((sum(finite) - finite[1]) / (len(finite) - 1), abs=1e-9)


def test_a_damaged_image_is_noted_and_the_others_count(reddiff, out):
    tar = out / "shards" / "000002.tar"
    members = read_tar(tar)
    keys = [name[:-4] for name in members if name.endswith(".png")]
    members[f"{keys[3]}.png"] = b"no image"
    members[f"{keys[0]}.png"] = png(np.zeros((8, 8, 3), np.uint8))
    members[f"{keys[1]}.png"], members[f"{keys[0]}.png"] = (
        members[f"{keys[0]}.png"],
        members[f"{keys[1]}.png"],
    )
    write_shard(
        tar, [(key, {s: members[f"{key}.{s}"] for s in ("png", "json", "reddiff.json")}) for key in keys]
    )
    sidecar = read_json(account(tar))
    account(tar).write_text(json.dumps({**sidecar, "tar_bytes": tar.stat().st_size}))
    code, _ = reddiff("evaluate", out, "--metrics", "psnr,fd", "--network", "judges.Small")
    summary = read_json(out / "summary.json")
    # one of another size is judged, against a reference of that size
    assert code == 0 and summary["images"] == SHARDS * SAMPLES - 1
    assert summary["references"] == summary["metrics"]["psnr"]["n"] == SHARDS * SAMPLES - 1
    assert len(summary["notes"]) == 1 and keys[3] in summary["notes"][0]


def test_missing_weights_are_said_before_the_work(reddiff, out, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    code, printed = reddiff("evaluate", out, "--metrics", "psnr,lpips,fid,kid", "--weights", tmp_path)
    assert code == 0
    lines = [line for line in printed.splitlines() if line.startswith("warning: ")]
    assert lines[0].startswith(
        f"warning: lpips: left out; no alexnet-owt-7be5be79.pth in {tmp_path}: fetch https://"
    )
    assert lines[1].startswith("warning: fid, kid: left out; no weights-inception-2015-12-05-6726825d.pth")
    assert printed.index("left out") < printed.index("shard 000000")
    summary = read_json(out / "summary.json")
    assert set(summary["metrics"]) == {"psnr"} and set(summary["left_out"]) == {"lpips", "fid, kid"}
    code, printed = reddiff("evaluate", out, "--metrics", "lpips")
    assert code == 2 and "none of lpips can be had" in printed and len(printed.splitlines()) <= 2


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--metrics", "psnr,vmaf"], "--metrics: no vmaf"),
        (["--network", "judges.None"], "--network: judges.None: AttributeError"),
        (
            ["--network", "judges.Flat"],
            "--network: Flat gives features of shape (1, 3, 16, 16), expected (1, d)",
        ),
        (["--network", "pathlib.Path"], "not a torch.nn.Module"),
        (["--batch-size", "0"], "--batch-size: must be at least 1"),
        (["--rank", "1"], "--rank and --world"),
        (["--device", "abacus", "--metrics", "fd", "--network", "judges.Small"], "--device: abacus"),
        (["--surprise"], "--surprise: no such option"),
    ],
)
def test_bad_options_are_one_line(reddiff, out, options, line):
    code, printed = reddiff("evaluate", out, *options)
    errors = [text for text in printed.splitlines() if "error: " in text]
    assert code == 2 and len(errors) == 1 and line in errors[0], printed
    assert not (out / "summary.json").exists()


def test_no_run(reddiff, tmp_path):
    code, printed = reddiff("evaluate", tmp_path)
    assert code == 2 and "not the output directory of a run" in printed
    (tmp_path / "shards").mkdir()
    code, printed = reddiff("evaluate", tmp_path)
    assert code == 2 and "no shard is finished yet" in printed


def test_overwrite_takes_the_evaluation_along(reddiff, out, restored):
    assert reddiff("evaluate", out, *SMALL)[0] == 0
    from reddiff_pl.restoring.config import clear

    clear(Results(out).run)
    assert not [path for path in out.rglob("*") if path.is_file()]
