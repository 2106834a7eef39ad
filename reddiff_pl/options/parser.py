"""The parser of all commands whose options are their own. No torch: their help comes at once."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Collection, Sequence
from typing import Any

from reddiff_pl.errors import ConfigError
from reddiff_pl.options.shipped import near


class Parser(argparse.ArgumentParser):
    """Bad options are one line, without the usage, with what was most likely meant."""

    def error(self, message: str) -> Any:
        if found := re.match(r"unrecognized arguments: (\S+)", message):
            name = found[1].partition("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            if name.startswith("-"):
                message = f"{name}: no such option{near(name, known)}"
        elif found := re.search(r"argument (\S+): invalid choice: '([^']*)' \(choose from (.*)\)", message):
            choices = [choice.strip(" '") for choice in found[3].split(",")]
            message = f"{found[1]}: no {found[2]}{near(found[2], choices)}; choose from {', '.join(choices)}"
        raise ConfigError(message)


def natural(text: str) -> int:
    """The type of an option that is a positive number below a million.

    Raises:
        argparse.ArgumentTypeError: it is not one.
    """
    if not text.isdecimal() or not 0 < int(text) < 1_000_000:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return int(text)


def refuse_misspelt(rest: Sequence[str], parser: argparse.ArgumentParser, meant: Collection[str]) -> None:
    """Options that go on to `restore` but are almost the parser's own: it would refuse them, after hours in a queue.

    Args:
        rest: what the parser does not know.
        parser: the parser.
        meant: options of `restore` that come near one of its own.

    Raises:
        ConfigError: what was most likely meant.
    """
    own = [name for action in parser._actions for name in action.option_strings]
    for item in rest:
        name = item.partition("=")[0]
        if name in meant or not name.startswith("--"):
            continue
        if near := difflib.get_close_matches(name, own, 1, 0.85):
            raise ConfigError(
                f"{name}: did you mean {near[0]}? If it is an option of restore, put a -- before"
            )
