"""A process of the bench: measures the rows it is asked for, and says each as a line of JSON on stdout.

    python -m reddiff_pl.bench.worker '{"kind": ...}'

Lines are {"begin": NAME}, {"row": NAME, "result": {...}}, {"row": NAME, "error": TEXT} or {"bad": TEXT}, where the
options are at fault. Whatever else is printed goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from reddiff_pl.devices.cores import share


def main(text: str) -> int:
    """Do one job; the exit code is 0 unless it could not even begin."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print

    def say(**content: Any) -> None:
        lines.write(json.dumps(content) + "\n")
        lines.flush()

    job = json.loads(text)
    os.environ.update(share(1))  # as `restore` does, before torch reads it
    say(begin="start")
    import torch

    from reddiff_pl.bench import rows
    from reddiff_pl.errors import ConfigError
    from reddiff_pl.logs import quiet_libraries

    quiet_libraries()
    try:
        name = job["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device(name)
        torch.empty(1, device=device)
        if job["kind"] == "about":
            say(row="about", result=rows.about(job, device))
            return 0
    except ConfigError as error:
        say(bad=str(error))
        return 2
    except (RuntimeError, AssertionError) as error:
        say(bad=f"--device: {job['device']}: {' '.join(str(error).split())[:200]}")
        return 2
    todo = rows.measure(job, device)
    while True:
        row = ""
        try:
            row, work = next(todo)
            say(begin=row)
            say(row=row, result=work())
        except StopIteration:
            return 0
        except Exception as error:  # whatever a device or a library raises is this row's result
            say(row=row, error=reason(error))
            if not row or (device.type == "cuda" and not isinstance(error, torch.OutOfMemoryError)):
                return 1  # the device may be lost to this process


def reason(error: BaseException) -> str:
    """An error in one line."""
    if type(error).__name__ == "OutOfMemoryError":
        return "out of memory"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{type(error).__name__}: {text}"[:300]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
