"""What a training leaves in OUT: the prior's folder, the state to go on from, the log. Each file whole or not there."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.files import write_atomically
from reddiff_pl.priors import eps_error


@dataclass(frozen=True)
class Training:
    """All paths of a training.

    Attributes:
        out: the output directory.
    """

    out: Path

    @property
    def prior(self) -> Path:
        """The diffusers folder."""
        return self.out / "prior"

    @property
    def state(self) -> Path:
        """What the same command goes on from."""
        return self.out / "state.pt"

    @property
    def log(self) -> Path:
        """JSON lines, one a validation."""
        return self.out / "log.jsonl"

    def text(self, rank: int) -> Path:
        """What a process says."""
        return self.out / "logs" / f"fit-{rank:05d}.log"

    def grid(self, step: int) -> Path:
        """Samples at a step."""
        return self.out / "samples" / f"step-{step:07d}.png"


def schedule(
    objective: str, T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
) -> dict[str, Any]:
    """The scheduler_config.json of a network.

    Args:
        objective: "epsilon" or "flow".
        T: number of timesteps; of a flow, what the network is told at time 1.
        beta_start, beta_end: of the linear schedule; a flow has none.
    """
    if objective == "flow":
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": T, "shift": 1.0}
    return {
        "_class_name": "DDPMScheduler",
        "beta_schedule": "linear",
        "prediction_type": "epsilon",
        "clip_sample": False,
        "num_train_timesteps": T,
        "beta_start": beta_start,
        "beta_end": beta_end,
    }


def write_prior(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], schedule: Mapping[str, Any]
) -> None:
    """Write a folder that `reddiff_pl.priors.UNet` or `Flow`, and diffusers' `UNet2DModel.from_pretrained`, read.

    Float16 safetensors. The configuration does not change during a training and the weights are replaced by one
    rename, so the folder is usable at any moment.

    Args:
        folder: where to.
        config: the network's.
        weights: its state_dict.
        schedule: its scheduler_config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {"_class_name": "UNet2DModel"} | {k: v for k, v in config.items() if not k.startswith("_")}
    content["dropout"] = 0.0  # of the training alone
    content["num_train_timesteps"] = schedule["num_train_timesteps"]
    for name, value in {"config.json": content, "scheduler_config.json": schedule}.items():
        write_atomically(folder / name, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())
    half = {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in weights.items()}
    (folder / eps_error.NAME).unlink(missing_ok=True)  # of other weights
    write_atomically(folder / "diffusion_pytorch_model.safetensors", save(half, {"format": "pt"}))


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Tensors, numbers, strings, lists and dicts: what is read again with weights_only."""
    out = io.BytesIO()
    torch.save(dict(state), out)
    write_atomically(path, out.getvalue())


def read_state(path: Path, device: torch.device) -> dict[str, Any] | None:
    """A state written by `write_state`; None where there is none.

    Raises:
        ConfigError: the file is not one.
    """
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # whatever a damaged file raises
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"--out: {path} is not a training's state ({reason}); delete it to start anew"
        ) from error


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line to the log."""
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def forget_after(path: Path, step: int) -> None:
    """Drop the log's lines of later steps: they are about to be done again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # cut off by a crash
    write_atomically(path, "".join(kept).encode())
