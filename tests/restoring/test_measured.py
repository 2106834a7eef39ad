"""Folders of measurements: damaged photos with what belongs to them, restored as they are."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from helpers import CONFIGS, QUICK, npy, png, read_json, read_tar
from PIL import Image

GIVEN = [
    "--config",
    CONFIGS / "tasks" / "inpainting_given.yaml",
    *QUICK,
    "--model.prior.init_args.shape=[3,16,16]",
]
LEFT = np.zeros((16, 16), np.uint8)
LEFT[:, :8] = 255  # white is kept


def photo(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)


def fill(folder, files: dict[str, bytes]):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def restored(out) -> dict[str, np.ndarray]:
    members = read_tar(out / "shards" / "measured-000000.tar")
    return {
        name[:-4]: np.asarray(Image.open(io.BytesIO(content)))
        for name, content in members.items()
        if name.endswith(".png")
    }


@pytest.fixture
def scratched(tmp_path):
    return fill(
        tmp_path / "in",
        {
            "a.png": png(photo(0)),
            "a.mask.png": png(LEFT),
            "old/Käfer v1.2.PNG": png(photo(1)),
            "old/Käfer v1.2.mask.png": png(LEFT),
            "c.png": png(photo(2)),
            "c.x.png": png(photo(2)),
            "notes.txt": b"",
        },
    )


def test_photos_with_masks(reddiff, scratched, tmp_path):
    """Kept pixels stay as they are; the photo without a mask fails, and is restored once it has one."""
    command = ["restore", *GIVEN, "--data.measured", scratched, "--out", tmp_path / "out"]
    code, printed = reddiff(*command)
    assert code == 3
    assert "3 measurements of Inpainting, masks for all but 1, references for 1" in printed
    assert printed.count("1 file was not looked at: 1 .txt") == 2, "at the start and at the end"
    pictures = restored(tmp_path / "out")
    assert set(pictures) == {"a", "old/Käfer v1_2"}
    for key, seed in {"a": 0, "old/Käfer v1_2": 1}.items():
        assert (pictures[key][:, :8] == photo(seed)[:, :8]).all()
        assert (pictures[key][:, 8:] != photo(seed)[:, 8:]).any()
    (scratched / "c.mask.png").write_bytes(png(LEFT))
    code, printed = reddiff(*command, "--retry-failed", "true")
    assert code == 0, printed
    assert (restored(tmp_path / "out")["c"][:, :8] == photo(2)[:, :8]).all()
    fill(scratched, {"d.png": png(photo(3)), "d.mask.png": png(LEFT)})
    code, printed = reddiff(*command)
    assert code == 2 and "--data.measured" in printed, "another photo is another run"


@pytest.mark.parametrize("where", ["folder", "file"])
def test_masks_of_their_own(reddiff, tmp_path, where):
    """A folder of masks or one for all, white where pixels are missing, does what masks beside the photos do."""
    plain, beside = tmp_path / "plain", tmp_path / "beside"
    fill(plain, {"a.jpg.png": png(photo(0)), "sub/b.png": png(photo(1))})
    fill(beside, {"a.jpg.png": png(photo(0)), "sub/b.png": png(photo(1))})
    fill(beside, {"a.jpg.mask.png": png(LEFT), "sub/b.mask.png": png(LEFT)})
    masks = fill(tmp_path / "masks", {"a.jpg.png": png(255 - LEFT), "sub/b.mask.png": png(255 - LEFT)})
    given = masks if where == "folder" else masks / "a.jpg.png"
    own = ["--data.params.mask", given, "--data.invert_mask", "true"]
    assert reddiff("restore", *GIVEN, "--data.measured", beside, "--out", tmp_path / "a")[0] == 0
    command = ["restore", *GIVEN, "--data.measured", plain, "--out", tmp_path / "b"]
    assert reddiff(*command, *own)[0] == 0
    one, other = restored(tmp_path / "a"), restored(tmp_path / "b")
    assert set(one) == set(other) == {"a_jpg", "sub/b"}
    assert all((one[key] == other[key]).all() for key in one)
    code, printed = reddiff(*command, *own[:2])
    assert code == 2 and "invert_mask" in printed, "compared on resume"


def test_one_kernel_for_all_in_a_picture_is_one_in_an_array(reddiff, tmp_path):
    """A picture cannot hold a kernel's sum: it is made 1."""
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    folder = fill(tmp_path / "in", {"a.png": png(photo(0))})
    files = fill(
        tmp_path,
        {"k.npy": npy((kernel / 16).astype("f4")), "k.png": png((kernel * 60).astype(np.uint8))},
    )
    outs = []
    task = ["--config", CONFIGS / "tasks" / "deblur_motion.yaml", *GIVEN[2:]]
    for name in ("k.npy", "k.png"):
        out = tmp_path / f"out-{name}"
        own = ["--data.params.kernel", files / name]
        code, printed = reddiff("restore", *task, "--data.measured", folder, *own, "--out", out)
        assert code == 0, printed
        outs.append(restored(out)["a"].astype(int))
    assert np.abs(outs[0] - outs[1]).max() <= 1
    (tmp_path / "k.png").write_bytes(png(np.ones((3, 400), np.uint8)))
    own = ["--data.params.kernel", files / "k.png", "--out", tmp_path / "large"]
    code, printed = reddiff("restore", *task, "--data.measured", folder, *own)
    assert code == 3 and "a kernel of 400x3 pixels is larger than a " in printed, printed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], ["none of the 1 measurements", "NAME.mask.png", "--data.params.mask", "--data.images"]),
        (
            ["--data.params.psf", "{in}/a.png"],
            ["--data.params.psf", "Inpainting has no parameter psf", "mask"],
        ),
        (["--data.params.mask", "{in}/nothing"], ["--data.params.mask", "no such file or folder"]),
        (["--data.params.mask", "{in}/broken.png"], ["--data.params.mask", "not a readable image"]),
        (["--data.shards", "{in}/a.tar"], ["give one of them"]),
    ],
)
def test_what_is_missing_stops_before_any_work(reddiff, tmp_path, options, says):
    fill(tmp_path / "in", {"a.png": png(photo(0)), "broken.png.txt": b""})
    fill(tmp_path, {"broken.png": b"no picture"})
    os.replace(tmp_path / "in" / "broken.png.txt", tmp_path / "in" / "notes.txt")
    given = [option.format(**{"in": tmp_path / "in"}) for option in options]
    given = [str(tmp_path / "broken.png") if option.endswith("broken.png") else option for option in given]
    code, printed = reddiff(
        "restore", *GIVEN, "--data.measured", tmp_path / "in", *given, "--out", tmp_path / "out"
    )
    assert code == 2 and all(word in printed for word in says), printed
    assert not list((tmp_path / "out").rglob("*.tar*"))


@pytest.mark.parametrize("kind", ["measured", "images"])
def test_no_photo_takes_another_mask_than_that_of_its_name(reddiff, tmp_path, kind):
    """Where a folder of masks is given, none is drawn instead; masks of no photo are counted."""
    files = {"a.png": png(photo(0)), "b.JPG": png(photo(1)), "sub/u\u0308.png": png(photo(2))}
    photos = fill(tmp_path / "in", files)
    names = ("a.png", "B.png", "sub/ü.png", "c.png")
    masks = fill(tmp_path / "masks", {name: png(LEFT) for name in names})
    task = GIVEN if kind == "measured" else ["--task", "inpainting_random", *GIVEN[2:]]
    options = [f"--data.{kind}", photos, "--data.params.mask", masks, "--out", tmp_path / "out"]
    code, printed = reddiff("restore", *task, *options)
    assert code == 3 and "2 files were not looked at: 2 of --data.params.mask for no image" in printed, (
        printed
    )
    found = read_json(tmp_path / "out" / "accounts" / f"{kind}-000000.json")
    assert found["restored"] == 2 and [failure["key"] for failure in found["failed"]] == ["b"]
    assert "no file of its name" in found["failed"][0]["reason"]


def test_photos_vanish_and_change_meanwhile(tmp_path):
    """What is gone when it is its turn fails with its name."""
    from reddiff_pl.errors import SampleError
    from reddiff_pl.physics import Denoising, NoNoise
    from reddiff_pl.physics.degrade import Degradation
    from reddiff_pl.shards.plan import plan
    from reddiff_pl.shards.reader import read_shard
    from reddiff_pl.shards.samples import prepare

    [shard] = plan(measured=str(fill(tmp_path, {"a.png": png(photo(0)), "b.png": png(photo(1))})))
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.png").write_bytes(b"")
    for raw, says in zip(read_shard(shard), ["No such file", "not a readable image"], strict=True):
        with pytest.raises(SampleError, match=says):
            prepare(raw, Degradation(Denoising(), NoNoise(), (3, 16, 16), 0))


def test_the_other_commands_know_the_folder(reddiff, scratched, tmp_path):
    out = tmp_path / "out"
    (scratched / "c.mask.png").write_bytes(png(LEFT))
    command = [*GIVEN, "--data.measured", scratched, "--out", out]
    code, printed = reddiff("submit", "--tasks", 1, "--dry-run", *command)
    assert code == 0 and "shards    1, 0 finished, 1 to do" in printed, printed
    assert reddiff("restore", *command)[0] == 0
    os.utime(scratched / "c.mask.png", (2e9, 2e9))
    code, printed = reddiff("restore", *command)
    assert code == 0 and "1 of the images finished are older than their files" in printed, printed
    code, printed = reddiff("status", out)
    assert code == 0 and "1 of 1" in printed.replace("1/1", "1 of 1"), printed
    code, printed = reddiff("evaluate", out)
    assert code == 0, printed
    summary = read_json(out / "summary.json")
    assert "psnr" in str(summary), "the reference lies beside its photo"
    code, printed = reddiff("report", out)
    assert code == 0, printed
    assert (out / "report" / "index.html").read_text().count("Measurement") >= 1
