"""The metrics of one shard, image by image."""

from __future__ import annotations

import itertools
import json
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from reddiff_pl import stop
from reddiff_pl.errors import SampleError
from reddiff_pl.evaluation.networks import LPIPS_SIDE, name_of
from reddiff_pl.evaluation.outputs import channels_note
from reddiff_pl.evaluation.pairs import Pair, Results
from reddiff_pl.evaluation.records import could_have_more_references, features_path, read, sidecar_path
from reddiff_pl.evaluation.weights import fingerprint
from reddiff_pl.files import write_atomically
from reddiff_pl.metrics import psnr, ssim
from reddiff_pl.shards.samples import unit

SSIM_SIDE = 6
LABELS = ("imagenet_label", "label")

Columns = dict[str, list[Any]]


class Judge:
    """Computes families of metrics: `psnr`, `ssim`, `misfit`, `lpips`, and `net:NAME`, a network's.

    Args:
        families: those wanted, without the networks'.
        lpips: LPIPS, if wanted.
        networks: feature networks.
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
        lpips: nn.Module | None = None,
        networks: Sequence[nn.Module] = (),
        labels: Sequence[str] = LABELS,
        device: str = "cpu",
        batch_size: int = 32,
        workers: int = 2,
    ) -> None:
        self.labels, self.device = tuple(labels), torch.device(device)
        self.batch_size, self.workers = batch_size, workers
        self.families = {family: "1" for family in families}
        self.lpips = None
        if lpips is not None:
            self.lpips = lpips.eval().to(self.device)
            self.families[name_of(lpips)] = fingerprint(lpips)
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
        features: dict[str, list[Tensor]] = {}
        counts = {"images": 0, "references": 0}
        notes: list[str] = []
        said = len(results.notes)
        for batch, failed in self._batches(results, name):
            stop.check()
            notes += failed
            if batch and (note := channels_note(len(batch[0].values))) and note not in notes:
                notes.append(note)
            for key, values in self._batch(batch, wanted, features).items():
                # a column that begins late (the first reference, the first label) is empty up to there
                column = columns.setdefault(key, [None] * counts["images"])
                column += values
            counts["images"] += len(batch)
            counts["references"] += sum(pair.reference is not None for pair in batch)
            for column in columns.values():
                column += [None] * (counts["images"] - len(column))
        tensors = {key: torch.cat(parts) for key, parts in features.items()}
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
            "notes": list(dict.fromkeys(notes + results.notes[said:])),
            "columns": columns,
        }
        write_atomically(path, json.dumps(record, allow_nan=False).encode() + b"\n")

    def _batches(self, results: Results, name: str) -> Iterator[tuple[list[Pair], list[str]]]:
        """Pairs of one shape, decoded one batch ahead, in order; and notes on those that cannot be used."""
        source = iter(results.pairs(name))
        ahead: deque[list[tuple[Pair, Future[str | None]]]] = deque()
        with ThreadPoolExecutor(self.workers, "decode") as pool:
            while True:
                while len(ahead) < 2 and (group := list(itertools.islice(source, self.batch_size))):
                    ahead.append([(pair, pool.submit(_decode, pair)) for pair in group])
                if not ahead:
                    return
                told = [(pair, future.result()) for pair, future in ahead.popleft()]
                notes = [note for _, note in told if note is not None]
                usable = [pair for pair, note in told if note is None]
                if not usable:
                    yield [], notes
                for _, alike in itertools.groupby(usable, lambda pair: pair.values.shape):
                    yield list(alike), notes
                    notes = []

    def _batch(self, batch: list[Pair], wanted: Sequence[str], features: dict[str, list[Tensor]]) -> Columns:
        """The columns of a batch; its features are added to `features`."""
        columns: Columns = {"key": [pair.key for pair in batch]}
        if not batch:
            return columns
        images = torch.stack([pair.image for pair in batch]).to(self.device)
        places = [i for i, pair in enumerate(batch) if pair.reference is not None]
        known = [pair.reference for pair in batch if pair.reference is not None]
        references = torch.stack(known).to(self.device) if known else images[:0]
        side = min(images.shape[-2:])
        # as they were written; what is shown of them has 8 bits, and at most three channels
        values = _stacked([pair.values for pair in batch if pair.reference is not None])
        deep = [part.to(self.device) for part in (values, _stacked([p.reference_values for p in batch]))]

        def spread(values: Tensor, at: Sequence[int] = places) -> list[Any]:
            row: list[Any] = [None] * len(batch)
            for place, value in zip(at, values.tolist(), strict=True):
                row[place] = value if not isinstance(value, float) or math.isfinite(value) else None
            return row

        if "misfit" in wanted:
            columns["misfit"] = [_number(pair.record.get("misfit")) for pair in batch]
        if "psnr" in wanted and known:
            columns["psnr"] = spread(psnr(*deep))
        if "ssim" in wanted and known and side >= SSIM_SIDE:
            columns["ssim"] = spread(ssim(*deep))
        if self.lpips is not None and name_of(self.lpips) in wanted and known and side >= LPIPS_SIDE:
            columns[name_of(self.lpips)] = spread(self.lpips(_rgb(images[places]), _rgb(references)))
        columns["label"] = labels = [self._label(pair.meta) for pair in batch]
        for name, network in self.networks.items():
            if f"net:{name}" not in wanted:
                continue
            begun = [(i, pair.start) for i, pair in enumerate(batch) if pair.start is not None]
            begun = [(i, start) for i, start in begun if start.shape == images.shape[1:]]
            sets: dict[str, tuple[Tensor, list[int]]] = {"restored": (images, list(range(len(batch))))}
            if known:
                sets["reference"] = references, places
            if hasattr(network, "logits") and begun:
                sets["start"] = torch.stack([s for _, s in begun]).to(self.device), [i for i, _ in begun]
            for which, (pictures, at) in sets.items():
                found = network(_rgb(pictures)).float()
                if which != "start":
                    features.setdefault(f"{name}/{which}", []).append(found.cpu())
                if hasattr(network, "logits"):
                    suffix = name if which == "restored" else f"{name}-{which}"
                    logits = network.logits(found)  # type: ignore[operator]
                    best = logits.topk(min(5, logits.shape[1])).indices
                    hits = (
                        best.cpu()
                        == torch.tensor([-1 if labels[i] is None else labels[i] for i in at])[:, None]
                    )
                    columns[f"prediction-{suffix}"] = spread(best[:, 0], at)
                    judged = [n for n, i in enumerate(at) if labels[i] is not None]
                    at_judged = [at[n] for n in judged]
                    columns[f"top1-{suffix}"] = spread(hits[judged, :1].any(1).int(), at_judged)
                    columns[f"top5-{suffix}"] = spread(hits[judged].any(1).int(), at_judged)
        return columns

    def _label(self, meta: Mapping[str, Any]) -> int | None:
        found = (meta.get(key) for key in self.labels)
        return next((v for v in found if isinstance(v, int) and not isinstance(v, bool) and v >= 0), None)


def _decode(pair: Pair) -> str | None:
    """Runs in a decoding thread; what is wrong with the output, if anything."""
    try:
        _ = pair.values, pair.reference_values, pair.start
    except SampleError as error:
        return f"{pair.key}: {error}"
    return None


def _stacked(images: Sequence[Tensor | None]) -> Tensor:
    """Those that are there: uint8 where all are, else floats on the [0, 1] scale."""
    there = [image for image in images if image is not None]
    if not there or all(image.dtype == torch.uint8 for image in there):
        return torch.stack(there) if there else torch.empty(0)
    return torch.stack([unit(image) for image in there])


def _rgb(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None
