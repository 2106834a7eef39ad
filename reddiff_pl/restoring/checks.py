"""What must hold of an operator before any work: it takes the images, and its noise can be estimated if it is to be."""

from __future__ import annotations

import copy

import torch

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.physics.binding import operator_of
from reddiff_pl.physics.degrade import Degradation
from reddiff_pl.physics.noise import NoNoise

NO_NOISE = 0.03  # an estimate from a smooth image without noise that tells nothing any more


def check_operator(degradation: Degradation) -> None:
    """Degrade an empty image once, so that an operator that does not fit stops the run before any work.

    Raises:
        ConfigError: it does not take images of the shape, or its A_dagger gives none.
    """
    try:
        y, params = degradation(torch.zeros(degradation.shape), "check", {})
    except SampleError:
        return  # every sample must bring its own parameters
    except ConfigError:
        raise
    except Exception as error:  # any operator may be named, and raises what it likes
        raise ConfigError(
            f"--model.physics: the operator does not take images of {degradation.shape}: {error}"
        ) from error
    bound = degradation.bound(params)
    try:
        shape = tuple(bound.A_dagger(y[None]).shape[1:])
    except Exception as error:
        raise ConfigError(f"--model.physics: A_dagger fails: {error}") from error
    if shape != degradation.shape:
        raise ConfigError(f"--model.physics: A_dagger gives images of {shape}, expected {degradation.shape}")


def check_estimate(degradation: Degradation) -> None:
    """Refuse `--data.sigma_y estimate` for an operator that makes noise of a smooth image.

    Raises:
        ConfigError: neighbouring values of its measurements have nothing in common, as in compressed sensing.
    """
    if degradation.sigma_y != "estimate":
        return
    channels, height, width = degradation.shape
    slope = torch.linspace(0.3, 0.4, height)[:, None] + torch.linspace(0, 0.1, width)
    smooth = slope.expand(channels, height, width).contiguous()
    clean = copy.copy(degradation)
    clean.noise = NoNoise()
    try:
        y, params = clean(smooth, "check", {})
        found = clean.noise_std(y, params, "estimate") / degradation.scale
    except SampleError:
        return  # samples bring their own parameters
    if found > NO_NOISE:
        operator = type(operator_of(degradation.physics)).__name__
        raise ConfigError(
            f"--data.sigma_y: estimate: measurements of {operator} look like noise themselves (a smooth "
            f"image without any: {found:.2f}); give the level as a number"
        )
