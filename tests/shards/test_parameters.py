"""Masks as people make them: whatever can be meant is taken, with a line where it is not plain; the rest fails."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from reddiff_pl.errors import SampleError
from reddiff_pl.physics import Degradation, Inpainting, KernelDeblurring, NoNoise
from reddiff_pl.shards.decode import MAX_PIXELS
from reddiff_pl.shards.parameters import given_parameters

KEPT = np.ones((6, 8), bool)
KEPT[2:4, 3:7] = False
WHITE = (255 * KEPT).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def npy(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def given(members: dict[str, bytes], invert: bool = False) -> tuple[torch.Tensor, list[str]]:
    degradation = Degradation(Inpainting(), NoNoise(), (3, 6, 8), 0)
    notes: list[str] = []
    found = given_parameters(members, degradation, MAX_PIXELS, invert, notes)["mask"]
    degradation.parameters("key", {"mask": found}, (3, 6, 8))  # it fits
    return found, notes


@pytest.mark.parametrize(
    ("member", "content", "says"),
    [
        ("mask.png", png(WHITE), ""),
        ("mask.png", png(np.dstack([WHITE, WHITE, WHITE, np.full_like(WHITE, 255)])), ""),
        ("mask.png", png(np.dstack([np.full_like(WHITE, 255), WHITE, WHITE])), "are greys"),  # red strokes
        ("mask.png", png(KEPT.astype(np.uint8)), "1 is taken as white"),
        ("mask.npy", npy(KEPT), ""),
        ("mask.npy", npy(KEPT[None].astype(np.int64)), ""),
        ("mask.npy", npy(np.stack([WHITE] * 3)), ""),
    ],
)
def test_masks_in_many_forms_are_one_mask(member, content, says):
    mask, notes = given({member: content})
    assert bool((mask == torch.from_numpy(KEPT).float()).all())
    assert (says in notes[0]) if says else not notes
    assert bool((given({member: content}, invert=True)[0] == 1 - mask).all())


@pytest.mark.parametrize(
    ("members", "says"),
    [
        # the mask lies in the transparency, over one colour or under black strokes
        ({"mask.png": png(np.dstack([np.full((6, 8, 3), 255, np.uint8), WHITE]))}, "17% of it are transparent"),
        ({"mask.png": png(np.dstack([np.zeros((6, 8, 3), np.uint8), 255 - WHITE]))}, "83% of it are transparent"),
        ({"mask.png": png(WHITE), "mask.npy": npy(KEPT)}, "mask.npy and mask.png are both its mask"),
        ({"mask.png": png(WHITE[:3])}, r"mask has shape \(1, 3, 8\), expected \(1, 6, 8\)"),
        ({"mask.npy": npy(KEPT[..., None])}, "the channels come first"),
        ({"mask.npy": npy(np.where(KEPT, 1, 0.5))}, "values other than 0 and 1"),
    ],
)  # fmt: skip
def test_masks_of_unknown_meaning_fail(members, says):
    with pytest.raises(SampleError, match=says):
        given(members)


def test_masks_that_change_nothing_or_leave_nothing_are_told():
    assert "keeps all" in given({"mask.png": png(np.full_like(WHITE, 255))})[1][0]
    assert "keeps nothing" in given({"mask.png": png(np.zeros_like(WHITE))})[1][0]


def test_a_kernel_in_other_units_fails():
    degradation = Degradation(KernelDeblurring(), NoNoise(), (3, 6, 8), 0)
    for total in (1.0, 1.3):
        content = npy(np.full((2, 3), total / 6))
        found = given_parameters({"kernel.npy": content}, degradation, MAX_PIXELS, False, [])
        assert float(found["kernel"].sum()) == pytest.approx(total)
    for total in (0.1, 255.0):
        with pytest.raises(SampleError, match="expected about 1; divide it by its sum"):
            given_parameters(
                {"kernel.npy": npy(np.full((2, 3), total / 6))}, degradation, MAX_PIXELS, False, []
            )
    edges = npy(np.array([[1.0, -1.0]]))  # a difference is no blur, and may be meant
    assert given_parameters({"kernel.npy": edges}, degradation, MAX_PIXELS, False, [])
