"""Lightning's own options, gone through once: those that would break what this package promises are refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from reddiff_pl.errors import ConfigError

_TRAINING = "it is for training; see reddiff fit"
_PREVIEW = "use --limit N for the first N samples"
_TASKS = "tasks share no process group: --trainer.devices N on one host, reddiff submit on several"

REFUSED = {
    "inference_mode": "must be false; the sampler needs gradients of the operator",
    "precision": "leave it at 32; the network's is --model.prior.init_args.precision",
    "fast_dev_run": _PREVIEW,
    "limit_predict_batches": _PREVIEW,
    "overfit_batches": _PREVIEW,
    "max_time": "use the time limit of the job: on USR1 or TERM a task keeps what it has and ends, see slurm/README.md",
    "num_nodes": _TASKS,
    "strategy": _TASKS,
    "use_distributed_sampler": _TASKS,
    "sync_batchnorm": _TASKS,
    "plugins": "each task is a process of its own, and brings what it needs",
    "logger": "what happens is in OUT/logs, metrics by reddiff evaluate and report",
    "enable_checkpointing": "what is finished is in OUT; run the same command again to go on",
    "enable_progress_bar": "images/s and the time left are shown anyway",
    "callbacks": "one could end or change a run in ways that its accounts do not know",
    "barebones": "it takes away the callbacks that write",
    "detect_anomaly": "one image that diverges would end the run; now it fails alone, with the step",
    "benchmark": "results would depend on which kernel was faster; --model.prior.init_args.compile is the way",
    **dict.fromkeys(
        (
            *(
                "max_epochs",
                "min_epochs",
                "max_steps",
                "min_steps",
                "limit_train_batches",
                "limit_val_batches",
            ),
            *("limit_test_batches", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps"),
            *("log_every_n_steps", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
            *("reload_dataloaders_every_n_epochs", "enable_autolog_hparams", "model_registry"),
        ),
        _TRAINING,
    ),
}
FREE = (
    "accelerator",
    "devices",
    "deterministic",
    "profiler",
    "default_root_dir",
    "enable_model_summary",
)
_AS_GOOD = {"precision": ("32", 32, "32-true"), "num_nodes": (1,)}


def check_trainer(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """
    Args:
        given: --trainer.
        defaults: what restoring sets itself.

    Raises:
        ConfigError: an option that does not go with restoring, and what does it.
    """
    parameters = inspect.signature(Trainer).parameters
    for name, what in REFUSED.items():
        usual = defaults.get(name, parameters[name].default) if name in parameters else None
        value = given.get(name, usual)
        if value is not None and value != usual and value not in _AS_GOOD.get(name, ()):
            raise ConfigError(f"--trainer.{name}: {what}")
