"""Perceptual measures against other implementations, closed forms and what they are for."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.signal import convolve2d
from skimage.metrics import structural_similarity

from reddiff_pl.metrics.niqe import NIQE_SIDE, fit, niqe
from reddiff_pl.metrics.perceptual import BETAS, SCALES, flip, gmsd, haarpsi, msssim
from reddiff_pl.metrics.scale import LUMA
from reddiff_pl.metrics.spectrum import OCTAVES, spectrum


def images(side=48, n=2, channels=3):
    """Smooth images and the same with noise, uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((n, channels, 6, 6), generator=generator)
    a = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1) * 255
    b = a + 20 * torch.randn(a.shape, generator=generator)
    return a.round().byte(), b.clamp(0, 255).round().byte()


FULL = {"haarpsi": haarpsi, "gmsd": gmsd, "flip": flip, "msssim": lambda a, b: msssim(a, b, 3)}


@pytest.mark.parametrize("name", FULL)
def test_equal_images_noise_and_depth(name):
    """Perfect for equal images, worse for more noise, the same for floats, each image by itself."""
    a, b = images()
    measure, perfect = FULL[name], 0.0 if name in ("gmsd", "flip") else 1.0
    torch.testing.assert_close(measure(a, a).double(), torch.full((2,), perfect).double(), atol=1e-5, rtol=0)
    found, half = measure(b, a), measure(((a.float() + b.float()) / 2).round().byte(), a)
    assert ((half - perfect).abs() < (found - perfect).abs()).all()
    torch.testing.assert_close(measure(b.float() / 255, a.double() / 255), found, atol=1e-5, rtol=0)
    torch.testing.assert_close(measure(b[1:], a[1:]), found[1:], atol=1e-5, rtol=0)
    grey = measure(b[:, :1], a[:, :1])
    assert grey.shape == (2,) and grey.isfinite().all()


def test_gmsd_is_its_formula():
    """Prewitt gradients, constant 170 on the 0 to 255 scale, here by scipy."""
    a, b = images(channels=1)
    for i in range(2):
        gradients = [
            np.hypot(*(ndimage.prewitt(v[i, 0].numpy() / 255, axis, mode="nearest") / 3 for axis in (0, 1)))
            for v in (a, b)
        ]
        c = 0.0026
        similar = (2 * gradients[0] * gradients[1] + c) / (gradients[0] ** 2 + gradients[1] ** 2 + c)
        assert gmsd(b, a)[i].item() == pytest.approx(similar.std(), abs=1e-5)


def test_haarpsi_is_its_formula():
    """Of grey images of an even side: weights of the third scale, similarities of the first two, by scipy."""
    a, b = images(channels=1)
    haar = {
        n: np.vstack([-np.ones((2 ** (n - 1), 2**n)), np.ones((2 ** (n - 1), 2**n))]) / 2**n
        for n in (1, 2, 3)
    }

    def bands(image):
        halved = _same(image * 1.0, np.ones((2, 2)) / 4)[::2, ::2]
        return [[np.abs(_same(halved, f if down else f.T)) for f in haar.values()] for down in (True, False)]

    for i in range(2):
        ours, theirs = bands(b[i, 0].numpy()), bands(a[i, 0].numpy())
        total, weights = 0.0, 0.0
        for x, y in zip(ours, theirs, strict=True):
            similar = np.mean([(2 * x[n] * y[n] + 30) / (x[n] ** 2 + y[n] ** 2 + 30) for n in (0, 1)], 0)
            weight = np.maximum(x[2], y[2])
            total, weights = total + (weight / (1 + np.exp(-4.2 * similar))).sum(), weights + weight.sum()
        mean = total / weights
        assert haarpsi(b, a)[i].item() == pytest.approx((np.log(mean / (1 - mean)) / 4.2) ** 2, abs=2e-4)


def _same(image, kernel):
    """MATLAB's conv2(..., "same"), whose centre is another than scipy's for even sides."""
    full = convolve2d(image, kernel)
    rows, columns = (n // 2 for n in kernel.shape)
    return full[rows : rows + image.shape[0], columns : columns + image.shape[1]]


@pytest.mark.parametrize(("scales", "side"), [(3, 44), (5, 176)])
def test_msssim_is_ssim_at_several_scales(scales, side):
    """By scikit-image's maps without their borders; torchmetrics keeps those of the coarsest scale."""
    a, b = images(side, 1, 1)
    one, other = (v[0, 0].numpy().astype(float) / 255 for v in (a, b))
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True)
    factors = []
    for scale in range(scales):
        if scale < scales - 1:
            # contrast and structure alone: luminance is one where the constant K1 is huge
            _, full = structural_similarity(one, other, K1=1e8, **options)
        else:
            _, full = structural_similarity(one, other, **options)
        factors.append(full[5:-5, 5:-5].mean())
        even = len(one) // 2 * 2
        one, other = (v[:even, :even].reshape(even // 2, 2, -1, 2).mean((1, 3)) for v in (one, other))
    betas = np.array(BETAS[:scales]) / sum(BETAS[:scales])
    assert msssim(b, a, scales).item() == pytest.approx(float(np.prod(factors**betas)), abs=1e-3)


def test_msssim_refuses_what_is_too_small():
    for scales, side in SCALES.items():
        a, _ = images(side, 1, 1)
        assert msssim(a, a, scales).item() == pytest.approx(1, abs=1e-6)
        a, _ = images(side - 2, 1, 1)
        with pytest.raises(ValueError, match="larger than"):
            msssim(a, a, scales)


def test_spectrum_of_waves_is_where_they_are():
    """A wave of half the amplitude in one octave is 6 dB less there, and nothing elsewhere."""
    n = 64
    place = torch.arange(n)
    cycles = [24, 12, 6, 3]  # of each octave
    waves = torch.stack([(2 * torch.pi * k * place / n).cos().expand(n, n) for k in cycles])[:, None] * 0.1
    whole = 0.5 + waves.sum(0)
    for octave in range(OCTAVES):
        less = whole - waves[octave] / 2
        found = spectrum(less[None].float(), whole[None].float())[0]
        expected = torch.zeros(OCTAVES, dtype=torch.float64)
        expected[octave] = 20 * torch.log10(torch.tensor(0.5))
        # the window spreads a wave over its neighbours, some of which lie in the next octave
        torch.testing.assert_close(found, expected, atol=0.7, rtol=0)


def test_spectrum_by_numpy_and_of_flat_images():
    a, b = images(40)
    window = np.outer(*[0.5 - 0.5 * np.cos(2 * np.pi * np.arange(40) / 40)] * 2)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(40), np.fft.fftfreq(40)))
    inside = (radius > 0.25) & (radius <= 0.5)
    powers = []
    for v in (b, a):
        grey = np.tensordot(LUMA, v[0].numpy() / 255, 1)
        powers.append((np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2)[inside].sum())
    assert spectrum(b, a)[0, 0].item() == pytest.approx(10 * np.log10(powers[0] / powers[1]), abs=1e-9)
    flat = torch.full_like(a, 128)
    assert not spectrum(a, flat).isfinite().any() and not spectrum(flat, a).isfinite().any()


def test_niqe_prefers_photos(photos256):
    """Those it was not fitted on to their blurred and noisy versions; a flat image has no value."""
    blurred = torch.nn.functional.avg_pool2d(photos256.float(), 5, 1, 2).round().byte()
    noise = 25 * torch.randn(photos256.shape, generator=torch.Generator().manual_seed(0))
    noisy = (photos256 + noise).clamp(0, 255).round().byte()
    clean = niqe(photos256)
    assert clean.mean() < niqe(blurred).mean() and clean.mean() < niqe(noisy).mean()
    torch.testing.assert_close(niqe(photos256[:1]), clean[:1])
    torch.testing.assert_close(niqe(photos256.float() / 255), clean, atol=1e-3, rtol=1e-3)
    assert not niqe(torch.zeros(1, 1, NIQE_SIDE, NIQE_SIDE, dtype=torch.uint8)).isfinite().any()


def test_niqe_of_the_photos_it_was_fitted_on(photos256, monkeypatch):
    """The statistics that ship have the shape that fitting gives, and are finite and positive definite."""
    from reddiff_pl.metrics.niqe import _fitted

    mean, covariance = _fitted()
    fitted = fit(list(photos256[:2]))
    assert fitted["mean"].shape == mean.shape == (36,) and covariance.shape == (36, 36)
    assert torch.linalg.eigvalsh(covariance.double()).min() > 0
    # photos of the same kind: each feature's mean within five of its deviations
    assert ((fitted["mean"] - mean).abs() < 5 * covariance.diagonal().sqrt()).all()


@pytest.fixture(scope="module")
def photos256():
    """Four photos that nothing was fitted on, uint8 (4, 3, 256, 256)."""

    found = []
    with tarfile.open(Path(__file__).parents[1] / "data" / "val-000000.tar") as tar:
        for member in tar:
            if member.name.endswith(".jpg") and len(found) < 4:
                picture = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
                found.append(torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1))
    return torch.stack(found)
