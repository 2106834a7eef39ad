"""Masks: how much is missing, where, in which shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics import BoxMask, FreeFormMask, RandomMask
from reddiff_pl.physics.masks import Mask
from reddiff_pl.seeding import stream

SIZES = pytest.mark.parametrize("size", [(32, 32), (64, 64), (256, 256), (40, 96), (96, 40)], ids=str)
KINDS = pytest.mark.parametrize(
    "mask", [RandomMask(0.4), BoxMask(12, centered=False), FreeFormMask()], ids=["random", "box", "freeform"]
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A mask is thousands of tiny operations: on a busy machine a second thread slows them 60 times."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draws(mask: Mask, size: tuple[int, int], pixels: int = 400_000) -> list[Tensor]:
    """Masks (H, W), one a key: more of the small ones."""
    count = max(6, min(100, pixels // math.prod(size)))
    return [mask.draw(*size, stream(0, f"image{i}", "mask"))[0] for i in range(count)]


def missing_share(mask: Tensor) -> float:
    return 1 - float(mask.mean())


@KINDS
@SIZES
def test_zeros_and_ones(mask: Mask, size: tuple[int, int]) -> None:
    drawn = mask.draw(*size, stream(0, "image", "mask"))
    assert drawn.shape == (1, *size)
    assert drawn.dtype == torch.float32
    assert drawn.unique().tolist() == [0, 1]


@KINDS
def test_a_mask_is_a_function_of_its_generator(mask: Mask) -> None:
    """Not of the global one, nor of the masks drawn before."""

    def draw(seed: int, key: str) -> Tensor:
        return mask.draw(40, 96, stream(seed, key, "mask"))

    first = draw(0, "a")
    state = torch.get_rng_state()
    others = [draw(0, "b"), draw(1, "a"), draw(0, "a ")]
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(torch.equal(first, other) for other in others)
    torch.rand(3)
    assert torch.equal(first, draw(0, "a"))


# --- random


@SIZES
@pytest.mark.parametrize("keep", [0.08, 0.5, 0.9])
def test_random_share(size: tuple[int, int], keep: float) -> None:
    """The number of kept pixels is binomial: within 5 standard deviations, each mask and all together."""
    masks = torch.stack(draws(RandomMask(keep), size))
    for kept, pixels in [(mask.sum(), mask.numel()) for mask in (*masks, masks)]:
        assert abs(float(kept) - keep * pixels) < 5 * math.sqrt(pixels * keep * (1 - keep))


def test_random_pixels_are_independent() -> None:
    centered = RandomMask(0.5).draw(256, 256, stream(0, "image", "mask"))[0] - 0.5
    for dim in (0, 1):
        length = centered.shape[dim] - 1
        products = centered.narrow(dim, 0, length) * centered.narrow(dim, 1, length)
        assert abs(float(products.mean())) < 5 * 0.25 / math.sqrt(products.numel())


def test_random_keeps_all() -> None:
    assert RandomMask(1.0).draw(64, 64, stream(0, "image", "mask")).all()


# --- box


def box(mask: Tensor) -> tuple[int, int, int, int]:
    """top, left, height, width of the missing box, after checking that it is one."""
    rows, columns = (1 - mask).nonzero(as_tuple=True)
    top, left = int(rows.min()), int(columns.min())
    height, width = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
    assert len(rows) == height * width, "holes in the box"
    return top, left, height, width


@SIZES
@pytest.mark.parametrize("side", [1, 7, 16])
def test_centered_box(size: tuple[int, int], side: int) -> None:
    for mask in draws(BoxMask(side), size)[:3]:
        assert box(mask) == ((size[0] - side) // 2, (size[1] - side) // 2, side, side)


def test_box_anywhere() -> None:
    """Every place inside the image is taken, about equally often, none outside."""
    mask, count = BoxMask(5, centered=False), 1200
    boxes = [box(mask.draw(7, 8, stream(0, f"image{i}", "mask"))[0]) for i in range(count)]
    assert {b[2:] for b in boxes} == {(5, 5)}
    places = [(top, left) for top in range(3) for left in range(4)]
    tally = [sum(b[:2] == place for b in boxes) for place in places]
    assert sum(tally) == count
    assert max(abs(n - count / 12) for n in tally) < 5 * math.sqrt(count / 12)


# --- free form


@SIZES
@pytest.mark.parametrize("missing", [(0.2, 0.3), (0.25, 0.25), (0.05, 0.6)], ids=str)
def test_freeform_share(size: tuple[int, int], missing: tuple[float, float]) -> None:
    """Drawn between the bounds, exact to one brush mark: a disc of pi (r + 1/sqrt 2)^2 pixels at most."""
    brush = (0.05, 0.12)
    mark = math.pi * (brush[1] * min(size) / 2 + math.sqrt(0.5)) ** 2 / math.prod(size)
    shares = [missing_share(mask) for mask in draws(FreeFormMask(missing, brush), size, 150_000)]
    assert missing[0] <= min(shares)
    assert max(shares) <= missing[1] + mark


def test_freeform_share_takes_the_whole_range() -> None:
    """Uniform between the bounds, but for what the last mark adds (half of a mark, 1 %, on average)."""
    low, high = 0.1, 0.5
    shares = np.array([missing_share(mask) for mask in draws(FreeFormMask((low, high)), (32, 32))])
    assert len(shares) == 100
    assert np.histogram(shares, bins=4, range=(low, high))[0].min() >= 12  # 25 +- 4.3 expected


@SIZES
def test_freeform_is_made_of_strokes(size: tuple[int, int]) -> None:
    """Few connected pieces, smooth at the brush's scale, long rather than round: neither noise nor a blob."""
    side, brush = min(size), (0.08, 0.12)
    thinnest, thickest = (share * side / 2 for share in brush)
    reach = math.ceil(thinnest)
    rows, columns = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    disc = rows**2 + columns**2 <= (thinnest - 0.5) ** 2
    for mask in draws(FreeFormMask(brush=brush), size, 100_000):
        missing = mask.numpy() == 0
        pieces = ndimage.label(missing, structure=np.ones((3, 3)))[1]
        assert pieces <= 12

        padded = np.pad(missing, reach, mode="edge")  # marks may be cut by the border
        smooth = ndimage.binary_opening(padded, disc)[reach:-reach, reach:-reach]
        assert smooth.sum() >= 0.9 * missing.sum()

        depth = ndimage.distance_transform_edt(np.pad(missing, 1))  # crossing strokes are thicker than one
        assert depth.max() <= 4 * thickest
        assert np.median(depth[depth > 0]) <= thickest


def test_freeform_brush_sets_the_width() -> None:
    def width(brush: tuple[float, float]) -> float:
        masks = draws(FreeFormMask(brush=brush), (64, 64), 80_000)
        return float(np.mean([ndimage.distance_transform_edt(mask.numpy() == 0).mean() for mask in masks]))

    assert width((0.2, 0.2)) > 2 * width((0.05, 0.05))


@pytest.mark.parametrize("size", [(32, 32), (24, 72), (72, 24)], ids=str)
def test_freeform_reaches_all_places(size: tuple[int, int]) -> None:
    """No corner of the image is spared, none always missing."""
    share = 1 - torch.stack(draws(FreeFormMask(), size)).mean(0)
    blocks = torch.nn.functional.avg_pool2d(share[None], 8)
    assert blocks.min() > 0.05
    assert blocks.max() < 0.5


# --- bad options


@pytest.mark.parametrize(
    "make, option, value",
    [
        (lambda: RandomMask(0.0), "keep", "0.0"),
        (lambda: RandomMask(-0.1), "keep", "-0.1"),
        (lambda: RandomMask(1.5), "keep", "1.5"),
        (lambda: RandomMask(math.nan), "keep", "nan"),
        (lambda: BoxMask(0), "size", "0"),
        (lambda: BoxMask(-3), "size", "-3"),
        (lambda: FreeFormMask(missing=(0.0, 0.3)), "missing", "0.0, 0.3"),
        (lambda: FreeFormMask(missing=(0.3, 0.2)), "missing", "0.3, 0.2"),
        (lambda: FreeFormMask(missing=(0.2, 1.0)), "missing", "0.2, 1.0"),
        (lambda: FreeFormMask(brush=(0.0, 0.1)), "brush", "0.0, 0.1"),
        (lambda: FreeFormMask(brush=(0.2, 0.1)), "brush", "0.2, 0.1"),
        (lambda: FreeFormMask(brush=(0.1, 1.0)), "brush", "0.1, 1.0"),
    ],
)  # fmt: skip
def test_bad_options(make: Callable[[], Mask], option: str, value: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^model\.physics\.init_args\.mask\.init_args\.{option}: .*{value}"
    ):
        make()


@pytest.mark.parametrize("size", [(16, 32), (32, 16), (12, 12)], ids=str)
@pytest.mark.parametrize("centered", [True, False])
def test_box_larger_than_the_image(size: tuple[int, int], centered: bool) -> None:
    with pytest.raises(ConfigError, match=rf"init_args\.size: a box of 16 .* {size[1]}x{size[0]} image"):
        BoxMask(16, centered).draw(*size, stream(0, "image", "mask"))
