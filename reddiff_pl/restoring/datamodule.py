"""Shards to batches: what a run reads and how, by its options; the shards of this task one after the other."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import torch
from deepinv.physics import Physics
from deepinv.physics.generator import PhysicsGenerator
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.degrade import Degradation
from reddiff_pl.physics.noise import MeasurementNoise, NoNoise
from reddiff_pl.restoring.batch import Batch
from reddiff_pl.restoring.batching import Batching
from reddiff_pl.restoring.checks import check_estimate, check_operator
from reddiff_pl.restoring.inputs import Inputs
from reddiff_pl.restoring.preparation import Preparation
from reddiff_pl.restoring.todo import Todo
from reddiff_pl.shards.decode import MAX_PIXELS
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import total
from reddiff_pl.shards.placement import place
from reddiff_pl.shards.room import Room

log = logging.getLogger(__name__)


class ShardDataModule(LightningDataModule):
    """Streams shards, or a folder, to the restoration.

    Args:
        shards: input tars: paths, URLs, braces, wildcards; or a list of them.
        images: a folder of clean images instead, degraded on the fly.
        measured: a folder of measurements instead, such as damaged photos: NAME.jpg, and beside it what belongs to
            it, NAME.mask.png, NAME.kernel.npy, NAME.x.png (reference), NAME.json. Folders below it are kept in the
            names.
        params: {parameter of the operator: where it is for samples that do not bring it}, a folder with a file of the
            same name for each image, or one file for all.
        invert_mask: masks are white where pixels are missing.
        rounding: a measurement read from a picture has at least the noise that its file's rounding, or JPEG's tables,
            left in it, where neither its KEY.json nor sigma_y say another level.
        batch_size: images restored together, at most; of large ones fewer, by their pixels. Images of other sizes and
            failed samples may be among them. "auto" measures the largest one that pays on the GPU (without one: 8); all
            tasks of a run take the first one's.
        size: what clean images are cropped and reduced to, in pixels: the side of a square, or "H,W". Default: the
            prior's. The image of a measurement has the size that follows from it; this one where it leaves that open,
            as enlargement does by less than its factor.
        fit: what becomes of clean images: crop to `size`, the middle of them, or whole, each at its own size.
        workers: decoding threads, one core each.
        max_sample_mib: a sample whose files are larger, in MiB, fails.
        decode_mib: about how much memory decoding takes at once, in MiB; what needs more is decoded alone.
        sigma_y: noise level, on the [0, 1] scale, that is assumed where KEY.json of a measurement has no `sigma_y`;
            "estimate" finds it from each measurement. Default: that of the model's noise.
        max_pixels: pictures of more pixels are refused before they are decoded.
        out: output directory; finished shards there are skipped. Filled in from --out.
        limit: only the first so many samples of the task, for a preview. Filled in from --limit.
        rank: which task this is. Filled in from --rank or the environment.
        world: how many tasks there are. Filled in from --world or the environment.
        retry_failed: try the failed samples of finished shards again. Filled in from --retry-failed.
        seed: the run's seed. Filled in from --seed.
        physics: the operator. Filled in from the model.
        noise: the measurement noise. Filled in from the model.
        generator: draws the operator's parameters. Filled in from the model.
        shape: (C, H, W) of the prior. Filled in from the model.
        classes: number of classes of the prior; 0: it takes no labels. Filled in from the model.
        default_label: class of samples without a `label` in their KEY.json. Filled in from the model.
        words: whether the prior takes the `prompt` and `negative_prompt` of KEY.json. Filled in from the model.

    Raises:
        ConfigError: the shards are not there, or the options do not fit each other.
    """

    def __init__(
        self,
        shards: str | list[str] | None = None,
        images: str | None = None,
        measured: str | None = None,
        params: dict[str, str] | None = None,
        invert_mask: bool = False,
        rounding: bool = True,
        batch_size: int | Literal["auto"] = 8,
        size: int | str | list[int] | None = None,
        fit: Literal["crop", "whole"] = "crop",
        workers: int = 2,
        max_sample_mib: int = 512,
        decode_mib: int = 1024,
        sigma_y: float | Literal["estimate"] | None = None,
        max_pixels: int = MAX_PIXELS,
        out: str | None = None,
        limit: int | None = None,
        rank: int | None = None,
        world: int | None = None,
        retry_failed: bool = False,
        seed: int = 0,
        physics: Physics | None = None,
        noise: MeasurementNoise | None = None,
        generator: PhysicsGenerator | None = None,
        shape: tuple[int, int, int] | None = None,
        classes: int = 0,
        default_label: int | None = None,
        words: bool = False,
    ) -> None:
        super().__init__()
        for name, value in {
            "batch_size": batch_size,
            "workers": workers,
            "max_sample_mib": max_sample_mib,
            "decode_mib": decode_mib,
            "limit": limit,
            "max_pixels": max_pixels,
        }.items():
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"--data.{name}: must be at least 1, got {value}")
        if isinstance(sigma_y, float) and not sigma_y >= 0:
            raise ConfigError(f"--data.sigma_y: must not be negative, got {sigma_y}")
        if isinstance(sigma_y, float) and sigma_y > 1:
            log.warning(
                "--data.sigma_y: %g is on the [0, 1] scale, more than all there is from black to white; of 8-bit "
                "values it would be %g",
                *(sigma_y, sigma_y / 255),
            )
        if physics is None or shape is None:
            raise ConfigError("--model.physics: no operator; name one, or a tasks/*.yaml that does")
        sides = None if size is None else parse_size(size)
        if fit not in ("crop", "whole"):
            raise ConfigError(f"--data.fit: must be crop or whole, got {fit}")
        if sides is not None and fit == "whole":
            raise ConfigError("--data.size: --data.fit whole keeps images as they are; leave one of them out")
        if sides is not None:
            shape = (shape[0], *sides)
        self.workers, self.limit = workers, limit
        self.degradation = Degradation(
            physics, noise or NoNoise(), shape, seed, sigma_y, fit, sides, generator
        )
        rank, world = place(rank, world)
        self.inputs = Inputs(
            *(shards, images, measured, params, out, self.degradation, max_pixels, invert_mask)
        )
        run = Run(out) if out is not None else None
        self.todo = Todo(self.inputs.all, run, rank, world, retry_failed, self.inputs.kind)
        prepare = Preparation(
            *(self.inputs, self.degradation, Room(decode_mib << 20), max_pixels, invert_mask, rounding),
            *(classes, default_label, words),
        )
        self.batching = Batching(prepare, 0 if batch_size == "auto" else batch_size, max_sample_mib << 20)
        check_operator(self.degradation)
        check_estimate(self.degradation)

    def predict_dataloader(self) -> DataLoader:
        self.batching.pin = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(_Batches(self), batch_size=None)

    def batches(self) -> Iterator[Batch]:
        """All batches of this task's unfinished shards, each shard closed by an empty one marked `last`.

        When they are through, any unfinished shard whose lock it gets: those of tasks that ended early, or
        have not begun.

        Raises:
            Stopped: the stop flag was seen between two batches.
        """
        own = self.todo.own()
        sizes = [max(shard.size, 1) for shard in own]
        log.info(
            "task %d of %d: %d of its %d shards are finished already",
            *(self.todo.rank, self.todo.world, len(self.todo.shards) - len(own), len(self.todo.shards)),
        )
        left, run = self.limit, self.todo.run
        if left is not None and run is not None:
            done = total(run, {shard.name for shard in self.todo.shards} - {shard.name for shard in own})
            left = max(left - done.restored - done.failed, 0)
        others = self.todo.others() if self.limit is None else ()
        torch.get_num_threads()  # settles this thread's own number before the others' below
        with ThreadPoolExecutor(self.workers, "decode", torch.set_num_threads, (1,)) as pool:
            for number, shard in enumerate(itertools.chain(own, others)):
                writer = None
                if left is not None and (left == 0 or self.todo.was_cut_at(shard, left)):
                    return
                if run is not None and (writer := self.todo.take(run, shard)) is None:
                    continue
                for batch in self.batching.of(shard, writer, pool, left):
                    if left is not None:
                        left -= batch.places
                    read = batch.fraction * sizes[number] if number < len(own) else 0
                    batch.fraction = (sum(sizes[:number]) + read) / max(sum(sizes), 1)
                    yield batch


def parse_size(size: int | str | Sequence[int]) -> tuple[int, int]:
    """Height and width of `--data.size`: 64, "480,320" or [480, 320].

    Raises:
        ConfigError: it is none of these.
    """
    parts = str(size).split(",") if isinstance(size, int | str) else list(size)
    try:
        sides = [int(part) for part in parts]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise ConfigError(
            f"--data.size: must be a side in pixels, or height and width as 480,320, got {size}"
        )
    return sides[0], sides[-1]


class _Batches(IterableDataset):
    """The batches for a DataLoader without workers: decoding has its own threads, and shards their own order."""

    def __init__(self, datamodule: ShardDataModule) -> None:
        self.datamodule = datamodule

    def __iter__(self) -> Iterator[Batch]:
        return self.datamodule.batches()
