"""The error of a prior's eps by timestep and precision, as `reddiff prior measure` leaves it in the prior's folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reddiff_pl.errors import ConfigError
from reddiff_pl.files import write_atomically

NAME = "eps_error.json"
BOUND = 0.002  # how much worse than in float32 eps may be, as a share of its mean squared error


@dataclass(frozen=True)
class EpsError:
    """Means of (eps - z)^2 over photos and pixels, at x_t = alpha_t x0 + sigma_t z.

    Attributes:
        timesteps: t, rising.
        errors: by precision ("32", "bf16", "fp8": bf16 with most convolutions in 8 bits), one number a timestep.
        photos: how many photos they were measured on.
        draws: of z for each photo and timestep.
        device: where.
    """

    timesteps: Sequence[int]
    errors: Mapping[str, Sequence[float]]
    photos: int
    draws: int
    device: str

    def good_range(self, precision: str, bound: float = BOUND) -> tuple[int, int] | None:
        """First and last t of the longest run of measured levels at which a precision is within the bound of float32.

        A range, not all up to some t: rounding shows where an error is small, at large t, and where what is left of
        the noise is hardly more than the roundings of the image, at the smallest.
        """
        if precision not in self.errors or "32" not in self.errors:
            return None
        longest: list[int] = []
        run: list[int] = []
        for t, value, exact in zip(self.timesteps, self.errors[precision], self.errors["32"], strict=True):
            run = [*run, t] if value <= (1 + bound) * exact else []
            longest = max(longest, run, key=len)
        return (longest[0], longest[-1]) if longest else None


def write(folder: Path, table: EpsError) -> None:
    """Leave the table in the folder.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(folder / NAME, (json.dumps(asdict(table), indent=1) + "\n").encode())


def read(folder: Path) -> EpsError | None:
    """The folder's table; None where there is none.

    Raises:
        ConfigError: it is not one.
    """
    path = folder / NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return _parsed(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"{path}: not a table of errors ({reason}); delete it, or run `reddiff prior measure {folder}` again"
        ) from error


def _parsed(content: Any) -> EpsError:
    """
    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is something else.
    """
    timesteps = [int(t) for t in content["timesteps"]]
    errors = {str(name): [float(value) for value in values] for name, values in content["errors"].items()}
    if timesteps != sorted(set(timesteps)) or any(
        len(values) != len(timesteps) for values in errors.values()
    ):
        raise ValueError("its timesteps must rise, with one number of each precision for each")
    if not all(math.isfinite(value) and value >= 0 for values in errors.values() for value in values):
        raise ValueError("errors are finite and not negative")
    return EpsError(
        timesteps, errors, int(content["photos"]), int(content["draws"]), str(content["device"])[:100]
    )
