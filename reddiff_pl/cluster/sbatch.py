"""The scripts of slurm/ as texts to be filled in."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from reddiff_pl.errors import ConfigError
from reddiff_pl.options.shipped import shipped

Directives = Mapping[str, str | None]


def fill(
    name: str,
    directives: Directives,
    more: Sequence[str] = (),
    *,
    setup: str | None,
    command: str,
    arguments: Sequence[str],
    export: str | None = None,
    what: str | None = None,
) -> str:
    """Fill a script in.

    Args:
        name: one of slurm/.
        directives: #SBATCH options to set, {name: value}; None takes one out.
        more: #SBATCH options as they are; they overrule the others.
        setup: shell lines before the program.
        command: how the program is called.
        arguments: its options.
        export: variables to export.
        what: the command, where it is not the script's own.

    Raises:
        ConfigError: the script has lost the place of one of these.
    """
    text = Path(shipped(name, "slurm")).read_text()
    values = {**directives, **dict(_split(arg) for arg in more if arg.startswith("--"))}
    for name, value in values.items():
        line = f"#SBATCH --{name}{'=' if value else ''}{_quoted(value or '')}\n"
        there = re.compile(rf"^##?SBATCH --{re.escape(name)}(=.*)?\n", re.MULTILINE)
        if value is None:
            text = there.sub("", text)
        elif there.search(text):
            text = there.sub(line.replace("\\", r"\\"), text, count=1)
        else:
            text = _after_directives(text, line)
    for arg in more:
        if not arg.startswith("--"):
            text = _after_directives(text, f"#SBATCH {arg}\n")
    if setup:
        text = _replace(text, r"#\. \.venv/bin/activate", setup)
    text = _replace(text, r"reddiff=\(reddiff\)", f"reddiff=({command})")
    if what:
        text = _replace(text, "what=restore", f"what={what}")
    if export:
        text = _replace(text, r"#export REDDIFF_ARRAY_OFFSET=.*", f"export {export}")
    return _replace(text, r"#set -- .*", f"set -- {_wrapped(arguments)}")


def _split(argument: str) -> tuple[str, str]:
    name, _, value = argument[2:].partition("=")
    return name, value


def _quoted(value: str) -> str:
    return f'"{value}"' if re.search(r"[\s#]", value) else value


def _after_directives(text: str, line: str) -> str:
    end = [match.end() for match in re.finditer(r"^##?SBATCH .*\n", text, re.MULTILINE)][-1]
    return text[:end] + line + text[end:]


def _replace(text: str, pattern: str, line: str) -> str:
    text, count = re.subn(rf"^{pattern}$", lambda _: line, text, flags=re.MULTILINE)
    if count != 1:
        raise ConfigError(f"the shipped script has {count} lines like {pattern}, expected one")
    return text


def _wrapped(arguments: Sequence[str]) -> str:
    """Shell words, a line an option with its values."""
    lines: list[str] = []
    for argument in arguments:
        if argument.startswith("--") or not lines:
            lines.append(shlex.quote(argument))
        else:
            lines[-1] += f" {shlex.quote(argument)}"
    return " \\\n  ".join(lines)
