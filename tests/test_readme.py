"""What README and the pages under docs/ show runs as it stands, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from reddiff_pl.__main__ import COMMANDS
from reddiff_pl.options.shipped import shipped_configs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MORE = [ROOT / "examples" / "deepinv_benchmark" / "README.md"]
# what a fence may say; console, text and yaml are not run
FENCES = {"python", "bash", "yaml", "console", "text"}


def _blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """As the site makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


WITH_PYTHON = [page for page in PAGES if any(kind == "python" for kind, _ in _blocks(page))]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_runs(page):
    """One after another, in one namespace, as a reader would."""
    names: dict = {}
    for kind, text in _blocks(page):
        if kind == "python":
            exec(compile(text, page.name, "exec"), names)
    if page.name == "README.md":
        assert names["restored"].shape == (48, 64, 3)
    if page.name == "python.md":
        assert [image.shape for image in names["enlarged"]] == [(72, 80, 3), (64, 64, 3)]
        misfit = (names["physics"].A(names["restored"]) - names["y"]).square().mean().sqrt()
        assert names["restored"].shape == (1, 3, 64, 64) and misfit < 0.05, "it fits the measurement"


@pytest.mark.parametrize("page", [*PAGES, *MORE], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_fences(page):
    assert {kind for kind, _ in _blocks(page)} <= FENCES
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(((?!https?://)[^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in _anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_configurations_are_there(page):
    """Every `reddiff ...` of a bash block is a command, every shipped file and name that it takes is one."""
    known = shipped_configs()
    for kind, text in _blocks(page):
        if kind != "bash":
            continue
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["reddiff"]:
                continue
            assert words[1] in COMMANDS, line
            for name, value in zip(words, [*words[1:], ""], strict=True):
                name, _, given = name.partition("=")
                if name == "--config" and not (given or value).startswith(("mri.yaml", "my")):
                    assert (given or value).removeprefix("configs/") in known, line
                if name in ("--task", "--sampler", "--prior") and value.isidentifier():
                    assert any(Path(path).stem == value for path in known), line


def test_readme_is_one_screen():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 80 and "make demo" in text and "make test" in text


def test_every_page_is_in_the_sites_navigation():
    site = (ROOT / "mkdocs.yml").read_text()
    assert set(re.findall(r": (\w+\.md)$", site, re.MULTILINE)) == {page.name for page in PAGES[1:]}
