"""`reddiff export OUT DIR`: the restored images of a run as plain files under the inputs' own names."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from reddiff_pl import stop
from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.exit_codes import ALL_RESTORED, SOME_FAILED
from reddiff_pl.exporting.formats import files
from reddiff_pl.exporting.names import Names
from reddiff_pl.exporting.target import Entry, Target, check
from reddiff_pl.logs import to_terminal
from reddiff_pl.options.export import QUALITY, parse_export
from reddiff_pl.shards import metadata
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import read_sidecar
from reddiff_pl.shards.plan import plan
from reddiff_pl.shards.tar import members_of, scan

log = logging.getLogger(__name__)


def export(argv: list[str]) -> int:
    """Write the images of a run's finished shards to a folder.

    Returns:
        0 when all are there, 3 when some could not be written.

    Raises:
        ConfigError: there is no run, a bad option, or a folder that must not be written to.
    """
    options = parse_export(argv)
    run = Run(options.out)
    if not run.shards.is_dir():
        raise ConfigError(f"{run.out}: not the output directory of a run: it holds no shards/")
    to_terminal()
    check(Path(options.to), run.out, inputs_of(_config(run).get("data")), "DIR")
    return export_to(run, Path(options.to), options.format, options.quality)


def export_to(run: Run, folder: Path, wanted: str | None = None, quality: int = QUALITY) -> int:
    """Write the images of finished shards to a folder that `check` has let pass; returns the exit code."""
    names_there = sorted(path.relative_to(run.shards).as_posix()[:-4] for path in run.shards.rglob("*.tar"))
    finished = [(name, sidecar) for name in names_there if (sidecar := read_sidecar(run, name)) is not None]
    written = kept = lost = 0
    failed: list[str] = []
    with Target(folder) as target:
        data = _config(run).get("data")
        of_tars = isinstance(data, Mapping) and data.get("shards")  # whose samples are no files
        inputs = () if of_tars else (file for name, _ in finished for file in _files(run, name))
        names = Names({(entry.shard, entry.key): entry.stem for entry in target.entries.values()}, inputs)
        for entry in target.entries.values():
            names.reserve((entry.shard, entry.key), [entry.path])
        for name, sidecar in finished:
            lost += len(sidecar["failed"])
            made_of = hashlib.sha256(f"{sidecar['tar_sha256']} {wanted} {quality}".encode()).hexdigest()[:16]
            for key, members, record in tqdm(_samples(run, name), name, unit="img", mininterval=1, delay=1):
                stop.check()
                try:
                    new = _export_one(target, names, (name, key), members, record, made_of, wanted, quality)
                    written, kept = written + new, kept + (not new)
                except SampleError as error:
                    failed.append(key)
                    log.warning("shard %s, key %s: %s", name, key, error)
    unfinished = len(list(run.shards.rglob("*.tar.partial"))) + len(names_there) - len(finished)
    log.info(
        "%d images written to %s%s%s",
        *(
            written,
            folder,
            f", {kept} were there" if kept else "",
            f", {len(failed)} failed" if failed else "",
        ),
    )
    if lost:
        log.warning("%d samples failed in the run, and have no image: %s says why", lost, run.accounts)
    if unfinished:
        log.warning("%d shards are not finished; export again when they are", unfinished)
    if wanted == "jpg":
        log.info("jpg holds no transparency: it is left out where there is some")
    return SOME_FAILED if failed else ALL_RESTORED


def _export_one(
    target: Target,
    names: Names,
    sample: tuple[str, str],
    members: Mapping[str, bytes],
    record: Mapping[str, Any],
    made_of: str,
    wanted: str | None,
    quality: int,
) -> bool:
    """Whether something was written."""
    file = record.get("file")
    if target.holds(sample, made_of):
        return False
    found = files(members, wanted, quality)
    stem = names.stem(*sample, file if isinstance(file, str) else None, found)
    new = False
    for suffix, content in found.items():
        entry = Entry(*sample, stem, suffix, hashlib.sha256(content).hexdigest(), made_of)
        if not target.has(entry):
            target.write(entry, content)
            new = True
    return new


def _samples(run: Run, name: str) -> Iterator[tuple[str, dict[str, bytes], dict[str, Any]]]:
    """(key, its files, its .reddiff.json) of a shard, in order."""
    with open(run.tar(name), "rb") as file:
        start = 0
        for whole in list(scan(file, older=True)):
            file.seek(start)
            members = members_of(file.read(whole.end - start), whole.key)
            start = whole.end
            try:
                record = metadata.of_written(whole)[1]
            except SampleError:
                record = {}  # the image is there all the same
            yield whole.key, members, record


def _files(run: Run, name: str) -> Iterator[str]:
    """What a shard's images were called in the folder of inputs."""
    with open(run.tar(name), "rb") as file:
        for whole in scan(file, older=True):
            with contextlib.suppress(SampleError):
                of_input = metadata.of_written(whole)[1].get("file")
                if isinstance(of_input, str):
                    yield of_input


def _config(run: Run) -> Mapping[str, Any]:
    """config.yaml as plain data."""
    try:
        config = yaml.safe_load(run.config.read_bytes())
    except (OSError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def inputs_of(data: Any) -> list[Path]:
    """The files and folders on this machine that a run's `data` options name."""
    data = data if isinstance(data, Mapping) else {}
    params = data.get("params")
    named = [
        data.get("images"),
        data.get("measured"),
        *(params.values() if isinstance(params, Mapping) else []),
    ]
    shards = data.get("shards")
    if shards:
        texts: Sequence[Any] = shards if isinstance(shards, list) else [shards]
        with contextlib.suppress(ConfigError, TypeError):  # they are not there any more
            named += [shard.url for shard in plan([str(text) for text in texts if "pipe:" not in str(text)])]
    return [Path(name) for name in named if isinstance(name, str) and os.path.exists(name)]
