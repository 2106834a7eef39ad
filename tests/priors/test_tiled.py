"""Priors on images larger than their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CONFIGS, png, restored_keys, write_shard
from networks import noise, tiny_unet
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors import Gaussian, Prior, Tiled, UNet, linear_abar
from reddiff_pl.priors.forward import few_sizes

SIZES = [(96, 80), (37, 53), (16, 33), (17, 16), (16, 16), (12, 40), (9, 9)]


def white(height: int, width: int) -> Gaussian:
    """White images: eps at a pixel is a multiple of that pixel, so windows lose nothing."""
    return Gaussian((3, height, width), exponent=0.0, mean=0.2)


class Border(Prior):
    """eps is 1 at the outermost pixels of what it sees, 0 inside: a prior that errs at its borders.

    Attributes:
        seen: shape, first pixel and label of all it was shown; images count their own pixels.
    """

    classes = 9

    def __init__(self, side: int = 16) -> None:
        super().__init__()
        self.shape = (1, side, side)
        self.register_buffer("abar", linear_abar())
        self.seen: list[tuple] = []

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        firsts = x_t[:, 0, 0, 0].tolist()
        self.seen.append((tuple(x_t.shape), firsts, None if label is None else label.tolist()))
        eps = torch.ones_like(x_t)
        eps[..., 1:-1, 1:-1] = 0
        return eps


def numbered(height: int, width: int) -> Tensor:
    """An image whose pixels hold their own place."""
    return torch.arange(height * width, dtype=torch.float64).reshape(1, 1, height, width)


def starts(height: int, width: int, t: int, overlap: int | None = None) -> list[tuple[int, int]]:
    """Where the windows begin."""
    prior = Border()
    Tiled(prior, overlap).eps(numbered(height, width), torch.tensor([t]))
    return [divmod(int(first), width) for _, firsts, _ in prior.seen for first in firsts]


@pytest.mark.parametrize("overlap", [None, 0, 8, 15])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_pixelwise_prior_is_reproduced(size: tuple[int, int], overlap: int | None) -> None:
    """So the weights sum to 1 everywhere, and what was padded is cropped."""
    tiled, whole = Tiled(white(16, 16), overlap), white(*size)
    x_t, t = noise(2, 3, *size), torch.tensor([10, 600])
    eps = tiled.eps(x_t, t)
    assert eps.shape == x_t.shape
    torch.testing.assert_close(eps, whole.eps(x_t, t), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(96, 80), (37, 53), (17, 16)], ids=str)
@pytest.mark.parametrize("overlap", [4, 8])
def test_windows(size: tuple[int, int], overlap: int) -> None:
    """All of the prior's size, inside the image, without gaps, overlapping by half of `overlap` at least."""
    for t in (0, 1, 500, 999):
        places = starts(*size, t, overlap)
        for axis, side in enumerate(size):
            along = sorted({place[axis] for place in places})
            assert along[0] == 0 and along[-1] == side - 16
            gaps = np.diff(along)
            assert len(along) == 1 or gaps.max() <= 16 - overlap / 2 + 1
            assert len(along) <= max(int(np.ceil((side - 16) / (16 - overlap))) + 1, 3)


def test_windows_move_with_t() -> None:
    """Over the timesteps every column comes to lie at a window's border about equally often."""
    columns = [left for t in range(0, 1000, 4) for top, left in starts(16, 96, t, 8) if 0 < left < 80]
    counts = np.bincount(columns, minlength=80)[4:77]
    assert counts.min() > 0 and counts.max() < 6 * counts.mean()
    assert starts(96, 80, 7) == starts(96, 80, 7)


@pytest.mark.parametrize("t", [0, 400])
def test_no_seams(t: int) -> None:
    """A border's error hardly counts where another window looks on, and no line keeps it."""
    tiled = Tiled(Border(), overlap=8)
    one = tiled.eps(numbered(64, 64), torch.tensor([t]))[0, 0]
    assert one[1:-1, 1:-1].max() < 0.2
    mean = sum(tiled.eps(numbered(64, 64), torch.tensor([t]))[0, 0] for t in range(0, 1000, 10)) / 100
    inside = mean[1:-1, 1:-1]
    assert inside.max() < 0.04
    assert inside.diff(dim=0).abs().max() < 0.02 and inside.diff(dim=1).abs().max() < 0.02
    # without overlap every border is one, and some pixels have nothing else
    assert Tiled(Border(), overlap=0).eps(numbered(64, 64), torch.tensor([t]))[0, 0, 1:-1, 1:-1].max() > 0.4


class Erring(Gaussian):
    """Right but for the outermost pixels of what it sees."""

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        eps = super().eps(x_t, t, label)
        eps[..., [0, -1]] += 2
        eps[..., [0, -1], :] += 2
        return eps


def rhythm(prior: Tiled, step: float) -> float:
    """How much the gradients of what is found by column, over the timesteps, swing with the windows' step."""
    x = noise(8, 3, 32, 112)
    eps = sum(prior.eps(x, torch.full((8,), t)) for t in range(0, 800, 16)) / 50
    gradient = eps.diff(dim=-1).abs().mean((0, 1, 2))[12:-12]
    wave = torch.exp(2j * torch.pi * torch.arange(len(gradient)) / step)
    return float(2 * ((gradient - gradient.mean()) * wave).mean().abs() / gradient.mean())


@torch.no_grad()
def test_no_period_of_the_windows() -> None:
    """Windows that overlap and move leave no rhythm behind, where those that lie side by side do."""
    prior = Erring((3, 16, 16), exponent=0.0)
    side_by_side = Tiled(prior, 0)
    side_by_side.shifts.zero_()
    shipped, fixed = rhythm(Tiled(prior), 96 / 8), rhythm(side_by_side, 96 / 6)
    assert shipped < 0.02 < 0.1 < fixed, (shipped, fixed)


def test_an_image_does_not_depend_on_its_batch() -> None:
    tiled = Tiled(white(16, 16))
    x_t, t = noise(3, 3, 40, 50), torch.tensor([3, 500, 999])
    together = tiled.eps(x_t, t)
    for i in range(3):
        assert torch.equal(tiled.eps(x_t[i : i + 1], t[i : i + 1])[0], together[i])


def test_windows_come_in_the_numbers_that_the_prior_asks_for() -> None:
    """Of several images at once: full calls, then what the prior takes for the rest, the last of it padded."""

    class Asks(Border):
        def calls(self, images: int, most: int, like: Tensor) -> list[int]:
            return few_sizes(images, most)

    prior = Asks()
    tiled = Tiled(prior)
    tiled.at_once = 8
    questions = [
        (torch.zeros(1, 1, *size), torch.tensor([500]), None) for size in ((40, 40), (16, 60), (33, 17))
    ]
    tiled.eps_many(questions)
    windows = sum(len(tiled._part(*question)) for question in questions)
    assert windows > 16 and windows % 8
    assert [shape[0] for shape, _, _ in prior.seen] == few_sizes(windows, 8)


def test_windows_out_of_memory_are_halved_from_how_many_there_are(caplog) -> None:
    """The same eps, and one line however often it was halved."""
    rows = []

    class Narrow(Gaussian):
        def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            rows.append(len(x_t))
            if len(x_t) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().eps(x_t, t, label)

    x, t = noise(2, 3, 40, 40), torch.tensor([300, 300])
    roomy, narrow = Tiled(Gaussian((3, 16, 16))), Tiled(Narrow((3, 16, 16)))
    narrow.usual = 512
    assert torch.equal(narrow.eps(x, t), roomy.eps(x, t))
    windows = rows[0]
    assert rows[:4] == [windows, windows // 2, windows // 4, windows // 8] and max(rows[4:]) <= 3
    assert caplog.text.count("out of memory") == 1

    class Roomless(Gaussian):
        def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Tiled(Roomless((3, 16, 16))).eps(x, t)


def test_labels_reach_every_window() -> None:
    prior = Border()
    tiled = Tiled(prior)
    tiled.eps(numbered(40, 16).repeat(2, 1, 1, 1), torch.tensor([5, 5]), torch.tensor([3, 8]))
    assert tiled.classes == 9
    [(shape, _, labels)] = prior.seen
    assert shape == (6, 1, 16, 16) and sorted(labels) == [3] * 3 + [8] * 3


def test_gradients_reach_the_image() -> None:
    """Some samplers differentiate the prior."""
    x_t, t = noise(1, 3, 24, 40), torch.tensor([300])
    gradients = []
    for prior in (Tiled(white(16, 16)), white(24, 40)):
        x = x_t.clone().requires_grad_()
        gradients.append(torch.autograd.grad(prior.eps(x, t).square().sum(), x)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(20, 31), (9, 16), (40, 24)], ids=str)
def test_fully_convolutional(tmp_path: Path, size: tuple[int, int]) -> None:
    """Any size comes out as it went in; one that the levels divide is the network itself."""
    network = tiny_unet(tmp_path)
    x_t, t = noise(2, 3, *size), torch.tensor([3, 700])
    with pytest.raises(ConfigError, match=r"fully_convolutional: true, or wrap .*Tiled"):
        UNet(str(tmp_path)).eps(x_t, t)
    prior = UNet(str(tmp_path), precision="32", fully_convolutional=True)
    eps = prior.eps(x_t, t)
    assert eps.shape == x_t.shape and eps.isfinite().all()
    if size == (40, 24):
        torch.testing.assert_close(eps, network(x_t, t).sample, rtol=0, atol=1e-5)


def test_overlap_out_of_range() -> None:
    for overlap in (-1, 16):
        with pytest.raises(ConfigError, match=r"init_args\.overlap"):
            Tiled(white(16, 16), overlap)


def test_fingerprint_holds_prior_and_overlap(tmp_path: Path) -> None:
    tiny_unet(tmp_path / "a")
    tiny_unet(tmp_path / "b", seed=1)
    a, b = (UNet(str(tmp_path / name)) for name in "ab")
    prints = {Tiled(a).fingerprint(), Tiled(a, 3).fingerprint(), Tiled(b).fingerprint(), a.fingerprint()}
    assert len(prints) == 4


@pytest.mark.parametrize("config", ["tiled", "fully_convolutional", "bundled"])
def test_a_larger_image_from_yaml(reddiff, tmp_path: Path, config: str) -> None:
    picture = png((noise(96, 110, 3) * 40 + 128).clamp(0, 255).byte().numpy())
    code, printed = reddiff(
        *("restore", "--config", CONFIGS / "tasks" / "superresolution_2x.yaml"),
        *("--config", CONFIGS / "priors" / f"{config}.yaml", "--trainer.accelerator=cpu"),
        *("--data.shards", write_shard(tmp_path / "in.tar", [("a", {"png": picture})])),
        *(
            "--data.size=96",
            "--data.batch_size=1",
            "--model.sampler.init_args.steps=2",
            "--out",
            tmp_path / "out",
        ),
    )
    assert code == 0, printed
    assert restored_keys(tmp_path / "out" / "shards" / "in.tar") == ["a"]
    said = "images of 96x96 are seen in windows of 64x64" in printed
    assert said == (config != "fully_convolutional")
