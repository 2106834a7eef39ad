"""`reddiff restore` and `degrade` from shard to shard, with a prior that costs nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import webdataset as wds
from helpers import CONFIGS, QUICK, account, npy, png, read_json, read_tar, restored_keys, write_shard
from PIL import Image
from skimage.metrics import structural_similarity

from reddiff_pl.priors.precision import multiplies_bf16

INPAINTING = ["--config", str(CONFIGS / "tasks" / "inpainting_random.yaml")]


@pytest.fixture
def shard(tmp_path, photos):
    """Ten photos with metadata."""
    samples = [
        (key, {"jpg": photo, "json": json.dumps({"caption": f"é {key}", "n": i}).encode()})
        for i, (key, photo) in enumerate(list(photos.items())[:10])
    ]
    return write_shard(tmp_path / "in" / "a.tar", samples)


def test_every_key_comes_out_once_in_order_with_its_metadata(reddiff, shard, tmp_path, photos):
    code, printed = reddiff("restore", *QUICK, *INPAINTING, "--data.shards", shard, "--out", tmp_path / "out")
    assert code == 0, printed
    output = tmp_path / "out" / "shards" / "a.tar"
    assert restored_keys(output) == list(photos)[:10]
    dataset = (
        wds.WebDataset(str(output), shardshuffle=False)
        .decode("rgb8")
        .to_tuple("__key__", "png", "json", "reddiff.json")
    )
    for i, (key, image, meta, record) in enumerate(dataset):
        assert image.shape == (64, 64, 3)
        assert meta == {"caption": f"é {key}", "n": i}
        assert (
            record["seed"] == 0 and record["misfit"] >= 0 and 0 < record["ssim"] <= 1 and record["psnr"] > 5
        )
    sidecar = read_json(tmp_path / "out" / "accounts" / "a.json")
    assert sidecar["complete"] and sidecar["restored"] == 10 and sidecar["failed"] == []
    assert sidecar["tar_bytes"] == output.stat().st_size
    names = [path.name for path in output.parent.iterdir()]
    assert names == ["a.tar"], "nothing of the work is left behind"
    assert "10 restored, 0 failed" in printed


def test_a_finished_shard_is_left_alone(reddiff, shard, tmp_path):
    command = ["restore", *QUICK, *INPAINTING, "--data.shards", shard, "--out", tmp_path / "out"]
    assert reddiff(*command)[0] == 0
    output = tmp_path / "out" / "shards" / "a.tar"
    before = output.stat()
    code, printed = reddiff(*command)
    assert code == 0 and "1 of its 1 shards are finished already" in printed
    assert (output.stat().st_ino, output.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_preview_is_taken_up_by_the_full_run(reddiff, shard, tmp_path):
    command = ["restore", *QUICK, *INPAINTING, "--data.batch_size=4", "--data.shards", shard]
    assert reddiff(*command, "--out", tmp_path / "whole")[0] == 0
    assert reddiff(*command, "--out", tmp_path / "cut", "--limit", "6")[0] == 0
    output = tmp_path / "cut" / "shards" / "a.tar"
    assert len(restored_keys(output)) == 6 and not read_json(account(output))["complete"]
    assert reddiff(*command, "--out", tmp_path / "cut")[0] == 0
    assert output.read_bytes() == (tmp_path / "whole" / "shards" / "a.tar").read_bytes()


@pytest.mark.parametrize("noise", ["NoNoise", "GaussianNoise"])
@pytest.mark.parametrize("task", ["inpainting_freeform", "superresolution_4x", "deblur_gauss"])
def test_degraded_shards_restore_as_clean_ones_do(reddiff, shard, tmp_path, task, noise):
    """The same images, whether degraded on the fly or before; the operator comes along in physics.yaml."""
    sampler = ["--config", CONFIGS / "samplers" / "reddiff.yaml", *QUICK]  # a task has settings of its own
    options = ["--config", CONFIGS / "tasks" / f"{task}.yaml", f"--model.noise=reddiff_pl.physics.{noise}"]
    options += sampler
    direct, measured, later = (tmp_path / name for name in ("direct", "measured", "later"))
    assert reddiff("restore", *options, "--data.shards", shard, "--out", direct)[0] == 0
    assert reddiff("degrade", *options, "--data.shards", shard, "--out", measured)[0] == 0
    code, printed = reddiff(
        "restore", *sampler, "--data.shards", measured / "shards" / "*.tar", "--out", later
    )
    assert code == 0, printed
    one, other = (read_tar(out / "shards" / "a.tar") for out in (direct, later))
    assert {n: c for n, c in one.items() if n.endswith("png")} == {
        n: c for n, c in other.items() if n.endswith("png")
    }
    if noise == "GaussianNoise":
        record = next(c for n, c in other.items() if n.count(".") == 1 and n.endswith("json"))
        assert json.loads(record)["sigma_y"] == 0.05


def test_a_folder_of_images_restores_as_a_shard_does(reddiff, shard, tmp_path, photos):
    for key in list(photos)[:10]:
        path = tmp_path / "photos" / f"{key}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photos[key])
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    assert reddiff("restore", *QUICK, *INPAINTING, "--data.shards", shard, "--out", tmp_path / "a")[0] == 0
    code, _ = reddiff(
        "restore", *QUICK, *INPAINTING, "--data.images", tmp_path / "photos", "--out", tmp_path / "b"
    )
    assert code == 0
    one = read_tar(tmp_path / "a" / "shards" / "a.tar")
    other = read_tar(tmp_path / "b" / "shards" / "images-000000.tar")
    assert {n: c for n, c in one.items() if n.endswith("png")} == {
        n: c for n, c in other.items() if n.endswith("png")
    }


def test_images_added_to_a_finished_folder_are_not_passed_over(reddiff, tmp_path, photos):
    (tmp_path / "photos").mkdir()
    names = list(photos)
    (tmp_path / "photos" / "b.jpg").write_bytes(photos[names[0]])
    command = [
        "restore",
        *QUICK,
        *INPAINTING,
        "--data.images",
        tmp_path / "photos",
        "--out",
        tmp_path / "out",
    ]
    assert reddiff(*command)[0] == 0
    (tmp_path / "photos" / "a.jpg").write_bytes(photos[names[1]])
    code, printed = reddiff(*command)
    assert code == 2 and "--data.images" in printed


def test_a_preview_of_several_shards_counts_what_is_there(reddiff, shard, tmp_path):
    """The second preview does not begin another shard because the first's samples are written."""
    (tmp_path / "in" / "b.tar").write_bytes(shard.read_bytes())
    command = ["restore", *QUICK, *INPAINTING, "--data.shards", tmp_path / "in" / "*.tar", "--limit=12"]
    for _ in range(2):
        assert reddiff(*command, "--out", tmp_path / "out")[0] == 0
        assert [len(restored_keys(tmp_path / "out" / "shards" / f"{n}.tar")) for n in "ab"] == [10, 2]


def test_names_follow_the_common_prefix(reddiff, shard, tmp_path):
    for name in ("x/0.tar", "y/0.tar", "y/1.tar"):
        path = tmp_path / "many" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shard.read_bytes())
    pattern = str(tmp_path / "many" / "{x/0,y/{0..1}}.tar")
    code, _ = reddiff(
        "restore", *QUICK, *INPAINTING, "--data.shards", pattern, "--out", tmp_path / "out", "--limit", "25"
    )
    assert code == 0
    sidecars = {
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out" / "accounts").rglob("*.json")
    }
    assert sidecars == {f"accounts/{name}.json" for name in ("x/0", "y/0", "y/1")}


def test_a_deepinv_operator_restores_through_yaml_alone(reddiff, shard, tmp_path):
    """Not in this package's table; and one made for [0, 1] images, wrapped."""
    (tmp_path / "task.yaml").write_text(
        """
model:
  physics:
    class_path: reddiff_pl.physics.UnitRange
    init_args:
      physics:
        class_path: deepinv.physics.Decolorize
"""
    )
    command = [
        *(
            "restore",
            *QUICK,
            "--config",
            tmp_path / "task.yaml",
            "--data.shards",
            shard,
            "--out",
            tmp_path / "out",
        ),
        "--model.sampler.init_args.steps=50",
    ]
    code, printed = reddiff(*command)
    assert code == 0, printed
    assert reddiff(*command)[0] == 0, "the same configuration is recognised"
    for name, content in read_tar(tmp_path / "out" / "shards" / "a.tar").items():
        if name.endswith("reddiff.json"):
            assert json.loads(content)["misfit"] < 0.05


def test_metrics_are_those_of_the_written_image(reddiff, shard, tmp_path):
    assert reddiff("degrade", *QUICK, *INPAINTING, "--data.shards", shard, "--out", tmp_path / "y")[0] == 0
    assert (
        reddiff("restore", *QUICK, "--data.shards", tmp_path / "y/shards/a.tar", "--out", tmp_path / "o")[0]
        == 0
    )
    inputs, outputs = read_tar(tmp_path / "y/shards/a.tar"), read_tar(tmp_path / "o/shards/a.tar")
    for name in outputs:
        if not name.endswith(".reddiff.json"):
            continue
        key, record = name.removesuffix(".reddiff.json"), json.loads(outputs[name])
        image, reference = (
            np.asarray(Image.open(io.BytesIO(data))).astype(float) / 255
            for data in (outputs[f"{key}.png"], inputs[f"{key}.x.png"])
        )
        assert record["psnr"] == pytest.approx(-10 * np.log10(((image - reference) ** 2).mean()), abs=1e-3)
        options = dict(
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=2
        )
        _, full = structural_similarity(image, reference, full=True, **options)
        assert record["ssim"] == pytest.approx(full.mean(), abs=1e-4)
        mask = np.asarray(Image.open(io.BytesIO(inputs[f"{key}.mask.png"]))) > 0
        y = (np.load(io.BytesIO(inputs[f"{key}.y.npy"])).transpose(1, 2, 0) + 1) / 2
        assert record["misfit"] == pytest.approx(np.sqrt(((y - image)[mask] ** 2).mean()), abs=1e-3)


def test_without_a_reference_there_is_the_misfit_only(reddiff, tmp_path):
    y = np.zeros((3, 16, 16), dtype=np.float32)
    shard = write_shard(
        tmp_path / "a.tar", [("k", {"y.npy": npy(y)}), ("l", {"y.png": png(np.zeros((16, 16, 3), "u1"))})]
    )
    task = ["--config", CONFIGS / "tasks" / "superresolution_4x.yaml"]
    assert reddiff("restore", *QUICK, *task, "--data.shards", shard, "--out", tmp_path / "out")[0] == 0
    records = {
        n: json.loads(c)
        for n, c in read_tar(tmp_path / "out/shards/a.tar").items()
        if n.endswith("reddiff.json")
    }
    assert [set(record) & {"psnr", "ssim", "misfit"} for record in records.values()] == [{"misfit"}] * 2


def test_a_png_measurement_is_in_the_unit_range(reddiff, tmp_path):
    """White as png equals 1 as npy, for an operator on [-1, 1]; and 1 also for one on [0, 1]."""
    white = png(np.full((16, 16, 3), 255, "u1"))
    ones = npy(np.ones((3, 16, 16), np.float32))
    shard = write_shard(tmp_path / "a.tar", [("k", {"y.png": white}), ("l", {"y.npy": ones})])
    for name, physics in {
        "plain": "{class_path: reddiff_pl.physics.SuperResolution}",
        "unit": "{class_path: reddiff_pl.physics.UnitRange, init_args: {physics: {class_path: "
        "reddiff_pl.physics.SuperResolution}}}",
    }.items():
        out = tmp_path / name
        options = [
            f"--model.physics={physics}",
            "--model.sampler.init_args.steps=60",
            "--model.sampler.init_args.lam=1e-8",
        ]
        assert reddiff("restore", *QUICK, *options, "--data.shards", shard, "--out", out)[0] == 0
        for member, content in read_tar(out / "shards" / "a.tar").items():
            if member.endswith("png"):
                assert np.asarray(Image.open(io.BytesIO(content))).min() > 250, (name, member)


def test_kept_steps_are_drawn_as_a_strip(reddiff, shard, tmp_path):
    options = ["--model.keep_steps=10", "--model.sampler.init_args.steps=25", "--limit=2"]
    assert (
        reddiff("restore", *QUICK, *INPAINTING, *options, "--data.shards", shard, "--out", tmp_path / "out")[
            0
        ]
        == 0
    )
    members = read_tar(tmp_path / "out" / "shards" / "a.tar")
    strips = {name: content for name, content in members.items() if name.endswith("steps.png")}
    assert len(strips) == 2
    for name, content in strips.items():
        strip = np.asarray(Image.open(io.BytesIO(content)))
        assert strip.shape == (128, 640, 3)
        image = np.asarray(Image.open(io.BytesIO(members[name.replace(".steps", "")])))
        assert (strip[:64, -64:] == image).all(), "the last frame is the result"


def test_results_do_not_depend_on_batch_size_or_order(reddiff, shard, tmp_path, photos):
    backwards = write_shard(tmp_path / "b.tar", [(k, {"jpg": photos[k]}) for k in list(photos)[9::-1]])
    runs = {"one": (shard, 1), "four": (shard, 4), "backwards": (backwards, 3)}
    images = {}
    for name, (path, size) in runs.items():
        out = tmp_path / name
        code, _ = reddiff(
            *(
                "restore",
                *QUICK,
                *INPAINTING,
                "--data.shards",
                path,
                "--data.batch_size",
                str(size),
                "--out",
                out,
            )
        )
        assert code == 0
        tar = next((out / "shards").glob("*.tar"))
        images[name] = {
            n: np.asarray(Image.open(io.BytesIO(c))).astype(int)
            for n, c in read_tar(tar).items()
            if n.endswith("png")
        }
    for name in ("four", "backwards"):
        for key, image in images["one"].items():
            assert np.abs(image - images[name][key]).max() <= 1


def test_another_configuration_in_the_same_place_is_refused(reddiff, shard, tmp_path):
    command = ["restore", *QUICK, *INPAINTING, "--data.shards", shard, "--out", tmp_path / "out", "--limit=1"]
    assert reddiff(*command)[0] == 0
    for change in (
        "--seed=1",
        "--model.sampler.init_args.lr=0.3",
        "--model.prior.init_args.mean=.1",
    ):
        code, printed = reddiff(*command, change)
        assert code == 2 and "another configuration" in printed
        assert change.split("=")[0].lstrip("-").split(".")[-1] in printed
    assert reddiff(*command, "--data.workers=1")[0] == 0
    code, printed = reddiff(*command, "--data.batch_size=3")
    assert code == 0 and "warning: --data.batch_size was 8, is 3" in printed


def test_a_run_keeps_the_precision_it_began_with(reddiff, shard, tmp_path):
    """What `auto` came to on the first task's device is written down, and binds the others."""
    command = ["restore", *QUICK, *INPAINTING, "--data.shards", shard, "--out", tmp_path / "out", "--limit=1"]
    command += ["--model.prior=reddiff_pl.priors.UNet", "--model.sampler.init_args.steps=1"]
    assert reddiff(*command)[0] == 0
    config = tmp_path / "out" / "config.yaml"
    mine = "bf16" if multiplies_bf16(torch.device("cpu")) else "32"
    assert f"\n# precision: {mine}\n" in config.read_text()
    assert reddiff(*command)[0] == 0
    other = "fp8 from t = 17 to 300, else bf16"
    config.write_text(config.read_text().replace(f"# precision: {mine}", f"# precision: {other}"))
    code, printed = reddiff(*command)
    assert code == 2 and f"computes in {other}, on this device it does in {mine}" in printed


@pytest.mark.skipif(
    not multiplies_bf16(torch.device("cpu")), reason="a processor that does not multiply in bf16"
)
def test_a_processor_without_bf16_does_not_go_on_in_float32(reddiff, shard, tmp_path):
    """The same task on an older processor: torch is told to leave AVX-512 alone."""
    command = ["restore", *QUICK, *INPAINTING, "--data.shards", shard, "--out", tmp_path / "out"]
    command += ["--model.prior=reddiff_pl.priors.UNet", "--model.sampler.init_args.steps=1"]
    assert reddiff(*command, "--limit=1")[0] == 0
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}

    def without(*more: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "reddiff_pl", *map(str, command), *more]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    before = (tmp_path / "out" / "shards" / "a.tar").read_bytes()
    refused = without()
    assert refused.returncode == 2, refused.stderr
    assert "begun with a prior that computes in bf16, on this device it does in 32" in refused.stderr
    assert (tmp_path / "out" / "shards" / "a.tar").read_bytes() == before


def test_physics_yaml_is_not_trusted(reddiff, shard, tmp_path):
    """It comes with the data: it names operators and nothing else."""
    assert reddiff("degrade", *QUICK, *INPAINTING, "--data.shards", shard, "--out", tmp_path / "y")[0] == 0
    path = tmp_path / "y" / "shards" / "physics.yaml"
    good = path.read_text()
    restore = ["restore", *QUICK, "--data.shards", tmp_path / "y" / "shards" / "a.tar", "--limit=1"]
    evil = {
        "class": "model: {physics: {class_path: subprocess.Popen}}",
        "short": "model: {physics: os.system}",
        "nested": good.replace("reddiff_pl.physics.RandomMask", "torch.nn.Linear"),
        "through": "model: {physics: {class_path: deepinv.physics.Physics, init_args: "
        "{A: deepinv.physics.forward.torch.exp}}}",
        "prior": good + "trainer: {devices: 2}\n",
        "no yaml": "a: [",
    }
    for name, text in evil.items():
        path.write_text(text)
        code, printed = reddiff(*restore, "--out", tmp_path / name)
        assert code == 2 and "physics.yaml" in printed, (name, printed)
        assert not (tmp_path / name / "shards").exists()
    path.write_text(good)
    assert reddiff(*restore, "--out", tmp_path / "good")[0] == 0


def test_the_seed_decides(reddiff, shard, tmp_path):
    contents = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        out = tmp_path / name
        reddiff("restore", *QUICK, *INPAINTING, "--data.shards", shard, "--out", out, f"--seed={seed}")
        contents.append((out / "shards" / "a.tar").read_bytes())
        torch.manual_seed(seed + 17)  # the global generator has no say
    assert contents[0] == contents[1] != contents[2]
