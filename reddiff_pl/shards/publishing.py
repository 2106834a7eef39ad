"""Finished shards uploaded to a store: the tar, then the account that commits it. No torch, no webdataset."""

from __future__ import annotations

import json
import logging
import os
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from reddiff_pl.errors import ConfigError, OutputError
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.ledger import finished, sidecar_path
from reddiff_pl.shards.stores import filesystem, is_http, is_pipe, patiently

log = logging.getLogger(__name__)

_WITHOUT_FOLDERS = ("s3", "s3a", "gs", "gcs", "abfs", "az")  # there, to make a folder may make a bucket


def publish(run: Run, name: str, url: str) -> None:
    """Upload a finished shard to URL/shards/NAME.tar, and then its sidecar to URL/accounts/NAME.json.

    What is there already is not uploaded again, nor is a shard that is not finished, as one that --limit cut short.
    A sidecar always tells of the tar beside it: that of another tar is deleted before this one is uploaded.

    Args:
        run: the run's paths.
        name: the shard's name.
        url: a folder of any store that fsspec writes to.

    Raises:
        ConfigError: nothing can be written to such a URL, or the store wants credentials.
        OutputError: the upload failed, also after some tries. The local shard stays.
    """
    _target(run, url)
    try:
        if patiently(lambda: _upload(run, name, url), f"--publish: shard {name}"):
            log.info("shard %s: published to %s", name, url)
    except OSError as error:
        raise OutputError(
            f"--publish: shard {name} cannot be uploaded to {url}: {error}; it stays in "
            f"{run.tar(name)}, mend the cause and run the same command again"
        ) from error


def publish_missing(run: Run, names: Iterable[str], url: str) -> None:
    """Upload those shards that are finished and not published yet. Reads sidecars only, here and there.

    Raises:
        ConfigError: nothing can be written to such a URL, or the store wants credentials.
        OutputError: an upload failed, also after some tries.
    """
    fs, base = _target(run, url)

    def is_missing(name: str) -> bool:
        if finished(run, name) is None:
            return False
        try:
            return _mark(fs, base, name)[1] != sidecar_path(run, name).read_bytes()
        except Exception:
            return True  # `publish` will meet it again, and is patient

    names = list(names)
    with ThreadPoolExecutor(16, "published") as pool:
        missing = [name for name, yes in zip(names, pool.map(is_missing, names), strict=True) if yes]
    for name in missing:
        publish(run, name, url)


def _upload(run: Run, name: str, url: str) -> bool:
    """Upload what differs; whether something did."""
    fs, base = _target(run, url)
    tar, mark = f"{base}/shards/{name}.tar", f"{base}/accounts/{name}.json"
    sidecar = finished(run, name)
    if sidecar is None:
        return False
    mine, (found, there) = sidecar_path(run, name).read_bytes(), _mark(fs, base, name)
    if there == mine:
        return False
    if url.split(":")[0] not in _WITHOUT_FOLDERS:
        for path in (tar, mark):
            fs.makedirs(posixpath.dirname(path), exist_ok=True)
    if _tar_sha256(there) != sidecar["tar_sha256"]:
        if there is not None:
            fs.rm_file(found)
            found = mark
        fs.put_file(str(run.tar(name)), tar)
        if (size := fs.info(tar)["size"]) != sidecar["tar_bytes"]:
            raise OSError(f"{tar} has {size} bytes there, {sidecar['tar_bytes']} here")
    fs.pipe_file(mark, mine)
    if found != mark:
        fs.rm_file(found)
    return True


def _mark(fs: Any, base: str, name: str) -> tuple[str, bytes | None]:
    """The published sidecar of a shard, or that of an earlier version, which had it beside the tar: path, content."""
    mark, older = f"{base}/accounts/{name}.json", f"{base}/shards/{name}.json"
    if (there := _read(fs, mark)) is None and (before := _read(fs, older)) is not None:
        return older, before
    return mark, there


def _read(fs: Any, path: str) -> bytes | None:
    try:
        return fs.cat_file(path)
    except FileNotFoundError:
        return None


def _tar_sha256(sidecar: bytes | None) -> str | None:
    """Of the tar that a published sidecar tells of; None where it is missing or was cut."""
    try:
        return json.loads(sidecar or b"")["tar_sha256"]
    except (ValueError, KeyError, TypeError):
        return None


def _target(run: Run, url: str) -> tuple[Any, str]:
    """The file system to publish to, and the folder in it."""
    if is_http(url) or is_pipe(url):
        raise ConfigError(f"--publish: {url}: only stores can be written to: s3://, gs://, file://, ...")
    fs, base = filesystem(url, "--publish")
    if "file" in fs.protocol and os.path.realpath(base) == os.path.realpath(run.out):
        raise ConfigError(f"--publish: {url} is the output directory itself")
    return fs, base.rstrip("/")
