"""Whatever lies in a tar, in any order: restored, failed or not looked at; and no exit code 0 when something failed."""

from __future__ import annotations

import io
import posixpath
import tarfile

import numpy as np
from helpers import CONFIGS, QUICK, png, read_json, restored_keys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

RANDOM = ["--config", str(CONFIGS / "tasks" / "inpainting_random.yaml")]
WHOLE = png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
MASK = png(np.full((64, 64), 255, "u1"))
CONTENTS = {
    "png": st.sampled_from([WHOLE, WHOLE, WHOLE, WHOLE[:500], b""]),
    "jpg": st.sampled_from([WHOLE, b"no picture"]),
    "mask.png": st.sampled_from([MASK, MASK, MASK[:40]]),
    "json": st.sampled_from([b"{}", b'{"caption": "\\ud83d"}', b"{", b"[1]", b'{"psnr": "mine"}']),
    "y.npy": st.sampled_from([b"\x93NUMPY", b"PK\x03\x04"]),
    "heic": st.just(b"heic"),
    "0.jpg": st.just(WHOLE),
    "txt": st.just(b"a caption"),
    "cls": st.just(b"3"),
}
KEYS = st.sampled_from(["a", "b", "c", "d/a", "__e", "ü", "f f", "./g"])
FILES = st.tuples(KEYS, st.sampled_from(sorted(CONTENTS))).flatmap(
    lambda name: st.tuples(st.just(".".join(name)), CONTENTS[name[1]], st.just(""))
)
LINKS = st.tuples(KEYS, st.sampled_from(["png", "mask.png"]), KEYS).map(
    lambda parts: (f"{parts[0]}.{parts[1]}", b"", f"{parts[2]}.{parts[1]}")
)
OTHERS = st.sampled_from(["README", ".hidden", "d/.DS_Store", "notes"]).map(lambda name: (name, b"x", ""))
KNOWN = ("png", "jpg", "json", "npy", "heic")


def key(name: str) -> str:
    """As the format has it: the name up to the first dot of its last part."""
    folder, file = posixpath.split(name.removeprefix("./"))
    return posixpath.join(folder, file.partition(".")[0])


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    entries=st.lists(st.one_of(FILES, FILES, FILES, LINKS, OTHERS), min_size=1, max_size=9),
    in_order=st.booleans(),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    cut=st.sampled_from([None, None, None, 0.4, 0.8]),
)
def test_restored_and_failed_and_not_looked_at_are_all(
    reddiff, tmp_path_factory, entries, in_order, form, cut
):
    folder = tmp_path_factory.mktemp("one")
    entries = sorted(entries) if in_order else entries
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, content, target in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if target:
                info.type, info.linkname = tarfile.LNKTYPE, target.removeprefix("./")
            archive.addfile(info, io.BytesIO(content))
    content = out.getvalue()
    if cut is not None:
        content = content[: int(cut * out.tell())].rstrip(b"\0")  # cut where something stands
    (folder / "s.tar").write_bytes(content)
    code, printed = reddiff(
        "restore", *QUICK, *RANDOM, "--data.shards", folder / "s.tar", "--out", folder / "out", "--seed=3"
    )
    assert "Traceback" not in printed, printed
    account = read_json(folder / "out" / "accounts" / "s.json")
    restored = restored_keys(folder / "out" / "shards" / "s.tar")
    failed = account["failed"]
    assert account["restored"] == len(restored) == len(set(restored))
    assert code == (3 if failed else 0)
    assert all(failure["reason"] and "\n" not in failure["reason"] for failure in failed)
    told = {failure["key"] for failure in failed}
    for failure in failed:  # of what is restored only a second one of the same name fails
        assert failure["key"] not in restored or failure["reason"].startswith(("duplicate", "cannot read"))
    if cut is None:
        of_samples = [name for name, *_ in entries if name.endswith(KNOWN) and not name.startswith(".h")]
        assert {key(name) for name in of_samples} == {*restored, *told} - {None}
        passed = sum(account.get("not_looked_at", {}).values())
        others = len(entries) - len(of_samples)
        assert others <= passed <= others + sum(name.endswith("heic") for name in of_samples)
    else:
        assert failed, "what was cut off is told"
