"""Files of weights as people find them: told apart, opened as tensors only, searched for what is not finite."""

from __future__ import annotations

import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError

_OPENAI = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021"
KNOWN_CHECKPOINTS = {
    **{
        f"{name}.pt": f"{_OPENAI}/{name}.pt"
        for name in (
            *("64x64_diffusion", "256x256_diffusion", "256x256_diffusion_uncond", "512x512_diffusion"),
            *("lsun_bedroom", "lsun_cat", "lsun_horse", "lsun_horse_nodropout"),
            *("64x64_classifier", "128x128_classifier", "256x256_classifier", "512x512_classifier"),
        )
    },
    "ffhq_10m.pt": "the links in the README of https://github.com/DPS2022/diffusion-posterior-sampling",
}
"""Files that `reddiff prior import` reads, and where they are published."""

_WRAPPERS = ("state_dict", "model_state_dict", "model", "ema", "model_ema", "params_ema", "params")
_PREFIXES = ("module.", "_orig_mod.", "model.", "diffusion_model.")
_KINDS = {  # by how files begin
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`, or download the file",
    b"<!doctype html": "a web page, not a file of weights: the download was refused, or its link is that of a page",
    b"<html": "a web page, not a file of weights: the download was refused, or its link is that of a page",
    b"<?xml": "an XML text, most likely a server's error message, not a file of weights",
    b"\x89hdf": "an HDF5 file, as Keras writes them, not a checkpoint of torch",
    b"\x89png": "an image, not a file of weights",
    b"\xff\xd8\xff": "an image, not a file of weights",
    b"%pdf": "a PDF, not a file of weights",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"{": "a JSON text, not a file of weights",
}


def kind_of(path: Path) -> str | None:
    """What a file that should hold weights is instead, and what to do; None where that does not show."""
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError:
        return None
    if not head:
        return "an empty file: the download broke off"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((kind for start, kind in _KINDS.items() if text.startswith(start)), None)


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Stop at weights that are not finite: every picture of theirs would be black.

    Args:
        tensors: by name.
        where: what the error begins with, an option or a file.

    Raises:
        ConfigError: names the first such tensor.
    """
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not _is_finite(tensor)]
    if bad:
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ConfigError(
            f"{where}: the weights hold NaN or infinite values, in tensor {bad[0]}{more}; the file is damaged, or its "
            "training diverged"
        )


def refuse_quantised(integers: Collection[str], where: str) -> None:
    """Stop at weights that are whole numbers: their scales lie elsewhere, and without them they are noise.

    Args:
        integers: names of the tensors of whole numbers; only weights and biases among them count.
        where: what the error begins with, an option or a file.

    Raises:
        ConfigError: names the first.
    """
    bad = [name for name in integers if name.endswith(("weight", "bias"))]
    if bad:
        raise ConfigError(
            f"{where}: tensor {bad[0]} holds whole numbers; quantised weights cannot be used, take those in float16 "
            "or float32"
        )


def _is_finite(tensor: Tensor) -> bool:
    # a sum is one pass; only where it is not finite, as after an overflow, is each element looked at
    return bool(tensor.sum(dtype=torch.float64).isfinite()) or bool(tensor.isfinite().all())


def read_checkpoint(file: str, names: Collection[str] = ()) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint, by name. Nothing in it is run.

    Args:
        file: safetensors, or what torch.save wrote.
        names: of the network's tensors; no prefix is taken off these.

    Returns:
        the tensors, without wrappers and prefixes that trainers put around them; lines that say which.

    Raises:
        ConfigError: no such file, damaged, something else than tensors by name, or not finite.
    """
    path = Path(file)
    if not path.is_file():
        where = f"; download it from {KNOWN_CHECKPOINTS[path.name]}" if path.name in KNOWN_CHECKPOINTS else ""
        raise ConfigError(f"{file}: not found{where}")
    if (kind := kind_of(path)) is not None:
        raise ConfigError(f"{file}: truncated, or no checkpoint of torch: it is {kind}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"({named[1]}) " if named else ""
        raise ConfigError(
            f"{file}: refused: it holds more than tensors {what}or is no checkpoint; loading it could run code. Where "
            "you trust it, save its tensors alone: torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW)"
        ) from error
    except Exception as error:  # each kind of damage has its own error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ConfigError(f"{file}: truncated, or not a checkpoint of torch ({reason})") from error
    tensors, said = _unwrapped(content, frozenset(names))
    if tensors is None:
        raise ConfigError(f"{file}: does not hold tensors by name, as the checkpoints of the ADM family do")
    refuse_quantised([name for name, value in tensors.items() if not value.is_floating_point()], file)
    check_finite(tensors, file)
    return tensors, said


def _unwrapped(content: Any, names: frozenset[str]) -> tuple[dict[str, Tensor] | None, list[str]]:
    said = []
    while isinstance(content, dict) and not (
        content and all(isinstance(value, Tensor) for value in content.values())
    ):
        name = next((name for name in _WRAPPERS if isinstance(content.get(name), dict)), None)
        if name is None:
            return None, []
        content = content[name]
        said.append(f"taken from its entry {name!r}")
    if not isinstance(content, dict):
        return None, []
    while names != content.keys() and (
        prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in content)), None)
    ):
        content = {key.removeprefix(prefix): value for key, value in content.items()}
        said.append(f"prefix {prefix!r} of all names left out")
    return content, said
