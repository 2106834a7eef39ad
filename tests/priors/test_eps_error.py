"""The table of a prior's own error: what is read of it, and what precision auto makes of it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from helpers import VAL_SHARD

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors import UNet, eps_error
from reddiff_pl.priors.eps_error import EpsError
from reddiff_pl.priors.precision import multiplies_bf16
from reddiff_pl.priors.unet import BUNDLED
from reddiff_pl.training import measuring

TABLE = EpsError(
    [10, 100, 900], {"32": [0.5, 0.1, 0.01], "fp8": [0.5009, 0.1001, 0.0111]}, photos=3, draws=2, device="x"
)


def test_is_read_as_it_was_written(tmp_path):
    assert eps_error.read(tmp_path) is None
    eps_error.write(tmp_path, TABLE)
    assert eps_error.read(tmp_path) == TABLE


@pytest.mark.parametrize(
    ("eight", "bound", "good"),
    [
        ([0.5009, 0.1001, 0.0111], 0.002, (10, 100)),
        ([0.5009, 0.1001, 0.0111], 0.2, (10, 900)),
        ([0.4, 0.1, 0.01], 0.0, (10, 900)),
        ([0.6, 0.1, 0.01], 0.002, (100, 900)),  # the smallest t need not be good
        ([0.6, 0.1, 0.02], 0.002, (100, 100)),
        ([0.6, 0.2, 0.02], 0.002, None),
        ([0.5, 0.2, 0.01], 0.002, (10, 10)),  # never over a bad level
    ],
)
def test_8_bits_are_good_from_one_level_to_another(eight, bound, good):
    table = replace(TABLE, errors={**TABLE.errors, "fp8": eight})
    assert table.good_range("fp8", bound) == good
    assert table.good_range("bf16", bound) is None, "not measured"


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'{"timesteps": [1, 1], "errors": {}, "photos": 1, "draws": 1, "device": "x"}',
        b'{"timesteps": [1], "errors": {"32": [1, 2]}, "photos": 1, "draws": 1, "device": "x"}',
        b'{"timesteps": [1], "errors": {"32": [NaN]}, "photos": 1, "draws": 1, "device": "x"}',
        b"[" * 10000,
    ],
)
def test_what_is_no_table_is_refused_by_name(tmp_path, content):
    (tmp_path / eps_error.NAME).write_bytes(content)
    with pytest.raises(ConfigError, match="not a table of errors"):
        eps_error.read(tmp_path)


def test_a_table_is_part_of_what_a_run_holds_on_to(tmp_path):
    """It decides in what the network computes, so it is in the fingerprint, but for who chose a precision."""
    folder = shutil.copytree(BUNDLED, tmp_path / "prior")
    (folder / eps_error.NAME).unlink(missing_ok=True)
    plain, chosen = UNet(str(folder)).settings(), UNet(str(folder), precision="32").settings()
    eps_error.write(folder, TABLE)
    measured, cpu = UNet(str(folder)), torch.device("cpu")
    assert measured.settings() != plain
    assert UNet(str(folder), precision="32").settings() == chosen
    assert measured.forward_pass.eight_bits == (10, 100)
    assert measured.precision_on(cpu) == ("bf16" if multiplies_bf16(cpu) else "32"), "no 8 bits there"


def test_measuring_writes_it(reddiff, tmp_path):
    folder = shutil.copytree(BUNDLED, tmp_path / "prior")
    (folder / eps_error.NAME).unlink(missing_ok=True)
    command = ["prior", "measure", folder, "--shards", VAL_SHARD, "--count=2", "--draws=1"]
    code, printed = reddiff(*command)
    assert code == 0, printed
    table = eps_error.read(folder)
    assert table is not None and table.photos == 2 and table.draws == 1
    assert table.timesteps[0] == 0 and table.timesteps[-1] == 999
    prior = UNet(str(folder), precision="32")
    x = measuring.photos([str(VAL_SHARD)], None, prior.shape, count=2)
    again = measuring.eps_errors(prior, x, table.timesteps[-1:], draws=1)
    assert table.errors["32"][-1] == pytest.approx(again.mean().item(), rel=1e-3)
    errors = table.errors["32"]
    assert errors[0] > errors[-1], "the noise is seen better where there is more of it"
    assert reddiff("prior", "measure", tmp_path / "none", "--shards", VAL_SHARD)[0] == 2
    (tmp_path / "notes").mkdir()
    code, printed = reddiff("prior", "measure", folder, "--images", tmp_path / "notes")
    assert code == 2, printed
