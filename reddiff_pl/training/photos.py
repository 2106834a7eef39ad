"""Photos for training: shards or a folder, decoded once, a part of them held out."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.shards import decode, metadata
from reddiff_pl.shards.picture import Picture, unit
from reddiff_pl.shards.plan import plan
from reddiff_pl.shards.reader import Failure, RawSample, read_shard
from reddiff_pl.training.augment import Augmentation
from reddiff_pl.training.crops import Pyramid, reduced, scales

log = logging.getLogger(__name__)


class PhotoCrops(LightningDataModule):
    """Photos in memory at several scales, and a held-out part as whole photos.

    Arrays (KEY.npy, (C, H, W) floats on the [0, 1] scale) are trained on as they are, of any number of channels.

    A photo's scale is its short side in pixels after reduction (Lanczos; photos are never enlarged); a crop lies
    anywhere in it. Whole held-out photos are centre-cropped to a square and reduced to the network's size, as
    `reddiff restore --data.images` does it.

    Memory: some 22,000 pixels a photo and level, so 1,500 photos at 12 levels take 1.2 GB on every device.

    Args:
        shards: tars of photos (KEY.jpg, KEY.json): paths, URLs, braces, wildcards; or a list of them.
        images: a folder of photos instead.
        batch_size: crops a step and device.
        min_scale: smallest short side, in pixels; the network's size at least. Default: that size.
        max_scale: largest short side, in pixels.
        levels: number of scales between the two, evenly spaced in their logarithm.
        scale_power: a level of short side s is drawn with a probability proportional to s^scale_power: 0 is uniform
            in log s, negative values favour whole photos, positive ones details.
        holdout_key: an entry of KEY.json, such as the number of the photo that several samples were cut from. Whole
            numbers are taken as they are, anything else by a hash, as is KEY where there is no such entry.
        holdout_modulus: a sample is held out where that number modulo this is `holdout_remainder`; 0: none is.
        holdout_remainder: see there.
        max_heldout: held-out photos used at most, in the order of the shards.
        color_jitter: largest change of a crop's exposure, contrast and saturation, each by a factor between
            1 / (1 + this) and 1 + this; 0: none.
        color_share: share of the crops whose colours are changed so; the others stay as they are.
        turn_share: share of the crops that are turned upside down or on their side; 0: none.
        workers: decoding threads.
        shape: (C, H, W) of the network. Filled in from the model.

    Raises:
        ConfigError: the photos are not there, or the options do not fit each other.
    """

    def __init__(
        self,
        shards: str | list[str] | None = None,
        images: str | None = None,
        batch_size: int = 512,
        min_scale: int | None = None,
        max_scale: int = 256,
        levels: int = 12,
        scale_power: float = 0.0,
        holdout_key: str | None = None,
        holdout_modulus: int = 10,
        holdout_remainder: int = 0,
        max_heldout: int = 256,
        color_jitter: float = 0.0,
        color_share: float = 0.5,
        turn_share: float = 0.0,
        workers: int = 4,
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        assert shape is not None
        for name, value in {"batch_size": batch_size, "levels": levels, "workers": workers}.items():
            if value < 1:
                raise ConfigError(f"--data.{name}: must be at least 1, got {value}")
        self.channels, self.size = shape[0], shape[1]
        smallest = self.size if min_scale is None else min_scale
        if smallest < self.size:
            raise ConfigError(
                f"--data.min_scale: {smallest} is smaller than the network's {self.size} pixels"
            )
        if max_scale < smallest:
            raise ConfigError(f"--data.max_scale: {max_scale} is smaller than the smallest scale, {smallest}")
        if holdout_modulus < 0 or not 0 <= holdout_remainder < max(holdout_modulus, 1):
            raise ConfigError(
                f"--data.holdout_remainder: must be in 0..{holdout_modulus - 1}, got {holdout_remainder}"
            )
        for name, share in {"color_share": color_share, "turn_share": turn_share}.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"--data.{name}: must be from 0 to 1, got {share}")
        if color_jitter < 0:
            raise ConfigError(f"--data.color_jitter: must be at least 0, got {color_jitter}")
        self.augmentation = Augmentation(color_jitter, color_share, turn_share)
        self.batch_size, self.workers, self.max_heldout = batch_size, workers, max_heldout
        self.scales = scales(smallest, max_scale, levels)
        self.probabilities = [float(side) ** scale_power for side in self.scales]
        self.holdout_key = holdout_key
        self.holdout = (holdout_modulus, holdout_remainder)
        self.shards = plan(shards, images)

    def setup(self, stage: str) -> None:
        """Decode all photos, on every process by itself."""
        photos: list[list[np.ndarray]] = []
        heldout: list[Tensor] = []
        failed: list[str] = []
        entries = itertools.chain.from_iterable(read_shard(shard) for shard in self.shards)
        with ThreadPoolExecutor(self.workers, "decode") as pool:
            for entry in _ahead(pool, self._prepare, entries, 4 * self.workers):
                if isinstance(entry, str):
                    failed.append(entry)
                elif isinstance(entry, Tensor):
                    heldout.append(entry)
                else:
                    photos.append(entry)
        if failed:
            log.warning("%d photos cannot be used; the first: %s", len(failed), failed[0])
        if not photos:
            raise ConfigError("--data.shards: no usable photo is left to train on")
        self.pyramid = Pyramid.of(photos, self.probabilities)
        shape = (0, self.channels, self.size, self.size)
        heldout = heldout[: self.max_heldout]
        if any(whole.dtype != torch.uint8 for whole in heldout):
            heldout = [whole / 255 if whole.dtype == torch.uint8 else whole for whole in heldout]
        self.heldout = torch.stack(heldout) if heldout else torch.empty(shape, dtype=torch.uint8)
        log.info(
            "%d photos to train on at short sides %d..%d, %d held out",
            *(len(photos), self.scales[-1], self.scales[0], len(heldout)),
        )

    def _prepare(self, raw: RawSample | Failure) -> list[np.ndarray] | Tensor | str:
        """A photo's levels; a held-out photo whole, (C, H, W); or why it cannot be used."""
        if isinstance(raw, Failure):
            return f"{raw.key}: {raw.reason}"
        try:
            name = next((s for s in (*decode.IMAGE_MEMBERS, "npy") if s in raw.members), None)
            if name is None:
                raise SampleError(
                    f"no image such as KEY.jpg among {', '.join(sorted(raw.members)) or 'nothing'}"
                )
            meta = (
                metadata.parse(decode.member_bytes(raw.members["json"]), "json")
                if "json" in raw.members
                else {}
            )
            content = decode.member_bytes(raw.members[name])
            if name == "npy":
                picture = decode.array_image(content, name, self.channels)
            else:
                picture = decode.image(content, name, self.channels).on_white()
            if self.channels in (1, 3) and picture.source.bits:
                picture = Picture(np.asarray(picture.pil()), picture.source)  # 8 bits are enough of a photo
            whole = decode.fitted(picture, self.size, self.size, name)
            if min(picture.size) < self.scales[-1]:
                raise SampleError(f"{name} is smaller than data.min_scale {self.scales[-1]}")
        except SampleError as error:
            return f"{raw.key}: {' '.join(str(error).split())}"
        if self._is_held_out(raw.key, meta):
            return _chw(whole)
        return reduced(picture, self.scales)

    def _is_held_out(self, key: str, meta: dict[str, Any]) -> bool:
        modulus, remainder = self.holdout
        value = meta.get(self.holdout_key, key) if self.holdout_key is not None else key
        if not isinstance(value, int):
            value = int.from_bytes(hashlib.blake2b(str(value).encode(), digest_size=8).digest(), "little")
        return modulus > 0 and value % modulus == remainder

    def train_dataloader(self) -> DataLoader:
        """Numbers without end: the crops are drawn on the device, by the training step."""
        return DataLoader(_Steps(), batch_size=None)


class _Steps(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        return itertools.count()


def _chw(picture: Picture) -> Tensor:
    array = picture.pixels if picture.pixels.dtype == np.uint8 else unit(picture.pixels)
    return torch.from_numpy(array[None].copy() if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def _ahead(pool: ThreadPoolExecutor, function: Any, items: Iterator[Any], depth: int) -> Iterator[Any]:
    """map in order, with a bounded number of items in flight."""
    waiting: list[Any] = []
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= depth:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()
