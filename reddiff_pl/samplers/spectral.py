"""Measurements in the spectral coordinates of their operator, A = U S V^T, for DDRM and DDNM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics.binding import operator_of
from reddiff_pl.physics.decomposable import Decomposable
from reddiff_pl.physics.unit_range import on_symmetric_range
from reddiff_pl.priors.base import per_image
from reddiff_pl.samplers.diffusion import DiffusionState


def check_decomposable(state: DiffusionState, who_needs: str) -> None:
    """
    Raises:
        ConfigError: the operator's singular value decomposition is not known; begins with `who_needs`.
    """
    operator = operator_of(state.physics)
    if not isinstance(operator, Decomposable):
        raise ConfigError(
            f"model.sampler: {who_needs} an operator with a known singular value decomposition "
            f"(reddiff_pl.physics.Decomposable), and {type(operator).__name__} is not one"
        )


def spectral(state: DiffusionState) -> tuple[Decomposable, Tensor, Tensor]:
    """The operator on [-1, 1], yb (B, C, H, W), and b, broadcastable to it: infinite where nothing is measured."""
    physics, y, noise_std = on_symmetric_range(state.physics, state.y, state.noise_std, state.x)
    assert isinstance(physics, Decomposable)
    s = physics.singular_values(state.x)
    measured = (s > 0) & (s >= physics.cut)
    inverse = torch.where(measured, 1 / s, 0)
    b = torch.where(measured, per_image(noise_std.to(s), s) * inverse, math.inf)
    return physics, inverse * physics.U_adjoint(y), b
