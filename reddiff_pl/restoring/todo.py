"""Which shards a task restores: its own that are not finished, then those that others left. Who is at one holds it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from reddiff_pl.errors import ConfigError
from reddiff_pl.shards.folder import Kind
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import finished, read_sidecar
from reddiff_pl.shards.lock import holder
from reddiff_pl.shards.plan import Shard, assigned
from reddiff_pl.shards.writer import ShardWriter

log = logging.getLogger(__name__)


class Todo:
    """The shards that are left to do.

    Args:
        shards: all shards of the run.
        run: the output, which tells what is finished; None: nothing is written.
        rank: which task this is.
        world: how many tasks there are.
        retry_failed: whether the failed samples of finished shards are tried again.
        kind: what a folder is taken for, for messages.

    Attributes:
        all: all shards of the run.
        shards: those of this task.
        run, rank, world: as given.
        held: names of shards that other tasks were writing.
        taken: names of shards that this task wrote.
    """

    def __init__(
        self, shards: Sequence[Shard], run: Run | None, rank: int, world: int, retry_failed: bool, kind: Kind
    ) -> None:
        self.all, self.shards = shards, assigned(shards, rank, world)
        self.run, self.rank, self.world, self.retry_failed, self.kind = run, rank, world, retry_failed, kind
        self.held: list[str] = []
        self.taken: list[str] = []

    def own(self) -> list[Shard]:
        """The unfinished ones of this task.

        Raises:
            ConfigError: a finished one was made from other files.
        """
        own = [shard for shard in self.shards if self._is_open(shard)]
        self._tell_changed()
        return own

    def others(self) -> Iterator[Shard]:
        """Unfinished shards of other tasks, from the next rank's on, so that tasks do not queue for one."""
        if self.run is None or self.world == 1:
            return
        for i in range(1, self.world):
            for shard in assigned(self.all, (self.rank + i) % self.world, self.world):
                if self._is_open(shard):
                    yield shard

    def take(self, run: Run, shard: Shard) -> ShardWriter | None:
        """A shard's output in the run, opened; None when another task holds it or has finished it."""
        writer = ShardWriter(run, shard.name, self.rank, self.retry_failed)
        if writer.open():
            self.taken.append(writer.name)
            where = "" if writer.name in {shard.name for shard in self.shards} else ", left by another task"
            log.info(
                "shard %s: begun with %d samples already written%s", writer.name, len(writer.done), where
            )
            return writer
        if finished(run, shard.name) is None:
            self.held.append(shard.name)
            log.info("shard %s: held by %s", shard.name, holder(run.lock(shard.name)))
        return None

    def was_cut_at(self, shard: Shard, count: int) -> bool:
        """Whether --limit cut a shard short before, and no earlier than at `count` samples: it is left as it is."""
        sidecar = read_sidecar(self.run, shard.name) if self.run is not None else None
        if sidecar is None or sidecar.get("inputs") != shard.digest():
            return False
        if self.retry_failed and sidecar["failed"]:
            return False
        return sidecar["restored"] + len(sidecar["failed"]) >= count

    def _is_open(self, shard: Shard) -> bool:
        """Whether something is left to do in a shard."""
        sidecar = finished(self.run, shard.name) if self.run is not None else None
        if sidecar is not None and sidecar.get("inputs") != shard.digest():
            raise ConfigError(
                f"--data.{self.kind}: the files in {shard.url} are not those that {shard.name} was restored "
                "from; choose another --out, or add images in a folder of their own"
            )
        return sidecar is None or (self.retry_failed and bool(sidecar["failed"]))

    def _tell_changed(self) -> None:
        """Warn of what finished shards of a folder were restored from and that was changed since: it is not seen."""
        changed: list[str] = []
        for shard in self.shards:
            if self.run is None or shard.images is None or not self.run.sidecar(shard.name).exists():
                continue
            since = self.run.sidecar(shard.name).stat().st_mtime
            newer = [image for image in shard.images if image.changed > since]
            if newer and (sidecar := finished(self.run, shard.name)) is not None:
                failed = {failure["key"] for failure in sidecar["failed"]}
                changed += [image.file for image in newer if image.key not in failed]
        if changed:
            log.warning(
                "%d of the images finished are older than their files or what lies beside those (%s%s), and stay as "
                "they are; another --out, or --overwrite true, restores them anew",
                *(len(changed), ", ".join(changed[:3]), ", ..." if changed[3:] else ""),
            )
