"""Tiny random models for the files in configs/priors that name none."""

from __future__ import annotations

from pathlib import Path

from networks import tiny_unet
from safetensors.torch import save_file

from reddiff_pl.priors import FFDNet

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


def options(name: str, folder: Path) -> list[str]:
    """The options that a file of configs/priors needs.

    Args:
        name: of the file.
        folder: where to put the model.
    """
    if name == "flow":
        tiny_unet(folder, scheduler=FLOW)
        return [f"--model.prior.init_args.path={folder}"]
    if name == "denoiser":
        folder.mkdir()
        save_file(FFDNet().state_dict(), folder / "ffdnet.safetensors")
        return [f"--model.prior.init_args.weights={folder / 'ffdnet.safetensors'}"]
    if name == "pipeline":
        from pipelines import pipeline  # transformers

        options = {"path": pipeline(folder, "sd"), "size": 16}
        return [f"--model.prior.init_args.{key}={value}" for key, value in options.items()]
    return []
