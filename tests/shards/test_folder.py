"""What lies in a folder: images, what belongs to them, failures, and the rest counted. Nothing vanishes."""

from __future__ import annotations

import os
import re
import unicodedata

import pytest

from reddiff_pl.errors import ConfigError
from reddiff_pl.shards import folder as module
from reddiff_pl.shards.folder import not_looked_at
from reddiff_pl.shards.look import look
from reddiff_pl.shards.plan import folder_mark, plan
from reddiff_pl.shards.reader import Failure, read_shard


def fill(path, *names: str):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x" * 10)
    return path


def test_what_lies_beside_an_image_belongs_to_it(tmp_path):
    umlaut = [unicodedata.normalize(form, "sub dir/v1.2 ü.mask.PNG") for form in ("NFC", "NFD")]
    fill(
        tmp_path, "a.jpg", "a.mask.png", "a.x.png", "A.json", "a.kernel.npy", "sub dir/v1.2 ü.TIF", umlaut[1]
    )
    fill(
        tmp_path,
        "a b.tar.y.png",
        "a b.tar.Mask_0.JPG",
        "scan.npy",
        "scan.coils.npy",
        "b.mask.png",
        "other.1.npy",
    )
    found = look(str(tmp_path), "measured")
    assert {image.key: dict(image.members) for image in found.images} == {
        "a": {"y.jpg": "a.jpg", "mask.png": "a.mask.png", "x.png": "a.x.png", "kernel.npy": "a.kernel.npy"},
        "a b_tar": {"y.png": "a b.tar.y.png", "mask_0.jpg": "a b.tar.Mask_0.JPG"},
        "other_1": {"y.npy": "other.1.npy"},
        "scan": {"y.npy": "scan.npy", "coils.npy": "scan.coils.npy"},
        "sub dir/v1_2 ü": {"y.tif": "sub dir/v1.2 ü.TIF", "mask.png": umlaut[1]},
    }
    assert found.skipped == {".json": 1, ".mask.png beside no image": 1}


def test_names_that_a_key_cannot_tell_apart_get_suffixes(tmp_path):
    fill(
        tmp_path, "x.1.png", "x_1.png", "same.jpg", "same.png", "same.jpg.mask.png", "x.1.PNG", "same_png.bmp"
    )
    found = look(str(tmp_path), "measured")
    keys = {image.file: image.key for image in found.images}
    assert keys["x_1.png"] == "x_1" and keys["same.jpg"] == "same" and keys["same_png.bmp"] == "same_png"
    assert len(set(keys.values())) == len(keys) == 6
    assert not any("." in os.path.basename(key) for key in keys.values())
    masked = {image.file for image in found.images if "mask.png" in image.members}
    assert masked == {"same.jpg"}, "the whole name says whose mask it is"


def test_nothing_vanishes(tmp_path):
    images = ["a.JPG", "b.jfif", "c.ppm", "d.avif", "e.jp2", "f.gif"]
    fill(
        tmp_path / "in",
        *images,
        "g.heic",
        "h.CR2",
        "notes.txt",
        "no suffix",
        ".hidden",
        ".git/a.jpg",
        "._a.jpg",
    )
    fill(tmp_path / "elsewhere", "linked.png", "more/l.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "link")
    os.symlink("..", tmp_path / "elsewhere" / "up")
    os.symlink(tmp_path / "in", tmp_path / "in" / "round")
    os.symlink("nowhere.png", tmp_path / "in" / "dangling.png")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    [shard] = plan(images=str(tmp_path / "in"))
    found = list(read_shard(shard))
    failures = {entry.key: entry.reason for entry in found if isinstance(entry, Failure)}
    assert set(failures) == {"g", "h", "pipe"} and "convert it" in failures["g"]
    names = {entry.file for entry in found if not isinstance(entry, Failure)}
    assert names == {*images, "link/linked.png", "link/more/l.png", "dangling.png"}
    line = not_looked_at(look(str(tmp_path / "in"), "images").skipped)
    linked = "2 links to folders looked through already"
    assert line == f"7 files were not looked at: 3 hidden, {linked}, 1 .txt, 1 without a suffix"


@pytest.mark.skipif(os.geteuid() == 0, reason="root opens every folder")
def test_a_folder_that_cannot_be_opened_fails(tmp_path):
    fill(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    assert [(image.file, bool(image.error)) for image in look(str(tmp_path), "images").images] == [
        ("a.jpg", False),
        ("closed", True),
    ]


def test_names_that_are_no_utf8_or_do_not_print(tmp_path):
    for name in (b"\xe4.png", b"a\nb.png", "ok é.png".encode()):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
            pass
    keys = [image.key for image in look(str(tmp_path), "measured").images]
    assert sorted(keys) == ["\\udce4", "a_b", "ok é"]
    assert all(key.encode().decode().isprintable() for key in keys)


@pytest.mark.parametrize(
    ("kind", "names", "says"),
    [
        ("images", ["a.jpg", "a.mask.png"], r"a\.mask\.png.*--data\.measured"),
        ("images", ["a.y.png", "b.jpg"], r"a\.y\.png.*--data\.measured"),
        ("images", ["a.mask.png", "b.mask.png"], r"--data\.params"),
        ("measured", ["a.mask.png", "b.mask.png"], r"--data\.params"),
        ("measured", ["a.tar"], r"--data\.shards"),
        ("images", ["a.txt"], r"no image.*1 \.txt"),
    ],
)
def test_a_folder_of_another_kind_is_refused(tmp_path, kind, names, says):
    with pytest.raises(ConfigError, match=rf"--data\.{kind}.*{says}"):
        look(str(fill(tmp_path, *names)), kind)


def test_shards_of_a_gibibyte_and_the_cuts_of_a_run_that_began(tmp_path, monkeypatch):
    """Files that grew meanwhile move no image to another shard; other files do not take the old cuts."""
    monkeypatch.setattr(module, "BYTES_PER_SHARD", 25)
    fill(tmp_path / "in", *(f"{i}.png" for i in range(5)))
    inputs, out = str(tmp_path / "in"), tmp_path / "out"

    def cut():
        return [[image.file[0] for image in shard.images] for shard in plan(measured=inputs, out=out)]

    assert cut() == [["0", "1"], ["2", "3"], ["4"]]
    out.mkdir()
    mark = folder_mark(plan(measured=inputs))
    (out / "config.yaml").write_text(f"# prior_sha256: none\n# folder: {mark}\ndata: {{}}\n")
    (tmp_path / "in" / "0.png").write_bytes(b"x" * 100)
    assert cut() == [["0", "1"], ["2", "3"], ["4"]]
    fill(tmp_path / "in", "5.png")
    assert cut() == [["0"], ["1", "2"], ["3", "4"], ["5"]]


def test_where_masks_and_results_lie_is_no_image(tmp_path):
    fill(tmp_path, "a.jpg", "masks/a.png", "mask.png", "out/report/overview.png")
    shards = plan(measured=str(tmp_path), params={"mask": str(tmp_path / "masks")}, out=tmp_path / "out")
    assert [image.file for shard in shards for image in shard.images] == ["a.jpg", "mask.png"]
    shards = plan(measured=str(tmp_path), params={"mask": str(tmp_path / "mask.png")}, out=tmp_path / "out")
    assert [image.file for shard in shards for image in shard.images] == ["a.jpg", "masks/a.png"]


def test_a_line_of_what_is_not_looked_at_stays_short():
    line = not_looked_at({f".{i}": i + 1 for i in range(40)})
    assert line is not None and re.search(r"^820 files.*of other kinds$", line) and len(line) < 200
    assert not_looked_at({}) is None


def test_one_picture_finds_what_is_its_own_in_any_form_of_unicode(tmp_path):
    composed, apart = "K\u00e4the", "Ka\u0308the"
    fill(tmp_path, f"{composed}.jpg", f"{apart}.mask.png", "other.mask.png")
    [image] = look(str(tmp_path / f"{composed}.jpg"), "measured").images
    assert image.members == {"y.jpg": f"{composed}.jpg", "mask.png": f"{apart}.mask.png"}
    with pytest.raises(ConfigError, match=r"is named as what belongs to other\.\*; give that picture"):
        look(str(tmp_path / "other.mask.png"), "measured")
