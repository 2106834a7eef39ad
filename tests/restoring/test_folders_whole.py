"""Whatever lies in a folder: restored, failed, of another file or not looked at; no exit code 0 after a failure."""

from __future__ import annotations

import json
import os
import posixpath
import re
from pathlib import Path

import numpy as np
from helpers import CONFIGS, QUICK, png, read_json, restored_keys
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

SMALL = [*QUICK, "--model.prior.init_args.shape=[3,16,16]"]
GIVEN = ["--config", str(CONFIGS / "tasks" / "inpainting_given.yaml")]
RANDOM = ["--config", str(CONFIGS / "tasks" / "inpainting_random.yaml")]
WHOLE = png(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
MASK = png(np.full((16, 16), 255, "u1"))

FOLDERS = st.sampled_from(["", "", "", "sub", "s ub/d.e", "_under"])
STEMS = st.sampled_from(["a", "a", "b c", "d.v2", "ü", "__f", "A", "e\u0301", "n\nl", "100%"])
PICTURES = st.tuples(
    st.sampled_from([".png", ".png", ".JPG", ".tif", ".y.png"]),
    st.sampled_from([WHOLE, WHOLE, WHOLE, WHOLE, WHOLE[:300], b"", b"no picture"]),
)
BESIDE = st.one_of(
    st.tuples(st.just(".mask.png"), st.sampled_from([MASK, MASK, MASK, MASK[:40]])),
    st.tuples(
        st.just(".json"),
        st.sampled_from([b"{}", b'{"caption": "\\ud83d"}', b"{", b"[1]", b'{"psnr": "mine", "a": 1e400}']),
    ),
)
OTHERS = st.sampled_from([(".heic", b"heic"), (".txt", b"a caption"), ("", b"x"), (".tar", b"")])
FILES = st.tuples(FOLDERS, STEMS, st.one_of(PICTURES, PICTURES, BESIDE, BESIDE, OTHERS)).map(
    lambda parts: (posixpath.join(parts[0], parts[1] + parts[2][0]), parts[2][1])
)
# what points elsewhere: a text for a link's target, None for what is no file
LINKS = st.sampled_from(
    [
        ("link.png", "{outside}/o.png"),
        ("link.mask.png", "{outside}/o.mask.png"),
        ("nothing.png", "nowhere.png"),
        ("sub/linked", "{outside}/more"),
        ("linked", "{outside}"),
        ("up", ".."),
        ("again", "sub"),
        ("pipe.png", None),
        (".hidden", "{outside}/o.png"),
        (".git/a.png", "{outside}/o.png"),
    ]
)
PICTURE = re.compile(r"(?is).*\.(png|jpg|tif|heic)")


def lay(folder: Path, outside: Path, files: dict[str, bytes], links: dict[str, str | None]) -> None:
    for place, content in {
        **{folder / name: content for name, content in files.items()},
        **{outside / "o.png": WHOLE, outside / "o.mask.png": MASK, outside / "more" / "m.png": WHOLE},
        outside / "more" / "notes.txt": b"",
    }.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    for name, target in links.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if target is None:
            os.mkfifo(folder / name)
        elif not (folder / name).exists():
            (folder / name).symlink_to(target.format(outside=outside))


def there(folder: Path) -> tuple[dict[str, bytes], int]:
    """All files by name, once each, links to folders followed after all others; and what is hidden or leads back."""
    files: dict[str, bytes] = {}
    passed, seen, waiting = 0, {folder.resolve()}, []

    def enter(path: Path, name: str, hidden: bool) -> None:
        nonlocal passed
        for entry in sorted(path.iterdir()):
            inner, dark = posixpath.join(name, entry.name), hidden or entry.name.startswith(".")
            if entry.is_dir() and not entry.is_symlink():
                seen.add(entry.resolve())
                enter(entry, inner, dark)
            elif dark:
                passed += 1
            elif entry.is_dir():
                waiting.append((entry, inner))
            else:
                files[inner] = entry.read_bytes() if entry.is_file() else b""

    enter(folder, "", False)
    while waiting:
        path, name = waiting.pop(0)
        real = path.resolve()
        if real in seen or real in folder.resolve().parents:
            passed += 1
            continue
        seen.add(real)
        enter(path, name, False)
    return files, passed


def owners(name: str, pictures: set[str]) -> set[str]:
    """The pictures that NAME.mask.png or NAME.json belongs to, by their whole name or without suffix."""
    stem = re.sub(r"(\.mask\.png|\.json)$", "", name)
    return {p for p in pictures if stem in (p, os.path.splitext(p)[0], re.sub(r"(?i)\.y\.png$", "", p))}


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # a failure is short enough as it is
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    files=st.lists(FILES, min_size=1, max_size=9).map(dict),
    links=st.lists(LINKS, max_size=2).map(dict),
    measured=st.booleans(),
)
def test_restored_failed_attached_and_not_looked_at_are_all(
    reddiff, tmp_path_factory, files, links, measured
):
    folder = tmp_path_factory.mktemp("one")
    if not measured:  # beside clean images these are refused
        files = {name: content for name, content in files.items() if not re.search(r"\.(mask|y)\.png$", name)}
        links = {name: target for name, target in links.items() if name != "linked" and "mask" not in name}
    lay(folder / "in", folder / "outside", files, links)
    (folder / "in").mkdir(exist_ok=True)
    found, passed = there(folder / "in")
    masks = {name for name in found if name.endswith(".mask.png")}
    pictures = {name for name in found if PICTURE.fullmatch(name)} - masks
    readable = {name for name in pictures if not name.endswith(".heic") and "pipe" not in name}
    attached = {name for name in found if name in masks or name.endswith(".json") if owners(name, pictures)}
    others = len(found) - len(pictures) - len(attached) + passed

    kind, task = ("measured", GIVEN) if measured else ("images", RANDOM)
    code, printed = reddiff(
        "restore", *SMALL, *task, f"--data.{kind}", folder / "in", "--out", folder / "out"
    )
    assert "Traceback" not in printed, printed
    masked = {picture for name in masks for picture in owners(name, pictures)}
    if not pictures or (measured and readable and not masked & readable):
        assert code == 2 and f"--data.{kind}: " in printed and not (folder / "out").exists(), printed
        return
    [path] = (folder / "out" / "accounts").glob("*.json")
    account, restored = read_json(path), restored_keys(folder / "out" / "shards" / f"{path.stem}.tar")
    failed = [failure["key"] for failure in account["failed"]]
    assert all(failure["reason"] and "\n" not in failure["reason"] for failure in account["failed"])
    assert account["restored"] == len(restored) and len({*restored, *failed}) == len(pictures), printed
    assert len(restored) + len(failed) == len(pictures)
    assert code == (3 if failed else 0)
    # a picture of no name's fault is restored just where it, its mask and its metadata are whole
    bad = {name for name in attached if found[name] in (b"{", b"[1]", MASK[:40])}
    broken = {picture for name in bad for picture in owners(name, pictures)}
    whole = {name for name in readable if found[name] == WHOLE} - broken
    assert len(restored) == len(whole & masked if measured else whole), printed
    lines = set(re.findall(r"([\d,]+) files? (?:was|were) not looked at", printed))
    assert lines == ({str(others)} if others else set()), (printed, found)
    json.dumps(failed)
