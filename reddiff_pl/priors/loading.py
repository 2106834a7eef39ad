"""Networks from diffusers folders: safetensors only, and one line that says what to do where one is not there."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.checkpoints import (
    KNOWN_CHECKPOINTS,
    check_finite,
    kind_of,
    read_checkpoint,
    refuse_quantised,
)

log = logging.getLogger(__name__)

# weights and settings of an unconditional pipeline, nothing else of a repository
_WANTED = [
    f"{folder}{name}"
    for folder in ("", "unet/", "transformer/", "scheduler/", "vae/", "vqvae/")
    for name in ("config.json", "scheduler_config.json", "diffusion_pytorch_model*.safetensors*")
]


def find_folder(path: str, hub: bool, option: str = "model.prior.init_args.path") -> Path:
    """The local folder of a model: `path` itself, or the hub's model of that id, downloaded.

    Raises:
        ConfigError: there is none; says what to download and where to put it.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ConfigError(
            f"{option}: {path} is a file, not a diffusers folder; turn a checkpoint of the OpenAI ADM family into one "
            f"with `reddiff prior import {path} --out FOLDER`, and give that folder"
        )
    if not hub:
        raise ConfigError(f"{option}: no folder {path}; {_advice(path)}")
    from huggingface_hub import snapshot_download

    try:
        # fp16 and non-EMA copies would be downloaded beside the weights that are read
        ignored = ["*.fp16.*", "*.non_ema.*"]
        return Path(snapshot_download(path, allow_patterns=_WANTED, ignore_patterns=ignored))
    except Exception as error:  # no network, no such id, no right to it: each has its own type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{option}: cannot download {path} ({reason[:200]}); without a network, run `hf download {path} "
            "--local-dir FOLDER` on a machine that has one, copy FOLDER here, and give its path without hub"
        ) from error


def _advice(path: str) -> str:
    name = Path(path).name
    stem = name if name.endswith(".pt") else f"{name}.pt"
    if stem in KNOWN_CHECKPOINTS:
        return (
            f"download {stem} from {KNOWN_CHECKPOINTS[stem]}, run `reddiff prior import {stem} --out FOLDER`, and "
            "give that folder"
        )
    if path.count("/") == 1 and not path.startswith(("/", ".")):
        return (
            "if that is a model id on the Hugging Face hub, add hub: true to download it, or run `hf download "
            f"{path} --local-dir FOLDER` and give that folder"
        )
    return (
        "give a diffusers folder (config.json and diffusion_pytorch_model.safetensors), or a model id on the "
        "Hugging Face hub, such as google/ddpm-celebahq-256, with hub: true"
    )


def part(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of a pipeline's subfolders that is there, else the folder itself."""
    if not (folder / "config.json").is_file():
        for name in names:
            if (folder / name / "config.json").is_file():
                return folder / name
    return folder


def read_json(path: Path, option: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ConfigError: the file cannot be read as one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        kind = kind_of(path)
        reason = f"it is {kind}" if kind and not kind.startswith("a JSON") else " ".join(str(error).split())
        raise ConfigError(f"{option}: cannot read {path}: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{option}: {path} does not hold a JSON object")
    return content


def scheduler_config(folder: Path, option: str) -> dict[str, Any] | None:
    """The scheduler_config.json of a model or pipeline folder, if it has one."""
    for place in (folder, folder / "scheduler", folder.parent / "scheduler"):
        # ../scheduler is a pipeline's only where this is its network
        if (place != folder.parent / "scheduler" or folder.name in ("unet", "transformer")) and (
            place / "scheduler_config.json"
        ).is_file():
            return read_json(place / "scheduler_config.json", option)
    return None


def load_network(
    folder: Path, kinds: tuple[str, ...], option: str, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """A diffusers network in evaluation mode, without gradients for its weights.

    Args:
        folder: with config.json and safetensors; where these are there as a variant alone, such as fp16, that one.
        kinds: classes of diffusers that it may be; the first where config.json names none.
        option: the option that named the folder, for errors.
        dtype: of its weights.

    Raises:
        ConfigError: another kind of network, or files that do not make one.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{option}: {folder} has no config.json; it is not a diffusers folder")
    config = read_json(folder / "config.json", option)
    kind = config.get("_class_name", kinds[0])
    if kind not in kinds:
        needy = ("UNet2DConditionModel", "SD3Transformer2DModel", "FluxTransformer2DModel")
        text = "; with its text encoders it goes through reddiff_pl.priors.Pipeline" if kind in needy else ""
        raise ConfigError(f"{option}: {folder} is a {kind}, expected {' or '.join(kinds)}{text}")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")  # it warns when accelerate is not installed
    import diffusers  # seconds to import, so only when a network is wanted

    variant = _variant(folder, option)
    try:
        if config.get("time_proj_dim"):
            network, wrong = _with_time_proj(folder, config, variant)
        else:
            # safetensors only: no pickle is ever opened
            network, loaded = getattr(diffusers, kind).from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                variant=variant,
                low_cpu_mem_usage=False,
                torch_dtype=dtype,
                output_loading_info=True,
            )
            # it would leave a layer without weights random
            wrong = [*loaded["missing_keys"], *loaded["unexpected_keys"], *loaded["mismatched_keys"]]
    except Exception as error:  # whatever a damaged file raises
        reason = " ".join(str(error).split()) or type(error).__name__
        if found := [f"{path.name} is {kind}" for path in _weights(folder) if (kind := kind_of(path))]:
            reason = found[0]
        raise ConfigError(f"{option}: cannot load {folder}: {reason[:300]}") from error
    if wrong and _renamed(network, folder, variant, option):
        wrong = []
    if wrong:
        raise ConfigError(
            f"{option}: the weights in {folder} are not those of its config.json: {len(wrong)} tensors are missing, "
            f"superfluous or of another shape, {wrong[0]} first"
        )
    refuse_quantised(_integers(folder, variant), f"{option}: {folder}")
    check_finite(network.state_dict(), f"{option}: {folder}")
    if any(tensor.dtype != dtype for tensor in network.parameters()):
        network = network.to(dtype)
    return network.eval().requires_grad_(False)


def _renamed(network: nn.Module, folder: Path, variant: str | None, option: str) -> bool:
    """Whether the weights fit without wrappers and prefixes of their names, and were read so."""
    file = folder / ("diffusion_pytorch_model" + (f".{variant}" if variant else "") + ".safetensors")
    names = network.state_dict().keys()
    if not file.is_file():
        return False
    tensors, said = read_checkpoint(str(file), names)
    if not said or tensors.keys() != names:
        return False
    try:
        network.load_state_dict(tensors)
    except RuntimeError:  # of other shapes
        return False
    log.warning("%s: %s: %s", option, file, ", ".join(said))
    return True


def load_weights(network: nn.Module, path: str) -> None:
    """Fill a module by class_path from safetensors, or from what torch.save wrote; nothing in it is run.

    Raises:
        ConfigError: a damaged file, or other tensors than the module's.
    """
    try:
        tensors, said = read_checkpoint(path, network.state_dict().keys())
        network.load_state_dict(tensors)
    except Exception as error:  # whatever a damaged file raises
        reason = " ".join(str(error).removeprefix(f"{path}: ").split())[:300]
        raise ConfigError(f"model.prior.init_args.weights: cannot load {path}: {reason}") from error
    for line in said:
        log.warning("model.prior.init_args.weights: %s: %s", path, line)


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("diffusion_pytorch_model*.safetensors"))


def _integers(folder: Path, variant: str | None) -> list[str]:
    """Names of the tensors of whole numbers in the weights that were read, by the files' headers."""
    from safetensors import SafetensorError, safe_open

    found = []
    for path in (path for path, own in _variants(folder).items() if own == variant):
        # what cannot be opened was not read either
        with contextlib.suppress(OSError, SafetensorError), safe_open(path, "pt") as file:
            found += [name for name in file.keys() if file.get_slice(name).get_dtype()[0] in "IU"]  # noqa: SIM118
    return found


def _variants(folder: Path) -> dict[Path, str | None]:
    """A folder's weights, such as diffusion_pytorch_model.fp16-00001-of-00002.safetensors, and of which variant."""
    name = r"diffusion_pytorch_model(?:\.(?!safetensors)(\w+))?(?:-\d+-of-\d+)?\.safetensors"
    return {path: match[1] for path in _weights(folder) if (match := re.fullmatch(name, path.name))}


def _variant(folder: Path, option: str) -> str | None:
    """Which of a folder's weights are read: the plain ones, else the only variant, such as fp16.

    Raises:
        ConfigError: there are none, or none that can be opened without running code.
    """
    variants = list(_variants(folder).values())
    if None in variants:
        return None
    if variants:
        variant = next((name for name in ("fp16", "bf16", "fp32", "ema") if name in variants), variants[0])
        log.warning("%s: %s has weights in %s alone, which are taken", option, folder, variant)
        return variant
    pickled = sorted(path.name for end in ("bin", "pt", "pth", "ckpt") for path in folder.glob(f"*.{end}"))
    if pickled:
        raise ConfigError(
            f"{option}: {folder} holds its weights as a pickle alone, {pickled[0]}, which could run code; turn it into "
            f'safetensors, which opens nothing but tensors: python -c "import torch, safetensors.torch as s; '
            f"s.save_file({{k: v.clone() for k, v in torch.load('{pickled[0]}', weights_only=True).items()}}, "
            "'diffusion_pytorch_model.safetensors')\""
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    named = f", but {', '.join(others[:3])}: rename it where it holds them" if others else ""
    raise ConfigError(
        f"{option}: {folder} has no weights: no diffusion_pytorch_model.safetensors beside config.json{named}"
    )


def _with_time_proj(folder: Path, config: dict[str, Any], variant: str | None) -> tuple[nn.Module, list[str]]:
    """A UNet2DModel whose sinusoids of t are wider than its first level, which diffusers cannot say.

    ADM's 512x512 networks are such: their first level has half of the base width.
    """
    from safetensors.torch import load_file

    network = wide_unet(config)
    name = "diffusion_pytorch_model" + (f".{variant}" if variant else "")
    wrong = network.load_state_dict(load_file(folder / f"{name}.safetensors"), strict=False)
    return network, [*wrong.missing_keys, *wrong.unexpected_keys]


def wide_unet(config: dict[str, Any]) -> nn.Module:
    """A random UNet2DModel of this configuration, in which time_proj_dim may set the number of sinusoids."""
    from diffusers import UNet2DModel
    from diffusers.models.embeddings import TimestepEmbedding, Timesteps

    dim = config.get("time_proj_dim")
    settings = {key: value for key, value in config.items() if key != "time_proj_dim" and key[0] != "_"}
    network = UNet2DModel(**settings)
    if dim:
        width = network.time_embedding.linear_2.out_features
        network.time_proj = Timesteps(dim, network.config.flip_sin_to_cos, network.config.freq_shift)
        network.time_embedding = TimestepEmbedding(dim, width)
    return network


def full_precision() -> None:
    """float32 is float32: no TF32 in matrix products and convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
