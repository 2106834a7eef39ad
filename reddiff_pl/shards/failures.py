"""Failures by kind: their reasons without what differs from sample to sample. No torch."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

KINDS = 100  # kinds of failures told apart

Kinds = dict[str, dict[str, Any]]  # {kind of reason: {count, shard and key of one}}


def count_failure(kinds: Kinds, failure: Mapping[str, Any]) -> None:
    key, reason = failure.get("key"), str(failure["reason"])
    if key:
        reason = re.sub(rf"(?<!\w){re.escape(key)}(?!\w)", "KEY", reason) if key in reason else reason
        name = key.rpartition("/")[2]
        if re.match(_as_file(name), reason):  # reasons that are about a file of a folder begin with its name
            reason = re.sub(_as_file(name), "KEY", reason, count=1)
    add_kind(kinds, kind_of(reason), {"count": 1, "key": key})


def _as_file(name: str) -> str:
    """A pattern of the names that a file of a folder may have whose key ends in this: dots became underscores."""
    return rf"{re.escape(name).replace('_', '.')}(?!\w)"


def add_kind(kinds: Kinds, kind: str, one: dict[str, Any]) -> None:
    if kind not in kinds and len(kinds) >= KINDS:
        kind = "other reasons"
    if kind in kinds:
        kinds[kind]["count"] += one["count"]
    else:
        kinds[kind] = one


@functools.lru_cache(maxsize=1024)
def kind_of(reason: str) -> str:
    """A reason without what differs between samples: numbers become N, paths PATH, what is quoted '...'."""
    kind = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", reason[:1000])
    kind = re.sub(r"[^\s(,;]*/[^\s),;]*[^\s),;:.]", "PATH", kind)
    kind = re.sub(r"(?<![\w.-])-?\b(?!(?:u?int|b?float|complex)\d+\b)[\w.-]*\d(?:[\w.-]*\w)?", "N", kind)
    return kind[:200]
