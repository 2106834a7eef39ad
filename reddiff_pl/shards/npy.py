""".npy files from anyone: numbers alone, and no memory before the file is known to hold them."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reddiff_pl.errors import SampleError


def header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type; `file` is then at the first number.

    Raises:
        ValueError: it is no .npy file, or a damaged one.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def kind(content: bytes) -> str:
    """Of its numbers, as numpy calls it: i, u, f, c, b; "?" of what is no .npy file."""
    try:
        return header(io.BytesIO(content))[2].kind
    except Exception:  # `load` tells
        return "?"


def load(content: bytes, name: str) -> NDArray[Any]:
    """The array of a .npy file.

    Args:
        content: the file.
        name: its name, for messages.

    Raises:
        SampleError: it is damaged, or holds something else than numbers.
    """
    file = io.BytesIO(content)
    if content.startswith(b"PK"):
        raise _error(name, "it is a .npz file; store one array by numpy.save")
    if not content.startswith(np.lib.format.MAGIC_PREFIX):
        raise _error(name, "it is no .npy file" if content else "it is empty")
    try:
        shape, columns_first, dtype = header(file)
    except Exception as error:  # numpy evaluates the text of a header, and raises many kinds
        raise _error(name, "its header is damaged") from error
    if dtype.hasobject:
        raise _error(name, "it holds Python objects (a pickle), expected numbers")
    if dtype.kind not in "biufc":
        raise _error(name, f"it holds {str(dtype)[:100]}, expected numbers")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize > len(content) - file.tell():
        raise _error(name, f"its {len(content)} bytes do not hold {dtype} of shape {str(shape)[:100]}")
    values = np.frombuffer(content, dtype, count, file.tell())
    return (values.reshape(shape[::-1]).T if columns_first else values.reshape(shape)).copy()


def _error(name: str, reason: str) -> SampleError:
    return SampleError(f"{name} is not a readable array: {reason}")
