"""PSNR, SSIM and misfit against other people's numbers and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deepinv.physics import Decolorize
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from reddiff_pl.metrics import misfit, psnr, ssim
from reddiff_pl.physics import Inpainting, SuperResolution, UnitRange, bind


def images(channels=3, side=40):
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 256, (4, channels, side, side + 3), generator=generator)
    noise = torch.randint(-20, 21, a.shape, generator=generator)
    return a.byte(), (a + noise).clamp(0, 255).byte()


@pytest.mark.parametrize("channels", [1, 3])
def test_against_scikit_image(channels):
    a, b = images(channels)
    for i in range(len(a)):
        one, other = (v[i].permute(1, 2, 0).double().numpy() / 255 for v in (a, b))
        assert psnr(a, b)[i].item() == pytest.approx(
            peak_signal_noise_ratio(one, other, data_range=1), abs=1e-9
        )
        options = dict(
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=2
        )
        _, full = structural_similarity(one, other, full=True, **options)
        assert ssim(a, b)[i].item() == pytest.approx(np.mean(full), abs=1e-9)


def test_equal_images():
    a, _ = images()
    assert torch.isinf(psnr(a, a)).all() and ssim(a, a).allclose(torch.ones(4, dtype=torch.float64))


def test_misfit_is_the_noise_level_whatever_the_operator():
    """y = A x + 2 sigma n gives sigma, and masked pixels do not dilute it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((2, 3, 64, 64), generator=generator) * 1.6 - 0.8
    inpainting = Inpainting()
    bind(
        inpainting,
        {
            "mask": (
                torch.rand((2, 1, 64, 64), generator=generator)
                < torch.tensor([0.5, 0.1])[:, None, None, None]
            ).float()
        },
    )
    for physics, scale in (
        (inpainting, 2),
        (SuperResolution(2), 2),
        (UnitRange(SuperResolution(2)), 1),
        (Decolorize(), 2),
    ):
        y = physics.A(x)
        noise = 0.05 * scale * torch.randn(y.shape, generator=generator)
        if physics is inpainting:
            noise *= inpainting.mask
        assert misfit(x, y, physics).tolist() == pytest.approx([0, 0], abs=1e-6)
        assert misfit(x, y + noise, physics).tolist() == pytest.approx([0.05, 0.05], rel=0.06)


def test_misfit_with_nothing_measured_is_zero():
    physics = Inpainting()
    bind(physics, {"mask": torch.zeros(1, 1, 8, 8)})
    assert misfit(torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), physics).item() == 0
