"""Pages link to files of the repository as `../configs/x.yaml`; the site gets copies of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"\]\(\.\./([^)#]+)")


def on_files(files: Files, config: Any) -> Files:
    docs = Path(config.docs_dir)
    for path in {name for page in docs.glob("*.md") for name in LINK.findall(page.read_text())}:
        # pages of the repository's own are shown as they are, not as pages of the site
        files.append(File.generated(config, _copy(path), content=(docs.parent / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return LINK.sub(lambda found: f"]({_copy(found[1])}", markdown)


def _copy(path: str) -> str:
    return f"files/{path}.txt" if path.endswith((".md", ".yaml")) else f"files/{path}"
