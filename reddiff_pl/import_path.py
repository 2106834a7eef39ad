"""Where modules are looked for: not in the current folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the package."""


def leave_current_folder() -> None:
    """Undo what `python -m` does: it looks for modules in the current folder first, before Python's own.

    Who runs a command where shards of a stranger's lie would run what is called `torch.py` there. Classes of one's own
    are found through PYTHONPATH. A clone that this package itself comes from stays on the path.
    """
    safe = getattr(sys.flags, "safe_path", False)
    first = sys.path[0] if sys.argv[:1] == ["-m"] and not safe and sys.path else None
    if first in ("", os.getcwd()) and Path.cwd().resolve() != ROOT:
        del sys.path[0]


def python_command() -> list[str]:
    """How this interpreter runs `reddiff`: from where the package is, not from whatever lies in the current folder.

    Before Python 3.11 there is no -P, and a folder `reddiff_pl` there would be taken for the package.
    """
    safe = ["-P"] if sys.version_info >= (3, 11) and Path.cwd().resolve() != ROOT else []
    return [sys.executable, *safe, "-m", "reddiff_pl"]
