"""What a validation leaves: a line of the log, the prior, a picture of samples."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reddiff_pl.files import write_atomically
from reddiff_pl.priors.prediction import eps_from, flow_time, levels
from reddiff_pl.shards import encode
from reddiff_pl.training import files, heldout

if TYPE_CHECKING:
    from reddiff_pl.training.module import PriorTraining

log = logging.getLogger(__name__)


def validate(training: PriorTraining) -> None:
    """Evaluate every average, leave the prior, a picture and a line of the log."""
    training.synchronize()
    done, since = training.interval
    seconds = time.monotonic() - since
    images = (training.step - done) * training.batch_size * training.trainer.world_size
    speed = round(images / seconds, 1) if images else None
    training.network.eval()
    losses = [
        heldout.eps_mse(
            _eps(training, i), training.heldout, training.abar, training.validate_t, training.seed
        )
        if len(training.heldout)
        else {}
        for i in range(len(training.ema_decays))
    ]
    scores = [heldout.score(loss) if loss else math.nan for loss in losses]
    pick = 0
    if training.export == "best" and len(training.heldout):
        pick = min(range(len(scores)), key=lambda i: scores[i] if math.isfinite(scores[i]) else math.inf)
    better = math.isfinite(scores[pick]) and scores[pick] < training.best
    exported = training.step > 0 and (training.export == "last" or not len(training.heldout) or better)
    if exported:
        files.write_prior(
            training.files.prior, training.network.config, training.averages.weights(pick), training.schedule
        )
        if better:
            training.best = scores[pick]
    if training.sample_images and training.step:
        shape = (training.sample_images, *training.shape)
        pictures = heldout.samples(
            _eps(training, pick), shape, training.abar, training.sample_steps, training.seed
        )
        training.files.grid(training.step).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(training.files.grid(training.step), encode.png(heldout.grid(pictures)))
    training.network.train()
    record = {
        "step": training.step,
        "images": training.step * training.batch_size * training.trainer.world_size,
        "minutes": round(training.budget.minutes, 3),
        "lr": training.lr * training.budget.factor(training.step),
        "train_loss": _rounded((training.loss_sum / training.loss_steps).item())
        if training.loss_steps
        else None,
        "skipped_steps": int(training.skipped.item()),
        "images_per_s": speed,
        "eps_mse": {str(d): _rounded(loss) for d, loss in zip(training.ema_decays, losses, strict=True)},
        "score": {str(d): _rounded(s) for d, s in zip(training.ema_decays, scores, strict=True)},
        "exported": training.ema_decays[pick] if exported else None,
    }
    files.append(training.files.log, record)
    line = " ".join(f"{t}:{loss:.4g}" for t, loss in losses[pick].items())
    log.info(
        "step %d, %.1f min, %s images/s, loss %s; held-out eps-MSE %s%s",
        *(
            training.step,
            training.budget.minutes,
            speed,
            record["train_loss"],
            line,
            "; exported" if exported else "",
        ),
    )
    training.loss_sum.zero_()
    training.loss_steps = 0
    training.interval = (training.step, time.monotonic())


def _eps(training: PriorTraining, i: int) -> heldout.Eps:
    weights = training.averages.weights(i)

    def network(x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # as it will be used
            return torch.func.functional_call(training.network, weights, (x, t), {"return_dict": False})[0]

    return network if training.objective == "epsilon" else noise_of(network, training.abar)


def noise_of(network: heldout.Eps, abar: Tensor) -> heldout.Eps:
    """The eps of a flow's network.

    Args:
        network: velocity(x (B, C, H, W), T t (B,)).
        abar: of the timesteps that eps is asked at, (T,).
    """

    def eps(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = levels(abar[t], x_t)
        velocity = network(x_t / (alpha + sigma), len(abar) * flow_time(abar[t]).float())
        return eps_from(velocity, x_t, abar[t], "flow")

    return eps


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _rounded(v) for k, v in value.items()}
    return float(f"{value:.5g}") if math.isfinite(value) else None
