"""What README shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import torch

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_python_examples():
    short, parts = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(short, names)
    assert names["restored"].shape == (72, 96, 3)
    assert [image.shape for image in names["enlarged"]] == [(72, 80, 3), (64, 64, 3)]
    exec(parts, names)
    assert names["restored"].shape == (1, 3, 64, 64)
    misfit = (names["physics"].A(names["restored"]) - names["y"]).square().mean().sqrt()
    assert misfit < 0.05, "it fits the measurement"
    assert torch.isfinite(names["restored"]).all()


def test_every_file_it_names_is_there():
    root = Path(__file__).parents[1]
    for path in re.findall(r"\]\(((?!http)[^)]+)\)|--config (configs/\S+)", README):
        assert (root / (path[0] or path[1])).exists(), path
