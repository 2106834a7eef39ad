"""The configuration that a run leaves behind, and what later tasks compare with it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from reddiff_pl.errors import ConfigError
from reddiff_pl.files import plain_yaml, temporary_file
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.lock import ShardLock, holder

log = logging.getLogger(__name__)


def guard(
    run: Run,
    resolved: str,
    prior_sha256: str,
    any_batch_size: bool = False,
    folder: str | None = None,
    precision: str = "",
) -> None:
    """Leave the resolved configuration in OUT, or compare with the one that is there.

    What changes results must be the same in every task and on every resume: the model (prior, physics, sampler,
    noise), the seed, the size, the prior's weights. The rest is free; another batch size only warns.

    Args:
        run: the run's paths.
        resolved: the configuration as YAML.
        prior_sha256: the prior's fingerprint.
        any_batch_size: take another batch size as it is.
        folder: the mark of a folder of inputs (`plan.folder_mark`).
        precision: what the prior's precision came to on this task's device.

    Raises:
        ConfigError: the directory holds results of another configuration.
    """
    mark = f"# folder: {folder}\n" if folder else ""
    mark += f"# precision: {precision}\n" if precision else ""
    text = f"# prior_sha256: {prior_sha256}\n{mark}{resolved}"
    run.out.mkdir(parents=True, exist_ok=True)
    with temporary_file(run.config) as file:
        file.write(text.encode())
        file.flush()
        with contextlib.suppress(FileExistsError):  # the first task wins, and it is never half written
            os.link(file.name, run.config)
            return
    try:
        there = _identity(run.config.read_bytes().decode())
    except (ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"--out: {run.config} cannot be read ({reason}); choose another --out") from error
    mine = _identity(text)
    if there.pop("folder") != mine.pop("folder"):
        raise ConfigError(
            f"--data.images, --data.measured: the files in the folder are not those that {run.out} was begun with; "
            "choose another --out, or add images in a folder of their own"
        )
    was, now = there.pop("precision"), mine.pop("precision")
    if was and now and was != now:
        raise ConfigError(
            f"--out: {run.out} was begun with a prior that computes in {was}, on this device it does in {now}; restore "
            "on the same kind of device, or choose another --out and one --model.prior.init_args.precision for all"
        )
    was, now = there.pop("data.batch_size"), mine.pop("data.batch_size")
    if was != now and not any_batch_size:
        log.warning(
            "--data.batch_size was %s, is %s: results may differ by rounding from those there", was, now
        )
    different = [key for key in mine.keys() | there.keys() if mine.get(key) != there.get(key)]
    if different:
        lines = ", ".join(f"{key} was {there.get(key)}, is {mine.get(key)}" for key in sorted(different))
        raise ConfigError(
            f"--out: {run.out} holds results of another configuration ({lines}); choose another --out"
        )


def batch_size_there(run: Run) -> int | None:
    """The batch size of the run in OUT; None where there is none yet."""
    try:
        size = plain_yaml(run.config.read_bytes())["data"]["batch_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return size if isinstance(size, int) and size > 0 else None


def clear(run: Run) -> None:
    """Delete a run's results, and nothing that is not known to be one's.

    Raises:
        ConfigError: the directory holds something else, or a task is at work in it.
    """
    if not run.out.exists() or not any(run.out.iterdir()):
        return
    if not run.config.is_file():
        raise ConfigError(
            f"--overwrite: {run.out} holds no config.yaml of a run; delete it yourself if it can go"
        )
    for path in run.shards.rglob("*.lock"):
        lock = ShardLock(path)
        if not lock.acquire():
            raise ConfigError(f"--overwrite: {path} is held by {holder(path)}; stop it first")
        lock.release(remove=False)
    for folder in (run.shards, run.accounts, run.log(0).parent, run.overview.parent, run.evaluation):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (run.summary, run.metrics, run.summary.with_suffix(".md"), run.summary.with_suffix(".tex")):
        file.unlink(missing_ok=True)
    run.config.unlink()


def _identity(text: str) -> dict[str, Any]:
    """What two configurations are compared by, flat."""
    config = plain_yaml(text)
    flat = dict(_flatten("model", config.get("model") or {}))
    dial = "model.sampler.init_args.perception"
    if not flat.get(dial):  # what it would do does not matter, and older runs do not name it
        flat = {key: value for key, value in flat.items() if not key.startswith(dial)}
    if not flat.get(gone := "model.sampler.init_args.temperature"):  # was an option, and did nothing at 0
        flat.pop(gone, None)
    flat["seed"] = config.get("seed")
    data = config.get("data") or {}
    flat |= {f"data.{key}": data.get(key) for key in ("size", "sigma_y", "batch_size")}
    flat |= {f"data.{key}": data.get(key) or None for key in ("params", "invert_mask", "rounding")}
    flat["data.fit"] = data.get("fit", "crop")
    found = re.search(r"^# prior_sha256: (\w+)", text)
    flat["prior_sha256"] = found.group(1) if found else None
    mark = re.search(r"^# folder: (.+)", text, re.MULTILINE)
    flat["folder"] = mark.group(1) if mark else None
    found = re.search(r"^# precision: (.+)", text, re.MULTILINE)
    flat["precision"] = found.group(1) if found else None
    return flat


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(f"{prefix}.{key}", item)
    else:
        yield prefix, value
