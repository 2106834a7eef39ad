"""Measurements that are arrays: what fits is taken, what another scale or order would make of it is told or refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from reddiff_pl.errors import SampleError
from reddiff_pl.physics import Degradation, Denoising, NoNoise
from reddiff_pl.restoring.written import Form
from reddiff_pl.shards import decode
from reddiff_pl.shards.reader import RawSample
from reddiff_pl.shards.samples import Sample, prepare

COLOURS = np.random.default_rng(0).uniform(-1, 1, (3, 6, 8)).astype(np.float32)


def saved(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def prepared(values: np.ndarray, member: str = "y.npy") -> Sample:
    degradation = Degradation(Denoising(), NoNoise(), (3, 6, 8), 0, fit="whole")
    return prepare(RawSample(0, "key", {member: saved(values)}), degradation)


@pytest.mark.parametrize("member", ["y.npy", "npy"])
@pytest.mark.parametrize("grey", [COLOURS[0], COLOURS[:1]])
def test_one_channel_is_grey_as_of_a_picture(member, grey):
    values = grey if member == "y.npy" else (grey + 1) / 2
    sample = prepared(values, member)
    assert sample.y.shape == (3, 6, 8) and sample.grey
    assert torch.allclose(sample.y, torch.from_numpy(COLOURS[:1]).expand(3, -1, -1), atol=1e-6)
    assert Form.of(sample, 3) == Form("npy", 0, True), "one channel comes out"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (COLOURS.transpose(1, 2, 0), "expected 3; the channels come first"),
        ((127.5 * (COLOURS + 1)).astype(np.uint8), "reaches 25., but .* about 1 at most; .* or as a picture"),
        ((2 * (COLOURS + 1)).astype(np.int64), "reaches 3, but the operator gives about 1 at most"),
        (127.5 * (COLOURS + 1), "in the operator's own range"),
        (COLOURS[None], "which the operator makes of no image of 3 channels"),
    ],
)
def test_other_orders_and_scales_fail(values, says):
    with pytest.raises(SampleError, match=says):
        prepared(values)


def test_an_array_on_the_scale_of_pictures_is_told():
    assert "is it to be 2 y - 1?" in prepared((COLOURS + 1) / 2).notes[0]
    assert not prepared(COLOURS).notes and not prepared(np.float32(9) * COLOURS).notes
    assert not prepared(np.sign(COLOURS).astype(np.int8)).notes


def test_clean_arrays_with_the_channels_last_are_told():
    with pytest.raises(SampleError, match="the channels come first"):
        decode.array_image(saved(COLOURS.transpose(1, 2, 0)), "a.npy", 3)
