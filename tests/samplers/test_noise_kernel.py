"""The one-launch draws: normal, independent, and named by seed, draw and place alone."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device or TRITON_INTERPRET=1", allow_module_level=True)

from reddiff_pl.samplers.noise_kernel import normal

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SEEDS = torch.tensor([5, 6, 2**62 + 3], device=DEVICE)


def test_are_normal_and_independent() -> None:
    draws = torch.stack([normal(SEEDS, draw, (3, 40, 41)) for draw in (1, 2, 2**40 + 1)])
    rows = draws.reshape(9, -1)
    n = rows.shape[1]
    # Kolmogorov's distance to the normal law; 1.95 / sqrt(n) is exceeded once in a thousand rows
    ranks = (torch.arange(n, device=DEVICE) + 0.5) / n
    law = torch.special.ndtr(rows.sort(1).values.double())
    assert (law - ranks).abs().max() < 1.95 / n**0.5
    # of independent rows no correlation is above 4.5 / sqrt(n) but once in 4,000 such tests
    off = rows.corrcoef() - torch.eye(9, device=DEVICE)
    assert off.abs().max() < 4.5 / n**0.5
    neighbours = (rows[:, :-1] * rows[:, 1:]).mean(1)
    assert neighbours.abs().max() < 4.5 / n**0.5
    assert rows.isfinite().all()


def test_do_not_depend_on_batch_or_shape() -> None:
    whole = normal(SEEDS, 7, (3, 10, 7))
    assert torch.equal(normal(SEEDS[1:2], 7, (3, 10, 7))[0], whole[1])
    assert torch.equal(normal(SEEDS.flip(0), 7, (210,)), whole.flip(0).flatten(1))
    assert torch.equal(normal(SEEDS, 7, (100,)), whole.flatten(1)[:, :100])
