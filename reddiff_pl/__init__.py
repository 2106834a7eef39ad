"""Restore large image sets with a diffusion prior: shards of measurements in, restored shards out.

The method is RED-diff: A Variational Perspective on Solving Inverse Problems with Diffusion Models
| https://arxiv.org/abs/2305.04391
"""

from reddiff_pl.import_path import leave_current_folder
from reddiff_pl.moved import keep_old_names

__version__ = "0.1.0"

leave_current_folder()
keep_old_names()
