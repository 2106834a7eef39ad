"""One picture of what several runs made of the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.evaluation.overview import Row, draw_overview
from reddiff_pl.evaluation.pairs import Pair, Results, picture

Key = tuple[str, str]
SIDE = 192  # pixels of an image in the picture, about


@dataclass(frozen=True)
class Source:
    """A run in the picture.

    Attributes:
        name: its caption.
        out: its directory.
        psnr: of its images, dB.
    """

    name: str
    out: str
    psnr: Mapping[Key, float | None]


def draw(path: Path, runs: Sequence[Source], keys: Sequence[Key], inputs: str | None = None) -> None:
    """The picture: a row an image, with reference, measurement or A_dagger(y), and what each run made of it."""
    found = [_pairs(run, keys, inputs) for run in runs]
    rows = []
    for key in keys:
        first = found[0][key]
        cells = [] if first.reference is None else [(_short(key[1]), picture(first.reference))]
        before = first.start if first.start is not None else first.measurement
        if before is not None:
            cells.append(("A_dagger(y)" if first.start is not None else "measured", picture(before)))
        for run, pairs in zip(runs, found, strict=True):
            decibels = run.psnr.get(key)
            caption = _short(run.name) if decibels is None else f"{_short(run.name, 14)}, {decibels:.1f} dB"
            cells.append((caption, picture(pairs[key].image)))
        rows.append(Row(cells))
    width = max(rows[0].cells[-1][1].width, 1)
    draw_overview(path, [(f"{len(rows)} images", rows)], scale=max(1, SIDE // width))


def _pairs(run: Source, keys: Sequence[Key], inputs: str | None) -> dict[Key, Pair]:
    results = Results(run.out, inputs, partial=True)
    found: dict[Key, Pair] = {}
    for shard in dict.fromkeys(shard for shard, _ in keys):
        wanted = {key for name, key in keys if name == shard}
        if shard in results.sidecars:
            found |= {(shard, pair.key): pair for pair in results.pairs(shard, wanted)}
    try:
        if lacking := [key for key in keys if key not in found or found[key].image is None]:
            raise SampleError(f"{lacking[0][1]}: not in the output")
    except SampleError as error:
        raise ConfigError(f"{run.out}: {error}; run: reddiff evaluate {run.out}") from error
    return found


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
