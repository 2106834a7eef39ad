"""The metrics of one shard, image by image."""

from __future__ import annotations

import itertools
import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from reddiff_pl import stop
from reddiff_pl.errors import SampleError
from reddiff_pl.evaluation.groups import Group, groups
from reddiff_pl.evaluation.measures import MEASURES, Measure
from reddiff_pl.evaluation.networks import name_of
from reddiff_pl.evaluation.outputs import channels_note
from reddiff_pl.evaluation.pairs import Pair, Results
from reddiff_pl.evaluation.patches import PATCHES, Patches
from reddiff_pl.evaluation.records import could_have_more_references, features_path, read, sidecar_path
from reddiff_pl.evaluation.weights import fingerprint
from reddiff_pl.files import write_atomically
from reddiff_pl.metrics.scale import rgb
from reddiff_pl.options.evaluate import LABELS
from reddiff_pl.shards.picture import shown

Columns = dict[str, list[Any]]
Put = Callable[[str, Tensor, Sequence[int]], int]


@dataclass
class Found:
    """What comes of a shard beside its columns.

    Attributes:
        features: {tensor: parts of it}.
        skipped: {measure: {why: images that it could not judge}}.
    """

    features: dict[str, list[Tensor]] = field(default_factory=dict)
    skipped: dict[str, dict[str, int]] = field(default_factory=dict)

    def skip(self, measure: str, why: str, images: int) -> None:
        reasons = self.skipped.setdefault(measure, {})
        reasons[why] = reasons.get(why, 0) + images


class Judge:
    """Computes families of metrics: those of `MEASURES`, `misfit`, networks' such as `lpips`, `net:NAME`, `patches`.

    Args:
        families: those wanted, without the networks'.
        compared: networks that compare an image with its reference, such as LPIPS.
        networks: feature networks.
        patches: the network of the patch distances, if wanted.
        labels: keys of the metadata in which a class may stand; the first that holds an integer counts.
        device: where to compute.
        batch_size: images at a time. Batches lie at fixed places of a shard.
        workers: decoding threads.

    Attributes:
        families: {family: what its numbers depend on beside the images}.
    """

    def __init__(
        self,
        families: Sequence[str],
        compared: Sequence[nn.Module] = (),
        networks: Sequence[nn.Module] = (),
        patches: Patches | None = None,
        labels: Sequence[str] = LABELS,
        device: str = "cpu",
        batch_size: int = 32,
        workers: int = 2,
    ) -> None:
        self.labels, self.device = tuple(labels), torch.device(device)
        self.batch_size, self.workers = batch_size, workers
        self.measures = {family: MEASURES[family] for family in families if family in MEASURES}
        for network in compared:
            self.measures[name_of(network)] = _compares(network.eval().to(self.device))
        self.families = {name: measure.version for name, measure in self.measures.items()}
        if "misfit" in families:
            self.families["misfit"] = "1"
        self.patches = None
        if patches is not None:
            self.patches = patches.eval().to(self.device)
            self.families[PATCHES] = fingerprint(patches)
        self.networks = {name_of(network): network.eval().to(self.device) for network in networks}
        for name, network in self.networks.items():
            self.families[f"net:{name}"] = f"{fingerprint(network)} {' '.join(self.labels)}"

    def missing(self, results: Results, name: str) -> list[str]:
        """The families that a shard's files do not hold yet."""
        there = read(results, name)
        if there is None or could_have_more_references(there, results, name):
            return list(self.families)
        return [family for family, what in self.families.items() if there["families"].get(family) != what]

    @torch.no_grad()
    def shard(self, results: Results, name: str) -> None:
        """Compute what is missing of a shard, and write its files, features first.

        Raises:
            Stopped: the stop flag was seen between two batches.
        """
        there = read(results, name)
        if there is not None and could_have_more_references(there, results, name):
            there = None
        wanted = self.missing(results, name)
        columns: Columns = {"key": []}
        found = Found()
        counts = {"images": 0, "references": 0}
        notes: list[str] = []
        said = len(results.notes)
        for batch, failed in self._batches(results, name):
            stop.check()
            notes += failed
            notes += filter(None, (channels_note(len(pair.values)) for pair in batch))
            for key, values in self._batch(batch, wanted, found).items():
                # a column that begins late (the first reference, the first label) is empty up to there
                column = columns.setdefault(key, [None] * counts["images"])
                column += values
            counts["images"] += len(batch)
            counts["references"] += sum(pair.reference_values is not None for pair in batch)
            for column in columns.values():
                column += [None] * (counts["images"] - len(column))
        tensors = {key: torch.cat(parts) for key, parts in found.features.items()}
        if there is not None:
            columns = there["columns"] | columns
            old = load_file(features_path(results.run, name)) if there["features"] else {}
            tensors = {key: value for key, value in old.items() if key not in tensors} | tensors
        path = sidecar_path(results.run, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if tensors:
            write_atomically(features_path(results.run, name), save(tensors))
        families = (there["families"] if there is not None else {}) | {f: self.families[f] for f in wanted}
        record = {
            "shard": name,
            "tar": results.digest(name),
            "source": results.source(name),
            **counts,
            "families": families,
            "features": sorted(tensors),
            "skipped": (there["skipped"] if there is not None else {}) | found.skipped,
            "notes": list(dict.fromkeys(notes + results.notes[said:])),
            "columns": columns,
        }
        write_atomically(path, json.dumps(record, allow_nan=False).encode() + b"\n")

    def _batches(self, results: Results, name: str) -> Iterator[tuple[list[Pair], list[str]]]:
        """Pairs at fixed places, decoded one batch ahead; and notes on those that cannot be used."""
        source = iter(results.pairs(name))
        ahead: deque[list[tuple[Pair, Future[str | None]]]] = deque()
        with ThreadPoolExecutor(self.workers, "decode") as pool:
            while True:
                while len(ahead) < 2 and (group := list(itertools.islice(source, self.batch_size))):
                    ahead.append([(pair, pool.submit(_decode, pair)) for pair in group])
                if not ahead:
                    return
                batch, notes = [], []
                for pair, future in ahead.popleft():
                    note = future.result()
                    if note is None:
                        batch.append(pair)
                    else:
                        notes.append(note)
                yield batch, notes

    def _batch(self, batch: list[Pair], wanted: Sequence[str], found: Found) -> Columns:
        """The columns of a batch; its features, and what could not be judged, are added to `found`."""
        columns: Columns = {"key": [pair.key for pair in batch]}
        if not batch:
            return columns
        if "misfit" in wanted:
            columns["misfit"] = [_number(pair.record.get("misfit")) for pair in batch]
        columns["label"] = labels = [self._label(pair.meta) for pair in batch]

        def put(name: str, values: Tensor, at: Sequence[int]) -> int:
            """Values into a column; how many of them are none."""
            column = columns.setdefault(name, [None] * len(batch))
            for place, value in zip(at, values.tolist(), strict=True):
                column[place] = value if not isinstance(value, float) or math.isfinite(value) else None
            return sum(column[place] is None for place in at)

        for group in groups(batch, self.device):
            for name, measure in self.measures.items():
                if name in wanted:
                    self._measure(name, measure, group, put, found)
            for name, network in self.networks.items():
                if f"net:{name}" in wanted:
                    self._network(name, network, group, labels, put, found)
            if self.patches is not None and PATCHES in wanted and group.known:
                if why := self.patches.refuses(group.images):
                    found.skip(PATCHES, why, len(group.known))
                else:
                    for which, pictures in (("restored", group.restored), ("reference", group.references)):
                        for kind, values in self.patches(pictures).items():
                            found.features.setdefault(f"{PATCHES}/{which}-{kind}", []).append(values.cpu())
        return columns

    def _measure(self, name: str, measure: Measure, group: Group, put: Put, found: Found) -> None:
        at = group.known if measure.reference else group.at
        if not at:
            return
        if why := measure.refuses(group.images):
            found.skip(name, why, len(at))
            return
        if measure.reference:
            columns = measure.columns(group.restored, group.references)
        else:
            columns = measure.columns(group.images, group.images)
            if group.known:
                for column, values in measure.columns(group.references, group.references).items():
                    put(f"{column}-reference", values, group.known)
        for column, values in columns.items():
            # the infinite PSNR of equal images has a place of its own in the summary
            if (nothing := put(column, values, at)) and name != "psnr":
                found.skip(
                    column, "not a finite number (an image or a part of its spectrum is flat)", nothing
                )

    def _network(
        self,
        name: str,
        network: nn.Module,
        group: Group,
        labels: Sequence[int | None],
        put: Put,
        found: Found,
    ) -> None:
        """A network's features, and what it takes the images for."""
        classifies = hasattr(network, "logits")
        sets: dict[str, tuple[Tensor, list[int]]] = {"restored": (group.images, group.at)}
        if group.known:
            sets["reference"] = group.references, group.known
        if classifies and group.begun:
            sets["start"] = group.starts, group.begun
        for which, (pictures, at) in sets.items():
            values = network(rgb(shown(pictures))).float()
            if which != "start":
                found.features.setdefault(f"{name}/{which}", []).append(values.cpu())
            if not classifies:
                continue
            suffix = name if which == "restored" else f"{name}-{which}"
            logits = network.logits(values)  # type: ignore[operator]
            best = logits.topk(min(5, logits.shape[1])).indices.cpu()
            truth = torch.tensor([-1 if labels[i] is None else labels[i] for i in at])
            judged = [n for n, i in enumerate(at) if labels[i] is not None]
            hits, at_judged = (best == truth[:, None])[judged], [at[n] for n in judged]
            put(f"prediction-{suffix}", best[:, 0], at)
            put(f"top1-{suffix}", hits[:, :1].any(1).int(), at_judged)
            put(f"top5-{suffix}", hits.any(1).int(), at_judged)

    def _label(self, meta: Mapping[str, Any]) -> int | None:
        found = (meta.get(key) for key in self.labels)
        return next((v for v in found if isinstance(v, int) and not isinstance(v, bool) and v >= 0), None)


def _compares(network: nn.Module) -> Measure:
    """The measure of a network that compares two images."""
    name = name_of(network)

    def columns(images: Tensor, references: Tensor) -> dict[str, Tensor]:
        return {name: network(rgb(shown(images)), rgb(shown(references)))}

    return Measure(columns, network.side, None, version=fingerprint(network))  # type: ignore[arg-type]


def _decode(pair: Pair) -> str | None:
    """Runs in a decoding thread; what is wrong with the output, if anything."""
    try:
        _ = pair.values, pair.reference_values, pair.start
    except SampleError as error:
        return f"{pair.key}: {error}"
    return None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None
