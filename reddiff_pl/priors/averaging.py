"""`reddiff prior average`: the mean of several trainings' weights becomes a prior of its own.

Networks that were trained on from the same weights, with other seeds, data or options, mostly lie in one basin: the
mean of their weights then has a lower held-out error than each of them, and costs no more to use.

References:
    Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time
    | https://arxiv.org/abs/2203.05482
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reddiff_pl.errors import ConfigError

WEIGHTS = "diffusion_pytorch_model.safetensors"


def average_priors(folders: list[str], out: str) -> str:
    """Write the folder; returns a line that says what it is.

    The mean is taken in float64 and written in each tensor's own type in the first folder, whose config.json and
    scheduler_config.json are copied.

    Args:
        folders: diffusers folders with config.json and diffusion_pytorch_model.safetensors, two or more.
        out: the folder to make; must not hold anything yet.

    Raises:
        ConfigError: they differ in architecture or schedule, or are not there; or `out` cannot be made.
    """
    from reddiff_pl.files import write_atomically

    if len(folders) < 2:
        raise ConfigError("name two folders or more; a mean of one is that one")
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"--out: {target} is there already and not an empty folder")
    first = Path(folders[0])
    for folder in map(Path, folders[1:]):
        _check_same(first, folder)
    content = _mean([_weights(Path(folder)) for folder in folders], folders)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "scheduler_config.json"):
            if (first / name).is_file():
                write_atomically(target / name, (first / name).read_bytes())
        write_atomically(target / WEIGHTS, content)
    except OSError as error:
        raise ConfigError(f"--out: cannot write {target}: {error.strerror}") from error
    return f"the mean of {len(folders)} priors -> {target}; use it with --model.prior.init_args.path {target}"


def _check_same(first: Path, other: Path) -> None:
    """Architecture and schedule; what does not change a network's numbers may differ."""
    from reddiff_pl.priors.loading import find_folder, read_json

    for folder in (first, other):
        if not (find_folder(str(folder), False, "prior average") / "config.json").is_file():
            raise ConfigError(f"{folder} has no config.json; it is not a diffusers folder")
    for name in ("config.json", "scheduler_config.json"):
        mine, theirs = (
            read_json(folder / name, "prior average") if (folder / name).is_file() else {}
            for folder in (first, other)
        )
        keys = (mine.keys() | theirs.keys()) - {"dropout", "_diffusers_version", "_name_or_path"}
        for key in sorted(keys):
            if mine.get(key) != theirs.get(key):
                raise ConfigError(
                    f"{other} is another network than {first}: {key} of {name} is {theirs.get(key)}, "
                    f"not {mine.get(key)}"
                )


def _weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS)
    except Exception as error:  # whatever a missing or damaged file raises
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{folder}: cannot read {WEIGHTS} ({reason})") from error


def _mean(weights: list[dict[str, Any]], folders: list[str]) -> bytes:
    import torch
    from safetensors.torch import save

    shapes = [{name: tuple(tensor.shape) for name, tensor in one.items()} for one in weights]
    for folder, shape in zip(folders, shapes, strict=True):
        if shape != shapes[0]:
            name = next(
                n for n in sorted(shape.keys() | shapes[0].keys()) if shape.get(n) != shapes[0].get(n)
            )
            raise ConfigError(
                f"{folder} is another network than {folders[0]}: {name} is {shape.get(name)}, "
                f"not {shapes[0].get(name)}"
            )
    mean = {}
    for name, tensor in weights[0].items():
        total = torch.stack([one[name].double() for one in weights]).mean(0)
        mean[name] = total.to(tensor.dtype).contiguous()
        if not mean[name].isfinite().all():
            raise ConfigError(f"{name}: the mean is not finite; one of the priors is damaged")
    return save(mean, {"format": "pt"})
