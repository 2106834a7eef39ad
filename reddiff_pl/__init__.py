"""Restore large image sets with a diffusion prior: shards of measurements in, restored shards out.

The method is RED-diff: A Variational Perspective on Solving Inverse Problems with Diffusion Models
| https://arxiv.org/abs/2305.04391
"""

from typing import Any

from reddiff_pl.import_path import leave_current_folder
from reddiff_pl.moved import keep_old_names

__version__ = "0.2.0"
__all__ = ["Restorer", "restore"]

leave_current_folder()
keep_old_names()


def __getattr__(name: str) -> Any:
    """`restore` and `Restorer`, imported when they are wanted: they bring torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from reddiff_pl import restorer

    return getattr(restorer, name)
