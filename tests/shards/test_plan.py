"""Which shards there are, what they are called, and whose they are."""

from __future__ import annotations

import random

import pytest

from reddiff_pl.errors import ConfigError
from reddiff_pl.shards.plan import assigned, is_remote, plan


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six tars in nested folders, x.txt beside them; also the working directory."""
    for name in ("a/000", "a/001", "a/010", "b/000", "b/deep/er/000", "top"):
        path = tmp_path / f"{name}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"." * (10 + len(name)))
    (tmp_path / "a" / "x.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(shards=None, images=None):
    return [shard.name for shard in plan(shards, images)]


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        ("a/{000..001}.tar", ["000", "001"]),
        ("{a,b}/000.tar", ["a/000", "b/000"]),
        ("a/*.tar", ["000", "001", "010"]),
        ("a/0?[0-9].tar", ["000", "001", "010"]),
        ("a/00[!0].tar", ["001"]),
        ("{a,b}/*.tar", ["a/000", "a/001", "a/010", "b/000"]),
        ("b/**/*.tar", ["000", "deep/er/000"]),
        ("**/*.tar", ["a/000", "a/001", "a/010", "b/000", "b/deep/er/000", "top"]),
        (["a/010.tar", "a/{000..001}.tar"], ["000", "001", "010"]),
        (["b/deep/er/*.tar", "a/000.tar"], ["a/000", "b/deep/er/000"]),
        (["top.tar", "a/000.tar"], ["a/000", "top"]),
    ],
)
def test_patterns_and_the_names_they_give(folder, shards, expected):
    assert names(shards) == expected


@pytest.mark.parametrize("start", ["", "./", "b/../", "{cwd}/"])
def test_names_do_not_depend_on_how_a_path_is_written(folder, start):
    start = start.format(cwd=folder)
    assert names(f"{start}a/*.tar") == ["000", "001", "010"]
    assert names([f"{start}a/000.tar", f"{folder}/b/deep/er/000.tar"]) == ["a/000", "b/deep/er/000"]


@pytest.mark.parametrize("path", ["a/000.tar", "top.tar", "b/deep/er/000.tar"])
def test_one_shard_is_called_by_its_own_name(folder, path):
    [shard] = plan(path, None)
    assert shard.name == path.split("/")[-1].removesuffix(".tar")
    assert shard.url == path and shard.size == (folder / path).stat().st_size and shard.images is None


@pytest.mark.parametrize("scheme", ["http://host.org/data", "https://h:8080", "memory://bucket/data"])
def test_urls_are_expanded_but_not_looked_for(scheme):
    shards = plan(f"{scheme}/set/{{a,b}}/{{000..002}}.tar", None)
    assert [shard.name for shard in shards] == [f"{part}/{i:03d}" for part in "ab" for i in range(3)]
    assert shards[0].url == f"{scheme}/set/a/000.tar"
    assert all(shard.size == 0 for shard in shards)
    assert names(f"{scheme}/set/000.tar") == ["000"]


def test_two_hosts():
    assert names(["http://one/x.tar", "http://two/y.tar"]) == ["one/x", "two/y"]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_the_suffix_is_not_part_of_the_name(folder, suffix):
    (folder / f"v1.5{suffix}").touch()
    assert names(f"v1.5{suffix}") == ["v1.5"]


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("s3://b/x.tar", True),
        ("http://h/x.tar", True),
        ("pipe:cat x.tar", True),
        ("x.tar", False),
        ("/data/x.tar", False),
        ("./a:b.tar", False),
        ("C:/x.tar", False),
    ],
)
def test_is_remote(url, remote):
    assert is_remote(url) is remote


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        (["a/000.tar", "a/000.tar"], "would both be written as 000"),
        (["a/000.tar", "a/*.tar"], "would both be written as 000"),
        (["a/000.tar", "./a/000.tar"], "a/000.tar and ./a/000.tar would both be written as 000"),
        (["http://h/x.tar", "https://h/x.tar"], "http://h/x.tar and https://h/x.tar would both"),
        (["http://h/x.tar", "http://h/x.tgz"], "would both be written as x"),
        ("a/nothing*.tar", "a/nothing*.tar matches no file"),
        ("a/{000..002}.tar", "a/002.tar: not found"),
        ("nowhere.tar", "nowhere.tar: not found"),
        ("a", "a: is a folder, not a tar (for images: --data.measured or --data.images)"),
        ("a/{000..00.tar", "a/{000..00.tar"),
        ([], "the list is empty"),
    ],
)
def test_what_cannot_be_planned_names_the_option(folder, shards, said):
    with pytest.raises(ConfigError) as error:
        plan(shards, None)
    assert str(error.value).startswith("--data.shards: ") and said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_shards_or_images_and_not_both(folder):
    for given in [(None, None), ("a/*.tar", "a")]:
        with pytest.raises(
            ConfigError, match=r"--data\.shards, --data\.images or --data\.measured: give one"
        ):
            plan(*given)


def test_the_order_of_the_inputs_does_not_matter():
    """Every task plans for itself, and all must agree."""
    urls = [f"http://h/{part}/{i}.tar" for part in ("x", "X", "é", "a b", "a-b") for i in range(12)]
    expected = plan(urls, None)
    assert [shard.name for shard in expected] == sorted(shard.name for shard in expected)
    for seed in range(5):
        random.Random(seed).shuffle(urls)
        assert plan(urls, None) == expected


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8, 39, 40, 41, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 39, 40])
def test_every_shard_is_of_exactly_one_rank(count, world):
    shards = plan([f"http://h/{i:03d}.tar" for i in range(count)], None) if count else []
    parts = [assigned(shards, rank, world) for rank in range(world)]
    assert sorted((shard for part in parts for shard in part), key=lambda shard: shard.name) == shards
    assert max(map(len, parts)) - min(map(len, parts)) <= 1, "even shares"


def test_a_rank_keeps_its_shards_in_order_and_shares_none():
    shards = plan("http://h/{000..009}.tar", None)
    assert [shard.name for shard in assigned(shards, 1, 4)] == ["001", "005", "009"]
    assert assigned(shards, 10, 11) == []


def files(shard):
    return tuple(image.file for image in shard.images)


@pytest.fixture
def photos_folder(tmp_path, monkeypatch):
    """Seven images in nested folders, and what is none."""
    monkeypatch.setattr("reddiff_pl.shards.folder.IMAGES_PER_SHARD", 3)
    images = ["b.png", "a.JPG", "sub/deep/c.jpeg", "sub/a.webp", "z.bmp", "z.tif", "z.tiff"]
    for name in [*images, "notes.txt", ".hidden.png", "sub/._c.jpg", "png", "x.json"]:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    return tmp_path / "photos"


def test_a_folder_of_images_is_cut_into_shards(photos_folder):
    shards = plan(None, str(photos_folder))
    assert [(shard.name, shard.size, files(shard)) for shard in shards] == [
        ("images-000000", 3, ("a.JPG", "b.png", "sub/a.webp")),
        ("images-000001", 3, ("sub/deep/c.jpeg", "z.bmp", "z.tif")),
        ("images-000002", 1, ("z.tiff",)),
    ]
    assert all(shard.url == str(photos_folder) for shard in shards)
    assert all((photos_folder / name).is_file() for shard in shards for name in files(shard))


def test_a_folder_below_a_folder(photos_folder):
    [shard] = plan(None, str(photos_folder / "sub"))
    assert files(shard) == ("a.webp", "deep/c.jpeg")


def test_full_shards_of_images_leave_no_empty_one(photos_folder):
    (photos_folder / "z.tiff").unlink()
    assert [shard.size for shard in plan(None, str(photos_folder))] == [3, 3]


def test_many_images_stay_in_the_order_of_their_names(tmp_path):
    """Past 1,000 images, and past a change in the number of digits of the shards' names."""
    for i in range(2001):
        (tmp_path / f"{i:05d}.jpg").touch()
    shards = plan(None, str(tmp_path))
    assert [shard.size for shard in shards] == [1000, 1000, 1]
    images = [name for shard in shards for name in files(shard)]
    assert images == sorted(images) and len(set(images)) == 2001
    assert [shard.name for shard in shards] == sorted(shard.name for shard in shards)


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_a_folder_without_images_names_the_option(tmp_path, kind):
    path = tmp_path / "photos"
    if kind == "file":
        path.touch()
    elif kind == "empty":
        (path / "sub").mkdir(parents=True)
        (path / "sub" / "notes.txt").touch()
    with pytest.raises(ConfigError) as error:
        plan(None, str(path))
    assert str(error.value).startswith("--data.images: ") and str(path) in str(error.value)
