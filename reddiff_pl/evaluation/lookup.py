"""Input samples found again by their keys."""

from __future__ import annotations

from collections.abc import Iterator

from reddiff_pl.errors import ConfigError
from reddiff_pl.shards.plan import Shard
from reddiff_pl.shards.reader import Failure, RawSample, read_shard


class Lookup:
    """Input samples by key, read in one pass where they are asked for in the input's order, as a run writes them.

    Args:
        shard: the input; None when there is none.
        notes: gets a line for what cannot be read.
    """

    def __init__(self, shard: Shard | None, notes: list[str]) -> None:
        self.shard, self.notes = shard, notes
        self.keys: set[str] = set()
        self.known = shard is None  # whether `keys` holds all there are
        self.source: Iterator[RawSample | Failure] = iter(())
        if shard is not None:
            self.source = read_shard(shard)

    def find(self, key: str) -> RawSample | None:
        """The sample of this key; None when there is none."""
        if self.known and key not in self.keys:
            return None
        if (found := self._advance(key)) is None and key in self.keys and self.shard is not None:
            self.source = read_shard(self.shard)  # it was passed over: the orders differ
            found = self._advance(key)
        return found

    def _advance(self, key: str) -> RawSample | None:
        try:
            for raw in self.source:
                if isinstance(raw, RawSample):
                    self.keys.add(raw.key)
                    if raw.key == key:
                        return raw
                elif raw.key is None:
                    self.notes.append(f"no references from there on: {raw.reason}")
        except ConfigError as error:  # a store that cannot be reached
            self.notes.append(f"no references: {error}")
        self.known = True
        return None
