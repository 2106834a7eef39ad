"""Weights of metric networks: from a given directory or torch's own, downloaded only when asked to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from reddiff_pl.files import sha256


class Missing(Exception):
    """A metric cannot be had; the message is one line that says how to get it."""


@dataclass(frozen=True)
class Weights:
    """Where weights lie.

    Args:
        directory: searched first, also its hub/checkpoints and checkpoints; else TORCH_HOME.
        download: fetch what is missing.
    """

    directory: str | None = None
    download: bool = False

    def find(self, name: str, url: str) -> Path:
        """The file of this name.

        Args:
            name: as its publisher calls it; may be a pattern.
            url: where it is published.

        Raises:
            Missing: it is not there.
        """
        hub = Path(torch.hub.get_dir()) / "checkpoints"
        given = Path(self.directory) if self.directory is not None else None
        folders = [given, given / "checkpoints", given / "hub" / "checkpoints"] if given is not None else []
        for folder in [*folders, hub]:
            if folder.is_dir() and (found := sorted(folder.glob(name))):
                return found[0]
        target = given or hub
        if not self.download:
            raise Missing(f"no {url.rpartition('/')[2]} in {target}: fetch {url} there, or add --download")
        target.mkdir(parents=True, exist_ok=True)
        path = target / url.rpartition("/")[2]
        prefix = re.search(r"-([0-9a-f]{8,})\.", path.name)
        try:
            torch.hub.download_url_to_file(url, str(path), prefix[1] if prefix else None, progress=False)
        except (OSError, RuntimeError) as error:
            raise Missing(f"{url} cannot be downloaded: {' '.join(str(error).split())}") from error
        return path


def is_published(path: Path) -> bool:
    """Whether a file is what its name says: published weights end in the first digits of their sha256."""
    prefix = re.search(r"-([0-9a-f]{8,})\.", path.name)
    return prefix is not None and sha256(path).startswith(prefix[1])


def load(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a weights file; nothing else in it is unpickled.

    Raises:
        Missing: it is not one.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged files
        raise Missing(f"{path} holds no weights: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(state, Mapping):
        raise Missing(f"{path} holds no weights")
    return state


def fingerprint(network: nn.Module) -> str:
    """A hash of a network's weights: features of another network do not mix with its own."""
    digest = hashlib.sha256(type(network).__qualname__.encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
