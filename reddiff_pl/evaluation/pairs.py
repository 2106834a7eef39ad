"""A run's results read back, each beside its reference.

Everything in OUT may come from a stranger: config.yaml is read as plain data, nothing in it is made into an object,
and a command in it (`pipe:`) is not run.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from PIL import Image
from torch import Tensor

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.evaluation.lookup import Lookup
from reddiff_pl.evaluation.outputs import (
    as_deep,
    channels_note,
    channels_of,
    image_of,
    listed,
    names_in,
    to_tensor,
)
from reddiff_pl.files import plain_yaml
from reddiff_pl.shards import decode, metadata
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import read_sidecar
from reddiff_pl.shards.parameters import image_member
from reddiff_pl.shards.picture import shown
from reddiff_pl.shards.plan import Shard, plan
from reddiff_pl.shards.reader import RawSample
from reddiff_pl.shards.samples import reference_picture
from reddiff_pl.shards.tar import Whole, members_of, scan


@dataclass
class Pair:
    """A restored image, and what belongs to it. Pictures are decoded when they are first asked for.

    Attributes:
        shard: name of its shard.
        key: its name.
        record: its .reddiff.json member: metrics as restore wrote them, seed.
        meta: its .json member, the user's own metadata.
        members: its files in the output, {file name after the first dot: content}: png, json, steps.png, ...
        raw: its sample in the input; None where the inputs are not there or lack it.
        scale: what one unit of [0, 1] is in the range of a .npy measurement.
    """

    shard: str
    key: str
    record: dict[str, Any]
    meta: dict[str, Any]
    members: dict[str, bytes]
    raw: RawSample | None
    scale: float = 2.0

    @cached_property
    def values(self) -> Tensor:
        """The restored image as written, (C, H, W): uint8, or float32 on the [0, 1] scale where 8 bits do not hold it.

        Raises:
            SampleError: the output holds none, or a damaged one.
        """
        values = image_of(self.members)
        if values is None:
            raise SampleError(f"shard {self.shard}, key {self.key}: no image in the output")
        return values

    @property
    def image(self) -> Tensor:
        """The restored image as it can be shown, uint8 (C, H, W), C 1 or 3; as it is where it was written so."""
        return shown(self.values)

    @cached_property
    def reference_values(self) -> Tensor | None:
        """The reference, cropped and reduced as the run did it, like `values`; None without one of their shape."""
        if self.raw is None:
            return None
        channels, height, width = self.values.shape
        try:
            picture = reference_picture(self.raw.members, channels, (height, width))
        except SampleError:
            return None
        found = None if picture is None else as_deep(picture)
        return found if found is not None and found.shape == self.values.shape else None

    @property
    def reference(self) -> Tensor | None:
        """The reference as it can be shown, uint8 of the image's shape; None without one."""
        return None if self.reference_values is None else shown(self.reference_values)

    @cached_property
    def start(self) -> Tensor | None:
        """A_dagger(y) as it can be shown, where the run kept it (model.keep_start): uint8 of the image's shape."""
        start = image_of(self.members, "start.")
        return None if start is None else shown(start)

    @cached_property
    def measurement(self) -> Tensor | None:
        """The measurement for display, uint8 (c, h, w), c 1 or 3; None where the input holds none, or no picture."""
        members = self.raw.members if self.raw is not None else {}
        try:
            if "y.npy" in members:
                y = decode.array(decode.member_bytes(members["y.npy"]), "y.npy")
                if y.is_complex() or y.ndim != 3 or len(y) > 5:
                    return None
                return shown((y + self.scale - 1) / self.scale)
            if name := image_member(members, "y."):
                channels = min(len(self.values), 3) if len(self.values) != 2 else 1
                return to_tensor(decode.image(decode.member_bytes(members[name]), name, channels))
        except SampleError:
            pass
        return None


class Results:
    """The shards of a run, finished or not.

    Args:
        out: output directory of the run.
        inputs: where its inputs are, if no longer where config.yaml says: tars as --data.shards takes them, or,
            for a run on a folder, that folder.
        partial: also shards that are still being written, as far as they are whole.

    Attributes:
        names: the shards, sorted.
        sidecars: the account of each; None for one that is being written.
        config: config.yaml as plain data; empty where it cannot be read.
        notes: lines that say which references cannot be had, and why. Grows while inputs are read.

    Raises:
        ConfigError: there is no run in `out`, or `inputs` are not there.
    """

    def __init__(self, out: str | Path, inputs: str | None = None, partial: bool = False) -> None:
        self.run = Run(out)
        if not self.run.shards.is_dir():
            raise ConfigError(f"{out}: not the output directory of a run: it holds no shards/")
        self.notes: list[str] = []
        self.config = self._read_config()
        self._inputs = self._find_inputs(inputs)
        self.sidecars: dict[str, dict[str, Any] | None] = {}
        for name in {*names_in(self.run.accounts, ".json"), *names_in(self.run.shards, ".json")}:
            if (sidecar := read_sidecar(self.run, name)) is not None:
                self.sidecars[name] = sidecar
        for name in names_in(self.run.shards, ".tar.partial") if partial else ():
            self.sidecars.setdefault(name, None)
        self.names = sorted(self.sidecars)

    def _read_config(self) -> dict[str, Any]:
        try:
            config = plain_yaml(self.run.config.read_bytes())
        except (OSError, ValueError) as error:
            self.notes.append(f"{self.run.config} cannot be read: {' '.join(str(error).split())}")
            return {}
        return config if isinstance(config, dict) else {}

    def _find_inputs(self, given: str | None) -> dict[str, Shard]:
        data = self.config.get("data")
        data = data if isinstance(data, Mapping) else {}
        kinds = ("shards", "images", "measured")
        named = {kind: data.get(kind) for kind in kinds}
        shards = named["shards"]
        if given is not None:
            kind = next((kind for kind in kinds if named[kind] is not None), "shards")
            named = {kind: given}
        elif any("pipe:" in str(url) for url in (shards if isinstance(shards, list) else [shards])):
            self.notes.append(
                "no references: config.yaml names a command (pipe:); give it as --inputs to run it"
            )
            return {}
        try:
            return {shard.name: shard for shard in plan(**named, params=data.get("params"), out=self.run.out)}
        except (ConfigError, TypeError, AttributeError) as error:
            if given is not None:
                raise ConfigError(f"--inputs: {error}") from error
            self.notes.append(f"no references: the run's inputs are not there ({error}); give --inputs")
            return {}

    @property
    def planned(self) -> list[str]:
        """All shards of the run's inputs; empty where these are not known."""
        return sorted(self._inputs)

    def digest(self, name: str) -> str:
        """What tells that a shard is still the same: the hash of its tar, or how far it is written."""
        sidecar = self.sidecars[name]
        return f"partial:{self.path(name).stat().st_size}" if sidecar is None else str(sidecar["tar_sha256"])

    def source(self, name: str) -> str | None:
        """Where a shard's inputs are; None where that is not known."""
        shard = self._inputs.get(name)
        return shard.url if shard is not None else None

    def path(self, name: str) -> Path:
        """The tar of a shard, finished or being written."""
        return self.run.partial(name) if self.sidecars[name] is None else self.run.tar(name)

    def keys(self, name: str) -> list[str]:
        """The keys of a shard in order, found without reading its images."""
        with open(self.path(name), "rb") as file:
            return [whole.key for whole in self._scan(name, file)]

    def pairs(self, name: str, keys: Container[str] | None = None, inputs: bool = True) -> Iterator[Pair]:
        """The samples of a shard, in order.

        Args:
            name: the shard.
            keys: only these.
            inputs: read the inputs beside them; without, there are no references and no measurements.
        """
        source = Lookup(self._inputs.get(name), self.notes) if inputs and self._inputs else None
        if source is not None and name not in self._inputs:
            self.notes.append(f"no references for shard {name}: not among the inputs")
        scale = 1.0 if "UnitRange" in str(self._physics()) else 2.0
        with open(self.path(name), "rb") as file:
            start = 0
            for whole in list(self._scan(name, file)):
                key = whole.key
                if keys is None or key in keys:
                    file.seek(start)
                    members = members_of(file.read(whole.end - start), key)
                    self._say_channels(members)
                    raw = source.find(key) if source is not None else None
                    meta, record = self._metadata(name, whole)
                    yield Pair(name, key, record, meta, members, raw, scale)
                start = whole.end

    def _say_channels(self, members: Mapping[str, bytes]) -> None:
        note = channels_note(channels_of(members["npy"]) if "npy" in members else 1)
        if note and note not in self.notes:
            self.notes.append(note)

    def records(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(key, its .reddiff.json) of the samples of a shard, in order."""
        with open(self.path(name), "rb") as file:
            for whole in self._scan(name, file):
                yield whole.key, self._metadata(name, whole)[1]

    def _scan(self, name: str, file: IO[bytes]) -> Iterator[Whole]:
        return scan(file, older=self.sidecars[name] is not None)

    def _metadata(self, name: str, whole: Whole) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            return metadata.of_written(whole)
        except SampleError as error:
            self.notes.append(f"shard {name}: {error}")
            return {}, {}

    def _physics(self) -> Any:
        model = self.config.get("model")
        physics = model.get("physics") if isinstance(model, Mapping) else None
        return physics.get("class_path") if isinstance(physics, Mapping) else physics

    def failures(self) -> Iterator[tuple[str, str | None, str]]:
        """Failed samples: (shard, key or None for what has none, reason)."""
        for name in self.names:
            sidecar = self.sidecars[name]
            for failure in sidecar["failed"] if sidecar is not None else listed(self.run.failed(name)):
                yield name, failure.get("key"), str(failure.get("reason"))


def picture(image: Tensor) -> Image.Image:
    """uint8 (C, H, W) as a picture, grey or RGB."""
    array = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
