"""Restoring from Python: the configurations, rules and numbers of `reddiff restore`, for pictures in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jsonargparse import ActionConfigFile, ArgumentParser
from PIL import Image
from torch import Tensor

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.logs import quiet_libraries
from reddiff_pl.options.shipped import shipped
from reddiff_pl.physics import Degradation, NoNoise
from reddiff_pl.physics.binding import binary_parameters
from reddiff_pl.restoring.batch import collate
from reddiff_pl.restoring.restoration import Restoration
from reddiff_pl.restoring.restored import Restored
from reddiff_pl.restoring.written import files, unit
from reddiff_pl.shards import encode
from reddiff_pl.shards.plan import Shard
from reddiff_pl.shards.reader import RawSample
from reddiff_pl.shards.samples import Sample, prepare

Picture: TypeAlias = "Image.Image | np.ndarray | Tensor | str | Path"
"""A measurement: a PIL image; an array (H, W) or (H, W, C); a tensor (C, H, W); or a file's path.

Whole numbers are 8 or 16 bits deep (uint8, uint16), floats are in [0, 1]; what is complex is in the operator's own
range.
"""


@dataclass
class Result:
    """One restored picture.

    Attributes:
        picture: of the kind that came in; of a path a PIL image.
        metrics: misfit, the root mean square of y - A(x) on the [0, 1] scale.
        std: standard deviation of each pixel over several restorations on the [0, 1] scale, float32 (C, H, W), where
            `num_samples` is more than one.
    """

    picture: Any
    metrics: dict[str, float | None] = field(default_factory=dict)
    std: Tensor | None = None


class Restorer:
    """Keeps a prior and an operator loaded, and restores pictures of any size.

    Examples:
        >>> import numpy as np
        >>> from reddiff_pl import Restorer
        >>> restorer = Restorer("inpainting_given", evaluations=4)
        >>> photo, mask = np.full((48, 40, 3), 128, np.uint8), np.ones((48, 40), bool)
        >>> mask[10:20, 10:20] = False  # to be filled in
        >>> restorer(photo, mask=mask).shape
        (48, 40, 3)

    Args:
        task: a task that ships with the package, by name (`reddiff configs` lists them: jpeg, inpainting_given,
            superresolution_4x, ...), or the path of a YAML file with the operator.
        prior: a prior's configuration, by name or path. Default: the bundled prior.
        sampler: a sampler's configuration, by name or path. Default: the task's own settings.
        evaluations: forward passes of the network an image. Default: as the sampler's options say.
        perception: the dial between faithful, 0, and sharp, 1. Default: as the sampler's options say.
        device: where to compute. Default: a GPU if there is one.
        seed: of all noise.
        sigma_y: noise level of the measurements on the [0, 1] scale; "estimate" finds it from each. Default: the
            task's, and at least what the measurement's depth has rounded away.
        num_samples: restorations of each picture, with independent noise; their mean is returned.
        options: any other option of `reddiff restore` that starts with model, such as
            {"model.sampler.init_args.lam": 1e-3}.

    Raises:
        ConfigError: an option does not fit; the line names it.
    """

    def __init__(
        self,
        task: str,
        prior: str | None = None,
        sampler: str | None = None,
        evaluations: int | None = None,
        perception: float | None = None,
        device: str | torch.device | None = None,
        seed: int = 0,
        sigma_y: float | str | None = None,
        num_samples: int = 1,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        quiet_libraries()
        named = [("tasks", task), ("priors", prior), ("samplers", sampler)]
        argv = [f"--config={_configuration(kind, name)}" for kind, name in named if name is not None]
        settings = {"model.seed": seed, "model.num_samples": num_samples, **(options or {})}
        if evaluations is not None:
            settings["model.evaluations"] = evaluations
        if perception is not None:
            settings["model.sampler.init_args.perception"] = perception
        argv += [f"--{name}={value}" for name, value in settings.items()]
        config, made = _parsed(argv)
        self.model: Restoration = made.model
        if self.model.physics is None:
            raise ConfigError(f"task: {task} names no operator")
        assumed = config.get("data.sigma_y") if sigma_y is None else sigma_y
        self.degradation = Degradation(
            self.model.physics, self.model.noise or NoNoise(), self.model.prior.shape, seed, assumed
        )
        self.model.check(self.model.prior.shape)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model.to(self.device).eval()

    def __call__(self, pictures: Any, keys: Sequence[str] | None = None, **parameters: Any) -> Any:
        """Restore one picture, a list of them, or a tensor (B, C, H, W); returns the same kind.

        Args:
            pictures: measurements, see `Picture`.
            keys: names, which seed each picture's noise. Default: 0, 1, ...
            parameters: the operator's, named as its own: mask, kernel, tables, ... One for all pictures, or a list with
                one for each. Masks are 1 (or white) where a pixel is kept.

        Raises:
            SampleError: a picture or its parameters do not fit; says which.
        """
        several = isinstance(pictures, (list, tuple)) or (
            isinstance(pictures, Tensor) and pictures.ndim == 4 and not pictures.is_complex()
        )
        results = self.results(list(pictures) if several else [pictures], keys, **parameters)
        found = [result.picture for result in results]
        if isinstance(pictures, Tensor) and several:
            return torch.stack(found)
        return found if several else found[0]

    def results(
        self, pictures: Sequence[Picture], keys: Sequence[str] | None = None, **parameters: Any
    ) -> list[Result]:
        """Restore a list of pictures together; arguments and errors as of a call."""
        keys = [str(i) for i in range(len(pictures))] if keys is None else list(keys)
        if len(keys) != len(pictures) or len(set(keys)) < len(keys):
            raise SampleError(f"keys: {len(set(keys))} different ones for {len(pictures)} pictures")
        samples: list[Sample] = []
        for i, (key, picture) in enumerate(zip(keys, pictures, strict=True)):
            own = {
                name: value[i] if isinstance(value, (list, tuple)) else value
                for name, value in parameters.items()
            }
            try:
                samples.append(prepare(RawSample(i, key, self._members(picture, own)), self.degradation))
            except SampleError as error:
                raise SampleError(f"picture {key}: {error}") from error
        batch = collate(Shard("python", ""), None, list(samples), max(len(samples), 1)).to(self.device)
        restored = self.model.predict_step(batch, 0)
        if restored is None:
            return []
        return [self._result(restored, i, sample, pictures[i]) for i, sample in enumerate(samples)]

    def _members(self, picture: Picture, parameters: Mapping[str, Any]) -> dict[str, bytes | Path]:
        """The files that a sample with this picture would have."""
        members: dict[str, bytes | Path] = {}
        if isinstance(picture, (str, Path)):
            members[f"y.{Path(picture).suffix[1:].lower()}"] = Path(picture)
        elif isinstance(picture, Image.Image):
            members["y.png" if picture.mode not in ("CMYK", "F", "LAB", "YCbCr") else "y.tiff"] = _file(
                picture
            )
        else:
            values = _channels_first(picture)
            if values.dtype in (torch.uint8, torch.uint16):
                members["y.png"] = encode.png(values)
            else:
                scale = 1.0 if values.is_complex() else self.degradation.scale
                members["y.npy"] = encode.npy(scale * values - (scale - 1))
        binary = binary_parameters(self.degradation.physics)
        for name, value in parameters.items():
            if isinstance(value, Image.Image):
                members[f"{name}.png"] = _file(value)
            elif name in binary:
                mask = _channels_first(value)
                members[f"{name}.npy"] = encode.npy((mask > mask.max() / 2).float())
            else:
                members[f"{name}.npy"] = encode.npy(torch.as_tensor(value).float())
        return members

    def _result(self, restored: Restored, i: int, sample: Sample, picture: Picture) -> Result:
        try:
            restored.check(i)
        except SampleError as error:
            raise SampleError(f"picture {sample.key}: {error}") from error
        image, form = restored.images(i)[""], restored.forms[i]
        std = restored.extras(i).get("std.npy")
        if isinstance(picture, (np.ndarray, Tensor)):
            shown: Any = _as_came(image[:1] if form.grey else image, picture)
        else:
            [(name, content), *_] = files("", image, form, sample.source)
            shown = Image.fromarray(_last(image)) if name.endswith("npy") else Image.open(io.BytesIO(content))
        return Result(shown, restored.metrics(i), None if std is None else std.float())


def restore(picture: Any, task: str, **arguments: Any) -> Any:
    """Restore a picture, or a list of them, once; to restore more keep a `Restorer`.

    Examples:
        >>> import numpy as np, reddiff_pl
        >>> reddiff_pl.restore(np.zeros((16, 24), np.uint8), task="superresolution_4x", evaluations=2).shape
        (64, 96)

    Args:
        picture: as `Restorer` takes it.
        task: a task's name or file.
        arguments: those of `Restorer`, and the operator's parameters (mask=..., kernel=...).

    Raises:
        ConfigError: an option does not fit.
        SampleError: a picture does not.
    """
    names = (
        *("prior", "sampler", "evaluations", "perception"),
        *("device", "seed", "sigma_y", "num_samples", "options"),
    )
    own = {name: arguments.pop(name) for name in names if name in arguments}
    return Restorer(task, **own)(picture, **arguments)


def _configuration(kind: str, name: str) -> str:
    """The file of a configuration: a path, or one that ships."""
    return name if name.endswith((".yaml", ".yml")) else shipped(f"{kind}/{name}.yaml")


def _parsed(argv: list[str]) -> tuple[Any, Any]:
    """The options, and the objects they make."""
    defaults = [shipped("priors/bundled.yaml"), shipped("samplers/reddiff.yaml")]
    parser = ArgumentParser(exit_on_error=False, default_config_files=defaults, default_env=False)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_class_arguments(Restoration, "model")
    parser.add_argument("--data.sigma_y", type=float | str | None)
    try:
        config = parser.parse_args(argv)
        return config, parser.instantiate_classes(config)
    except ConfigError:
        raise
    except Exception as error:  # the parser's own, and whatever a constructor raises
        raise ConfigError(" ".join(str(error).split())) from error


def _file(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    kept = {
        name: picture.info[name] for name in ("icc_profile", "exif", "transparency") if name in picture.info
    }
    kind = "TIFF" if picture.mode in ("CMYK", "F", "LAB", "YCbCr") else "PNG"
    picture.save(out, kind, **kept)
    return out.getvalue()


def _channels_first(value: Any) -> Tensor:
    """(C, H, W) of an array (H, W) or (H, W, C), or of a tensor (H, W) or (C, H, W)."""
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        tensor = torch.from_numpy(array)
        tensor = tensor.permute(2, 0, 1) if array.ndim == 3 else tensor
    else:
        tensor = torch.as_tensor(value).detach().cpu()
    if tensor.dtype == torch.bool:
        tensor = tensor.float()
    return tensor[None] if tensor.ndim == 2 else tensor


def _as_came(image: Tensor, picture: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """A restored image (C, H, W) in the layout and the type of what came in."""
    kind = torch.from_numpy(picture[:0]).dtype if isinstance(picture, np.ndarray) else picture.dtype
    if kind == torch.uint8:
        image = image if image.dtype == torch.uint8 else (unit(image) * 255).round().to(torch.uint8)
    elif kind == torch.uint16:
        image = (unit(image) * 65535).round().to(torch.int32).to(torch.uint16)
    else:
        image = unit(image)
        image = image if kind.is_complex else image.to(kind)
    if isinstance(picture, Tensor):
        return image.to(picture.device)
    array = image.numpy()
    return array[0] if picture.ndim == 2 and len(array) == 1 else np.moveaxis(array, 0, -1)


def _last(image: Tensor) -> np.ndarray:
    array = (unit(image)[:3].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return array[0] if len(array) != 3 else np.moveaxis(array, 0, -1)
