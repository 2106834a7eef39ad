"""What a run reads, and the line that says what it was taken for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.physics.binding import configured_parameters, operator_of, parameter_names
from reddiff_pl.physics.compose import Compose
from reddiff_pl.physics.degrade import Degradation
from reddiff_pl.shards import decode
from reddiff_pl.shards.folder import Folder, Kind, not_looked_at
from reddiff_pl.shards.given import GivenParameters
from reddiff_pl.shards.parameters import given_parameters
from reddiff_pl.shards.plan import find_folder, folder_shards, plan

log = logging.getLogger(__name__)


class Inputs:
    """Shards, or a folder of clean images or of measurements.

    Args:
        shards, images, measured, params, out: as `plan` takes them.
        degradation: the operator and what it needs.
        max_pixels, invert_mask: as `prepare` takes them.

    Attributes:
        all: the shards.
        folder: what lies in the folder; None for tars.
        kind: what a folder is taken for.
        given: the parameters that lie apart.
        said: what was told once of those that are one file for all.
        operator: the operator's name.

    Raises:
        ConfigError: the inputs are not there, are of another kind, or lack what the operator needs.
    """

    def __init__(
        self,
        shards: str | Sequence[str] | None,
        images: str | None,
        measured: str | None,
        params: Mapping[str, str] | None,
        out: str | Path | None,
        degradation: Degradation,
        max_pixels: int = decode.MAX_PIXELS,
        invert_mask: bool = False,
    ) -> None:
        physics = degradation.physics
        self.kind: Kind = "images" if measured is None else "measured"
        self.folder: Folder | None = None
        self.operator = type(operator_of(physics)).__name__
        self._names = parameter_names(physics)
        self._with: dict[str, int] = {}
        self.given = GivenParameters(params, self._names, self.operator)
        self.said: set[str] = set()
        for name, file in self.given.files.items():
            notes: list[str] = []
            try:
                member: dict[str, bytes | Path] = {f"{name}{file.suffix.lower()}": file}
                given_parameters(member, degradation, max_pixels, invert_mask, notes)
            except SampleError as error:
                raise ConfigError(f"--data.params.{name}: {error}") from error
            for note in notes:
                log.warning("--data.params.%s: %s", name, note)
            self.said |= set(notes)
        path = images if measured is None else measured
        if path is None or shards is not None or (images is not None and measured is not None):
            self.all = plan(shards, images, measured, params, out)
            return
        self.folder = find_folder(self.kind, path, params, out)
        self.all = folder_shards(self.folder, self.kind, out)
        if self.kind == "measured":
            self._count(required_parameters(degradation))

    def _count(self, required: Sequence[str]) -> None:
        """How many measurements have each parameter that they need."""
        assert self.folder is not None
        images = [image for image in self.folder.images if image.error is None]
        for name in required:
            self._with[name] = sum(
                any(member.startswith(f"{name}.") for member in image.members)
                or self.given.of(name, image.file) is not None
                for image in images
            )
            if images and not self._with[name]:
                raise ConfigError(
                    f"--data.measured: {self.operator} needs a {name}, and none of the {len(images):,} measurements in "
                    f"{self.folder.path} has one; put NAME.{name}.png beside NAME.jpg, or give --data.params.{name} "
                    "FOLDER or FILE (clean images, to be degraded, come as --data.images)"
                )

    def line(self, todo: str) -> str | None:
        """What a folder was taken for, in one line; None for tars.

        Args:
            todo: what is done to clean images, such as `cropped to 64x64, degraded by Inpainting, restored`.
        """
        if self.folder is None:
            return None
        count = sum(image.error is None for image in self.folder.images)
        bad = len(self.folder.images) - count
        rest = f"; {bad:,} cannot be read" if bad else ""
        if self.kind == "images":
            return f"{self.folder.path}: {count:,} photo{_s(count)} taken as clean: {todo}{rest}"
        parts = [f"{count:,} measurement{_s(count)} of {self.operator}"]
        for name, there in self._with.items():
            missing = count - there
            parts.append(f"{name}s for all" if not missing else f"{name}s for all but {missing:,}")
        if references := sum(any(m.startswith("x.") for m in image.members) for image in self.folder.images):
            parts.append("references for all" if references == count else f"references for {references:,}")
        return f"{self.folder.path}: {', '.join(parts)}{rest}"

    def not_looked_at(self) -> str | None:
        """What lies in the folder and is neither image nor of one; None where there is nothing of the kind."""
        if self.folder is None:
            return None
        unknown = self.folder.skipped + self.given.unused([image.file for image in self.folder.images])
        known = {*self._names, "x", "y"}
        for image in self.folder.images:
            for member in image.members:
                word, dot, _ = member.rpartition(".")
                if dot and word not in known:
                    unknown[f".{member} ({self.operator} has no {word})"] += 1
        return not_looked_at(unknown)


def required_parameters(degradation: Degradation) -> list[str]:
    """The parameters that every measurement must bring: neither configured nor told by the file itself."""
    physics = degradation.physics
    operator = operator_of(physics)
    if hasattr(operator.parts[-1] if isinstance(operator, Compose) else operator, "parameters_of_file"):
        return []  # whether a file tells them is known when it is read
    try:
        drawn = set(degradation.parameters("check", {})) - set(configured_parameters(physics))
    except SampleError:
        drawn = set()  # the operator draws none, so that they must come
    configured = configured_parameters(physics)
    return [name for name in parameter_names(physics) if name in drawn or name not in configured]


def _s(count: int) -> str:
    return "" if count == 1 else "s"
