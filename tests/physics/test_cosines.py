"""The cosine transform of any size."""

from __future__ import annotations

import pytest
import torch

from reddiff_pl.physics import cosines
from reddiff_pl.physics.cosines import cosine_basis, from_cosines, to_cosines


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 4), (16, 33), (1, 50)], ids=str)
def test_by_fourier_transforms_as_by_matrices(size: tuple[int, int], monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, c = (torch.randn(2, 3, *size, generator=generator, dtype=torch.float64) for _ in range(2))
    rows, columns = (cosine_basis(n) for n in size)
    torch.testing.assert_close(rows @ rows.mT, torch.eye(size[0]).double())
    there, back = to_cosines(x), from_cosines(c)
    torch.testing.assert_close(there, rows @ x @ columns.mT)
    torch.testing.assert_close(back, rows.mT @ c @ columns)
    monkeypatch.setattr(cosines, "MATRICES_UP_TO", {"cpu": 0})
    torch.testing.assert_close(to_cosines(x), there)
    torch.testing.assert_close(from_cosines(c), back)
    single = to_cosines(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), there, rtol=1e-5, atol=1e-5)
