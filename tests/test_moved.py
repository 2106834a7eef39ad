"""Class paths and imports that users have written go on working."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback

from reddiff_pl.moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_is_the_same_module(old):
    moved = importlib.import_module(f"reddiff_pl.{old}")
    own = importlib.import_module(f"reddiff_pl.{MOVED[old]}")
    assert moved is own and own.__spec__.name == own.__name__ == f"reddiff_pl.{MOVED[old]}"


def test_an_old_class_path_in_a_configuration():
    from reddiff_pl.restoring.output import Progress

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callback", type=Callback)
    made = parser.instantiate_classes(
        parser.parse_object({"callback": {"class_path": "reddiff_pl.output.Progress"}})
    )
    assert type(made.callback) is Progress


def test_old_imports_in_a_process_of_their_own():
    code = (
        "from reddiff_pl.datamodule import ShardDataModule\n"
        "from reddiff_pl.restoration import Restoration\n"
        "import reddiff_pl.restoring.datamodule as own\n"
        "assert ShardDataModule is own.ShardDataModule\n"
        "try:\n    import reddiff_pl.nowhere\nexcept ModuleNotFoundError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "No module named 'reddiff_pl.nowhere'"
