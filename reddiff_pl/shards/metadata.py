"""Metadata of samples: the user's own (`KEY.json`), which come out as they went in, and the run's beside them.

What parses is carried as the text that it was, never through numbers and back: a lone surrogate, 1e400, an integer of
5000 digits or a key that stands there twice would be changed by that, or could not be written at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from reddiff_pl.errors import SampleError
from reddiff_pl.shards.tar import Whole

METRICS = ("psnr", "ssim", "misfit")
WRITTEN = 1 / (255 * math.sqrt(12))  # the rounding of an 8-bit result, on the [0, 1] scale
FAR_LINE = "their misfit stands far from the noise level told"
FAR = 5.0  # a misfit so many times the level is worth a warning
MOST_CHARACTERS = 10_000  # of a prompt
_DIGITS = 4000  # of an integer; Python refuses to read longer ones


def parse(content: bytes, name: str, constants: bool = False) -> dict[str, Any]:
    """A .json member as a dict; NaN and the infinities, which are not JSON, are None, or with `constants` floats.

    Raises:
        SampleError: it is not a JSON object.
    """
    try:
        value = json.loads(
            content, parse_constant=float if constants else lambda constant: None, parse_int=_integer
        )
    except RecursionError as error:
        raise SampleError(f"{name} is nested too deeply to be read") from error
    except ValueError as error:
        raise SampleError(f"{name} is not JSON ({error}); mend it or leave it out") from error
    if not isinstance(value, dict):
        raise SampleError(f"{name} is not a JSON object")
    return value


def as_utf8(content: bytes) -> bytes:
    """The text of a .json member that parses, in UTF-8 and without a byte order mark; every character as it was."""
    encoding = json.detect_encoding(content)
    return content if encoding == "utf-8" else content.decode(encoding, "surrogatepass").encode("utf-8")


def with_field(content: bytes, name: str, value: float) -> bytes:
    """The text of a JSON object with a field more, at its end, where the last of two equal names counts."""
    text = content.rstrip().removesuffix(b"}").rstrip()
    comma = b"" if text.endswith(b"{") else b", "
    return text + comma + json.dumps({name: value})[1:].encode()


def label_of(meta: Mapping[str, Any], classes: int, default: int | None) -> int:
    """The class that a sample's metadata name, 0..classes-1, or the default where they name none.

    Raises:
        SampleError: no label and no default, or no such class.
    """
    label = meta.get("label", default)
    if label is None:
        raise SampleError(
            "no label: the prior is class-conditional; give a `label` in KEY.json, or a default with "
            "--model.prior.init_args.label"
        )
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < classes:
        raise SampleError(f"label is {label}, expected a class number from 0 to {classes - 1}")
    return label


def texts_of(meta: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The `prompt` and `negative_prompt` that a sample's metadata give, for priors that know words; None: none.

    Raises:
        SampleError: one of them is not a text, or a very long one.
    """
    texts = []
    for name in ("prompt", "negative_prompt"):
        text = meta.get(name)
        if text is not None and (not isinstance(text, str) or len(text) > MOST_CHARACTERS):
            said = f"one of {len(text)} characters" if isinstance(text, str) else type(text).__name__
            raise SampleError(
                f"{name} in KEY.json must be a text of at most {MOST_CHARACTERS} characters, got {said}"
            )
        texts.append(text)
    return texts[0], texts[1]


def of_run(values: dict[str, Any]) -> bytes:
    """A .reddiff.json member; numbers that are not finite, which JSON lacks, are null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return json.dumps(finite, sort_keys=True, allow_nan=False).encode()


def metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics in a .reddiff.json; what is infinite, None there, is left out, as is what is no number."""
    found = {name: record.get(name) for name in METRICS}
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def misfit_ratio(misfit: float, sigma_y: float) -> float:
    """A misfit over what it should be: the noise level that was told and the rounding of what is written."""
    return misfit / math.hypot(sigma_y, WRITTEN)


def is_far(record: Mapping[str, Any]) -> bool:
    """Whether a sample's misfit stands far from the noise level it was told."""
    ratio, sigma_y = record.get("misfit_ratio"), record.get("sigma_y")
    if not isinstance(ratio, int | float) or not isinstance(sigma_y, int | float):
        return False
    return ratio > FAR  # below: a level may stand for what the operator itself takes away, as with JPEG


def far_line(far: int, total: int) -> str:
    """The warning about so many samples."""
    return (
        f"{far:,} of {total:,} images: {FAR_LINE} (more than {FAR:g} times it): check "
        "--data.sigma_y, the operator and its parameters; misfit_ratio in KEY.reddiff.json says which"
    )


def of_written(whole: Whole) -> tuple[dict[str, Any], dict[str, Any]]:
    """What lies in an output: the user's own fields, and the run's (metrics, seed).

    Raises:
        SampleError: one of them cannot be read.
    """
    record = parse(whole.record, f"{whole.key}.reddiff.json")
    if whole.record is not whole.meta:
        return parse(whole.meta, f"{whole.key}.json"), record
    ours = (*METRICS, "seed")  # of an earlier version, which wrote both into one
    return (
        {name: value for name, value in record.items() if name not in ours},
        {name: value for name, value in record.items() if name in ours},
    )


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)
