"""All path names of a run, in one place."""

from __future__ import annotations

from pathlib import Path


class Run:
    """The output directory of a run.

    Args:
        out: OUT; made when the first file is written.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self.shards = self.out / "shards"
        self.accounts = self.out / "accounts"
        self.config = self.out / "config.yaml"
        self.overview = self.out / "report" / "overview.png"
        self.report = self.out / "report" / "index.html"
        self.evaluation = self.out / "evaluation"
        self.summary = self.out / "summary.json"
        self.metrics = self.out / "metrics.parquet"

    def log(self, task: int) -> Path:
        return self.out / "logs" / f"task-{task:05d}.log"

    def tar(self, name: str) -> Path:
        """The finished shard."""
        return self.shards / f"{name}.tar"

    def partial(self, name: str) -> Path:
        """The shard being written."""
        return self.shards / f"{name}.tar.partial"

    def sidecar(self, name: str) -> Path:
        """The shard's account, written last: a shard with a sidecar is finished."""
        return self.accounts / f"{name}.json"

    def older_sidecar(self, name: str) -> Path:
        """Where earlier versions wrote it."""
        return self.shards / f"{name}.json"

    def failed(self, name: str) -> Path:
        """Failed samples of the shard being written, one JSON object a line."""
        return self.shards / f"{name}.failed.jsonl"

    def lock(self, name: str) -> Path:
        return self.shards / f"{name}.lock"
