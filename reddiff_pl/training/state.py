"""The state of a training, from one run to the next."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from reddiff_pl.errors import ConfigError
from reddiff_pl.training import files
from reddiff_pl.training.networks import architecture

if TYPE_CHECKING:
    from reddiff_pl.training.module import PriorTraining

log = logging.getLogger(__name__)


def save(training: PriorTraining) -> None:
    """Leave the state that a later run goes on from."""
    state = {
        "network": json.dumps(architecture(training.network.config), sort_keys=True),
        "step": training.step,
        "minutes": training.budget.minutes,
        "begun": training.budget.begun,
        "best": training.best,
        "ema_decays": training.ema_decays,
        "objective": training.objective,
        "loss_sum": training.loss_sum,
        "loss_steps": training.loss_steps,
        "skipped": training.skipped,
        "weights": training.network.state_dict(),
        "averages": training.averages.state_dict(),
        "adam": training.adam.state_dict(),
    }
    files.write_state(training.files.state, state)


def load(training: PriorTraining, state: dict[str, Any]) -> None:
    """Go on from a state.

    Raises:
        ConfigError: it is not one, or another training's.
    """
    where = f"--out: {training.files.out} holds a training of another"
    try:
        if state["network"] != json.dumps(architecture(training.network.config), sort_keys=True):
            raise ConfigError(f"{where} network; choose another --out")
        if state.get("objective", "epsilon") != training.objective:
            raise ConfigError(f"{where} objective; choose another --out")
        if state["ema_decays"] != training.ema_decays:
            raise ConfigError(f"{where} ema_decays: {state['ema_decays']}; choose another --out")
        training.network.load_state_dict(state["weights"])
        training.averages.load_state_dict(state["averages"])
        training.adam.load_state_dict(state["adam"])
        training.step, training.earlier, training.budget.begun = (
            state["step"],
            state["minutes"],
            state["begun"],
        )
        training.best = state["best"]
        training.loss_sum, training.loss_steps = state["loss_sum"], state["loss_steps"]
        training.skipped = state["skipped"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, ConfigError):
            raise
        # another version's, or not ours
        raise ConfigError(
            f"--out: {training.files.state} is not a training's state ({type(error).__name__}); "
            "delete it to start anew"
        ) from error
    if training.trainer.is_global_zero:
        files.forget_after(training.files.log, training.step)
    log.info("going on at step %d, after %.1f minutes", training.step, training.earlier)
