"""Pictures of chosen samples as data URIs within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reddiff_pl.errors import SampleError
from reddiff_pl.evaluation.pairs import Pair, Results, picture
from reddiff_pl.report.rows import Rows
from reddiff_pl.report.settings import clean
from reddiff_pl.shards import decode

LARGE = 512  # side of the pictures of best, median and worst, at most
THUMB, SMALLEST = 256, 48  # sides of the others, from and down to
EXACT = 128  # pictures up to this side are stored without loss
STEPS_WIDTH = 1600
MAX_SPREAD_BYTES = 1 << 28
META_SHOWN = 12

KINDS = {
    "reference": "Reference",
    "measurement": "Measurement",
    "restored": "Restored",
    "error": "Error",
    "spread": "Spread",
}


@dataclass
class Shown:
    """A sample with its pictures.

    Attributes:
        row: its row in `Rows`.
        pictures: {kind: data URI}, kinds of `KINDS` in their order.
        size: (width, height) of the restored image.
        steps: its trajectory, a data URI, if kept.
        meta: (name, value) of its metadata.
        note: why there is no picture.
    """

    row: int
    pictures: dict[str, str] = field(default_factory=dict)
    size: tuple[int, int] = (1, 1)
    steps: str = ""
    meta: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""


@dataclass
class Album:
    """All that is shown.

    Attributes:
        large: {row: sample} of the best, median and worst.
        thumbs: the sample of all, in its order.
        scale: error, on the [0, 1] scale, that the brightest colour stands for.
        side: largest side of the thumbs in pixels.
        kinds: {kind: label} of all pictures, in their order.
    """

    large: dict[int, Shown]
    thumbs: list[Shown]
    scale: float
    side: int
    kinds: dict[str, str]


def album(
    results: Results,
    rows: Rows,
    large: Iterable[int],
    sample: Iterable[int],
    budget: int,
    others: Sequence[Results] = (),
) -> Album:
    """Read, reduce and encode the pictures of chosen rows.

    Args:
        results: the run.
        rows: all images.
        large: rows shown large.
        sample: rows shown as thumbs.
        budget: bytes of all thumbs together; they get smaller with their number.
        others: runs whose images of the same keys are shown beside.
    """
    sample, scale = list(sample), error_scale(rows)
    # labels may be equal: two folders of one name
    beside = {f"beside{i}": clean(other.run.out.resolve().name, 40) for i, other in enumerate(others)}
    named = dict(zip(beside, others, strict=True))
    wanted = set(large)
    side, longest, sizes = THUMB, 1, list[int]()
    big: dict[int, Shown] = {}
    found: dict[int, Shown] = {}
    # the large ones come first: they tell how many bytes a thumb takes
    for row, pair, more in _pairs(results, rows, wanted, named):
        images = _images(pair, scale, more)
        longest = max(longest, *(max(image.size) for image in images.values()), 1)
        big[row] = _shown(row, pair, images, LARGE, exact=True)
        if pair is not None and "steps.png" in pair.members:
            big[row].steps = _steps(pair.members["steps.png"])
        sizes.append(sum(map(len, _shown(row, pair, images, THUMB).pictures.values())))
        if row in sample:
            found[row] = _shown(row, pair, images, THUMB)
    if sizes and (bytes_each := sum(sizes) / len(sizes)) * len(sample) > budget:
        share = budget / (bytes_each * len(sample))
        # bytes go about as the pixels; headers make small pictures dearer
        side = max(int(min(longest, THUMB) * share**0.6) // 8 * 8, SMALLEST)
        found = {}
    for row, pair, more in _pairs(results, rows, set(sample).difference(found), named):
        found[row] = _shown(row, pair, _images(pair, scale, more), side)
    thumbs = [found.get(row) or Shown(row, note="not found") for row in sample]
    for kind, other in named.items():
        if not any(kind in one.pictures for one in [*big.values(), *thumbs]):
            results.notes.append(f"--beside {other.run.out}: it holds none of the images that are shown")
    kinds = dict[str, str]()
    for kind, label in KINDS.items():
        kinds[kind] = label
        if kind == "restored":
            kinds |= beside
    return Album(big, thumbs, scale, side, kinds)


def error_scale(rows: Rows) -> float:
    """Three times the median image's root mean square error, as its PSNR says it, rounded to 1, 2 or 5."""
    values = rows.metrics.get("psnr", np.empty(0))
    finite = values[np.isfinite(values)]
    wanted = 3 * 10 ** (-float(np.median(finite)) / 20) if len(finite) else 0.1
    steps = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    return float(steps[np.abs(np.log(steps / wanted)).argmin()])


def _pairs(
    results: Results, rows: Rows, wanted: Iterable[int], others: Mapping[str, Results]
) -> Iterator[tuple[int, Pair | None, dict[str, Image.Image]]]:
    """Rows with their samples, and what other runs made of them."""
    by_shard: dict[int, dict[str, int]] = defaultdict(dict)
    for row in wanted:
        by_shard[int(rows.shard[row])][rows.keys[row]] = row
    for index, keys in sorted(by_shard.items()):
        name = rows.shards[index]
        more: dict[str, dict[str, Image.Image]] = defaultdict(dict)
        for kind, other in others.items():
            for key, image in _restored(other, name, keys, results.notes):
                more[key][kind] = image
        try:
            for pair in results.pairs(name, keys):
                yield keys[pair.key], pair, more.pop(pair.key, {})
        except (OSError, SampleError, KeyError, UnicodeError) as error:
            results.notes.append(f"shard {clean(name)}: {clean(error, 200)}")


def _restored(
    other: Results, name: str, keys: Container[str], notes: list[str]
) -> Iterator[tuple[str, Image.Image]]:
    """Another run's images of a shard, no larger than they are ever shown: those of a whole shard are held at once."""
    if name not in other.sidecars:
        return
    try:
        for pair in other.pairs(name, keys, inputs=False):
            image = picture(pair.image)
            image.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS)
            yield pair.key, image
    except (OSError, SampleError, KeyError, UnicodeError) as error:
        notes.append(f"{other.run.out}: shard {clean(name)}: {clean(error, 200)}")


def _images(pair: Pair | None, scale: float, more: Mapping[str, Image.Image]) -> dict[str, Image.Image]:
    """The pictures of a sample by kind, in their order, with those that other runs made of it.

    Raises:
        SampleError: the restored image cannot be read.
    """
    images: dict[str, Image.Image] = {}
    if pair is None:
        return images
    try:
        image = pair.image
    except SampleError:
        return images
    reference = pair.reference
    if reference is not None:
        images["reference"] = picture(reference)
    try:
        before = pair.start if pair.start is not None else pair.measurement
    except SampleError:
        before = pair.measurement
    if before is not None:
        images["measurement"] = picture(before)
    images["restored"] = picture(image)
    images |= more
    if reference is not None:
        error = np.abs(image.numpy().astype(np.float32) - reference.numpy()) / 255
        images["error"] = _map(error.mean(axis=0), scale)
    if (spread := _spread(pair.members.get("std.npy"))) is not None:
        images["spread"] = _map(spread, scale)
    return images


def _spread(content: bytes | None) -> NDArray[np.float32] | None:
    """Mean over the channels of a standard deviation on the [0, 1] scale, (H, W); None where it is none."""
    if content is None or len(content) > MAX_SPREAD_BYTES:
        return None
    try:
        values = decode.array(content, "std.npy").numpy()
    except SampleError:
        return None
    if values.ndim == 3:
        values = values.mean(axis=0)
    if values.ndim != 2 or not values.size or np.iscomplexobj(values):
        return None
    return np.nan_to_num(values)


def _map(values: NDArray[np.float32], scale: float) -> Image.Image:
    return Image.fromarray(_colours()[(values / scale * 255).round().clip(0, 255).astype(np.uint8)])


@cache
def _colours() -> NDArray[np.uint8]:
    """Magma, (256, 3)."""
    import matplotlib

    return (matplotlib.colormaps["magma"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def gradient(stops: int = 9) -> str:
    """The colours of error maps, dark to bright, as a list for CSS."""
    places = np.linspace(0, 255, stops).round().astype(int)
    return ", ".join("#" + bytes(_colours()[place]).hex() for place in places)


def _shown(
    row: int, pair: Pair | None, images: Mapping[str, Image.Image], side: int, exact: bool = False
) -> Shown:
    shown = Shown(row, {kind: encode(image, side, exact) for kind, image in images.items()})
    if "restored" in images:
        shown.size = images["restored"].size
    else:
        shown.note = "its picture cannot be read"
    if pair is not None:
        shown.meta = _metadata(pair.meta)
    return shown


def encode(image: Image.Image, side: int, exact: bool = False) -> str:
    """A picture as a data URI, at most `side` pixels wide and high; small exact ones without loss."""
    longest = max(image.size)
    if longest > side:
        size = (max(round(image.width * side / longest), 1), max(round(image.height * side / longest), 1))
        image = image.resize(size, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small = max(image.size) <= EXACT
    image.save(out, "WEBP", lossless=exact and small, quality=88 if exact or small else 80, method=3)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def _steps(content: bytes) -> str:
    try:
        strip = decode.image(content, "steps.png", 3).pil()
    except SampleError:
        return ""
    return encode(strip, STEPS_WIDTH, exact=True)


def _metadata(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    fields = [(name, value) for name, value in meta.items() if value is not None]
    return [
        (clean(name, 40), clean(value, 200)) for name, value in fields if isinstance(value, str | int | float)
    ][:META_SHOWN]
