"""One table of operators, and what every row of it must satisfy (SPEC section 4).

To add an operator, add a line to CASES. Its per-image parameters come from the operator's own `draw`; for
operators that draw none, `given` makes them.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import deepinv
import numpy as np
import pytest
import torch
from deepinv.physics import Physics
from helpers import blur_network
from torch import Tensor

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.physics import (
    HDR,
    JPEG,
    AnisotropicGaussianKernel,
    BicubicSuperResolution,
    BoxMask,
    Colorization,
    Compose,
    CompressedSensing,
    Degradation,
    Denoising,
    FreeFormMask,
    GaussianDeblurring,
    Inpainting,
    KernelDeblurring,
    MotionKernel,
    NonlinearBlur,
    NoNoise,
    PhaseRetrieval,
    Quantization,
    RandomMask,
    SuperResolution,
    UniformDeblurring,
    UnitRange,
    bind,
)
from reddiff_pl.physics.binding import check_parameters, draw_parameters, operator_of, parameter_names

Parameters = Callable[[torch.Generator], dict[str, Tensor]]

# What A_dagger promises.
EXACT = "exact"  # A A_dagger A = A to 1e-5
TRUNCATED = "truncated"  # A_dagger A A_dagger = A_dagger, |A A_dagger A x - A x| <= cut |x|
CLOSED_FORM = "closed form"  # regularised, or of a nonlinear operator: an image of the right size, no more
ITERATIVE = "iterative"  # the same, and it depends a little on the rest of the batch


def mask(*shape: int) -> Parameters:
    return lambda generator: {"mask": (torch.rand(shape, generator=generator) < 0.5).float()}


def kernel(name: str, *shape: int) -> Parameters:
    """Asymmetric, so that a flipped kernel shows; each image plane sums to 1."""

    def make(generator: torch.Generator) -> dict[str, Tensor]:
        value = torch.rand(shape, generator=generator) ** 2
        return {name: value / value.sum(tuple(range(len(shape)))[-2:], keepdim=True)}

    return make


def peaked_filter(*shape: int) -> Tensor:
    """A blur filter whose Fourier transform stays away from 0."""
    value = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0))
    value[..., shape[-2] // 2, shape[-1] // 2] = 2 * value.sum() / value.shape[1]
    return value / value.sum((-2, -1), keepdim=True)


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], Physics]
    shape: tuple[int, int, int] = (3, 12, 16)
    dagger: str = EXACT
    given: Parameters | None = None
    # nonlinear operators have no adjoint; the gradient is checked by finite differences, or where those are zero
    # against the stated one: gradient of <g, A(x)> with respect to x, from g
    nonlinear: bool = False
    stated: Callable[[Tensor], Tensor] | None = None

    def parameters(self, image: int) -> dict[str, Tensor]:
        """What image number `image` brings to the operator, without a batch dimension."""
        generator = torch.Generator().manual_seed(image)
        return self.given(generator) if self.given else draw_parameters(self.make(), self.shape, generator)

    def batch(self, images: Iterable[int], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """Parameters of a batch. Ours stay float32, as `degrade` makes them; deepinv's must have x's type."""
        each = [self.parameters(image) for image in images]
        foreign = type(operator_of(self.make())).__module__.startswith("deepinv.")
        stacked = {name: torch.stack([one[name] for one in each]) for name in each[0]}
        return {name: value.to(dtype) if foreign else value for name, value in stacked.items()}

    def bound(self, images: Sequence[int], dtype: torch.dtype = torch.float64) -> Physics:
        physics = self.make()
        bind(physics, self.batch(images, dtype))
        return physics

    def pictures(self, count: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return 2 * torch.rand((count, *self.shape), generator=generator, dtype=dtype) - 1


dinv = deepinv.physics
FIXED_MASK = (torch.rand((1, 12, 16), generator=torch.Generator().manual_seed(7)) < 0.5).float()


@functools.cache
def network() -> str:
    return str(blur_network(Path(tempfile.mkdtemp()) / "blur.pt"))


def colours_halved(gradient: Tensor) -> Tensor:
    """The adjoint of chroma reduction and interpolation, from its definition, by the matrix of one plane."""
    height, width = gradient.shape[-2:]
    units = torch.eye(height * width, dtype=gradient.dtype).reshape(-1, 1, height, width)
    means = torch.nn.functional.avg_pool2d(units, 2)
    matrix = torch.nn.functional.interpolate(means, scale_factor=2, mode="bilinear").flatten(1)
    to_grey = torch.tensor([0.299, 0.587, 0.114], dtype=gradient.dtype)
    # x = grey(x) + (x - grey(x)), and only the second part loses resolution; both maps transposed
    colour = (gradient.flatten(2) @ matrix.T).reshape(gradient.shape)
    luminance = (gradient - colour).sum(1, keepdim=True) * to_grey[:, None, None]
    return luminance + colour


def same_gradient(gradient: Tensor) -> Tensor:
    return gradient


CASES = [
    Case("denoising", Denoising),
    Case("bicubic_2x", lambda: BicubicSuperResolution(2)),
    Case("bicubic_4x", lambda: BicubicSuperResolution(4)),
    Case("bicubic_8x", lambda: BicubicSuperResolution(8), (1, 24, 32)),
    Case("deblur_uniform", UniformDeblurring, dagger=TRUNCATED),
    Case("deblur_uniform_small", lambda: UniformDeblurring(3), (1, 9, 6), TRUNCATED),
    Case(
        "deblur_aniso",
        lambda: KernelDeblurring(AnisotropicGaussianKernel(), taps=7),
        dagger=CLOSED_FORM,
    ),
    Case("deblur_motion", lambda: KernelDeblurring(MotionKernel(), taps=9), dagger=CLOSED_FORM),
    Case("deblur_given", lambda: KernelDeblurring(taps=5), (3, 9, 12), CLOSED_FORM, kernel("kernel", 5, 5)),
    Case("colorization", Colorization),
    Case("compressed_sensing", lambda: CompressedSensing(0.3)),
    Case("hdr", HDR, nonlinear=True),
    Case("quantization", Quantization, nonlinear=True, stated=same_gradient),
    Case("quantization_1", lambda: Quantization(1), nonlinear=True, stated=same_gradient),
    Case("jpeg", lambda: JPEG(50), (3, 16, 24), CLOSED_FORM, nonlinear=True, stated=colours_halved),
    Case(
        "jpeg_drawn",
        lambda: JPEG((5, 95), "4:4:4"),
        dagger=CLOSED_FORM,
        nonlinear=True,
        stated=same_gradient,
    ),
    Case("jpeg_grey", JPEG, (1, 12, 16), CLOSED_FORM, nonlinear=True, stated=same_gradient),
    Case("phase_retrieval", PhaseRetrieval, dagger=CLOSED_FORM, nonlinear=True),
    Case("phase_retrieval_odd", lambda: PhaseRetrieval(2), (1, 9, 10), CLOSED_FORM, nonlinear=True),
    Case(
        "nonlinear_blur",
        lambda: NonlinearBlur(network(), trust=True, kernel_shape=[3, 3]),
        dagger=CLOSED_FORM,
        nonlinear=True,
    ),
    Case(
        "inpainting-deblur_motion",
        lambda: Compose([Inpainting(RandomMask(0.5)), KernelDeblurring(MotionKernel(), taps=7)]),
        dagger=CLOSED_FORM,
    ),
    Case("sr2-sr2", lambda: Compose([SuperResolution(2), SuperResolution(2)])),
    Case(
        "sr2-inpainting",
        lambda: Compose([SuperResolution(2), Inpainting(RandomMask(0.5))]),
    ),
    Case(
        "deblur_gauss-inpainting-inpainting",
        lambda: Compose(
            [
                GaussianDeblurring((0.5, 4.0)),
                Compose([Inpainting(RandomMask(0.8)), UnitRange(Inpainting(RandomMask(0.8)))]),
            ]
        ),
        dagger=CLOSED_FORM,
    ),
    Case(
        "unit_sr2-compressed_sensing",
        lambda: UnitRange(Compose([SuperResolution(2), CompressedSensing(0.5)])),
    ),
    Case(
        "inpainting-hdr",
        lambda: Compose([Inpainting(RandomMask(0.5)), HDR()]),
        nonlinear=True,
    ),
    Case(
        "sr2-jpeg",
        lambda: Compose([SuperResolution(2), JPEG((20, 60), "4:4:4")]),
        dagger=CLOSED_FORM,
        nonlinear=True,
        stated=SuperResolution(2).A_adjoint,
    ),
    Case("inpainting_random", lambda: Inpainting(RandomMask(0.3))),
    Case("inpainting_box_centered", lambda: Inpainting(BoxMask(5))),
    Case("inpainting_box", lambda: Inpainting(BoxMask(5, centered=False))),
    Case("inpainting_freeform", lambda: Inpainting(FreeFormMask((0.2, 0.4), (0.1, 0.2)))),
    Case("inpainting_given", Inpainting, given=mask(1, 12, 16)),
    Case("inpainting_per_channel", Inpainting, given=mask(3, 12, 16)),
    Case("superresolution_2x", lambda: SuperResolution(2)),
    Case("superresolution_4x", lambda: SuperResolution(4)),
    Case("deblur_gauss", lambda: GaussianDeblurring(3.0), dagger=TRUNCATED),
    Case("deblur_gauss_box_like", lambda: GaussianDeblurring(25.0), (3, 16, 16), TRUNCATED),
    Case("deblur_gauss_drawn", lambda: GaussianDeblurring((0.5, 4.0), taps=7), dagger=TRUNCATED),
    Case("deblur_gauss_given", GaussianDeblurring, dagger=TRUNCATED, given=kernel("kernel", 5)),
    Case("unit_inpainting", lambda: UnitRange(Inpainting(RandomMask(0.5)))),
    Case("unit_superresolution", lambda: UnitRange(SuperResolution(4))),
    Case("unit_deepinv_decolorize", lambda: UnitRange(dinv.Decolorize())),
    Case("deepinv_inpainting", lambda: dinv.Inpainting(img_size=(3, 12, 16), mask=FIXED_MASK)),
    Case("deepinv_inpainting_given", lambda: dinv.Inpainting(img_size=(3, 12, 16)), given=mask(1, 12, 16)),
    Case("deepinv_decolorize", dinv.Decolorize),
    Case("deepinv_blurfft", lambda: dinv.BlurFFT((3, 12, 16), peaked_filter(1, 5, 5))),
    Case(
        "deepinv_blurfft_given",
        lambda: dinv.BlurFFT((3, 12, 16), peaked_filter(3, 5, 5)),
        given=lambda g: {"filter": 0.7 * peaked_filter(3, 5, 5)[0] + 0.3 * kernel("k", 3, 5, 5)(g)["k"]},
    ),
    Case(
        "deepinv_blur_given",
        lambda: dinv.Blur(filter=peaked_filter(1, 5, 5)),
        dagger=ITERATIVE,
        given=kernel("filter", 1, 5, 5),
    ),
]

PER_IMAGE = [case for case in CASES if case.parameters(0)]
VARYING = [case for case in PER_IMAGE if case.name != "inpainting_box_centered"]  # its masks are all the same


def rows(cases: Iterable[Case]) -> pytest.MarkDecorator:
    """Run a test on these rows of the table."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases])


def linear(physics: Physics, x: Tensor) -> Tensor:
    """The linear part of an affine operator."""
    return physics.A(x) - physics.A(torch.zeros_like(x))


def inner(a: Tensor, b: Tensor) -> Tensor:
    """One inner product an image: a sum over the batch would hide parameters given to the wrong image."""
    return (a * b).flatten(1).sum(1)


def norm(a: Tensor) -> Tensor:
    return a.flatten(1).norm(dim=1)


def same(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


LINEAR = [case for case in CASES if not case.nonlinear]


# --- adjoint, pseudo-inverse, gradients


@rows(LINEAR)
def test_adjoint(case: Case) -> None:
    physics, x = case.bound([0, 1]), case.pictures(2)
    ax = linear(physics, x)
    y = torch.randn(ax.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    aty = physics.A_adjoint(y)
    assert aty.shape == x.shape
    assert ((inner(ax, y) - inner(x, aty)).abs() <= 1e-12 * norm(ax) * norm(y)).all()


@rows([case for case in CASES if case.dagger == EXACT])
def test_exact_pseudo_inverse(case: Case) -> None:
    """In float32, the type it is used in."""
    physics, x = case.bound([0, 1], torch.float32), case.pictures(2, torch.float32)
    y = physics.A(x)
    assert (norm(physics.A(physics.A_dagger(y)) - y) <= 1e-5 * norm(y)).all()


@rows([case for case in CASES if case.dagger == TRUNCATED])
def test_truncated_pseudo_inverse(case: Case) -> None:
    physics, x = case.bound([0, 1]), case.pictures(2)
    y = torch.randn(physics.A(x).shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    start = physics.A_dagger(y)
    assert (norm(physics.A_dagger(physics.A(start)) - start) <= 1e-10 * norm(start)).all()
    lost = norm(physics.A(physics.A_dagger(physics.A(x))) - physics.A(x))
    assert (lost <= operator_of(physics).cut * norm(x)).all()


@rows([case for case in CASES if case.dagger == TRUNCATED])
def test_truncated_pseudo_inverse_is_accurate_in_float32(case: Case) -> None:
    """It divides by as little as `cut`, which must not multiply the rounding errors."""
    physics, y = case.bound([0, 1]), case.pictures(2)
    reference = physics.A_dagger(y)
    assert (norm(physics.A_dagger(y.float()) - reference) <= 3e-7 * norm(reference)).all()


@rows([case for case in CASES if case.dagger in (CLOSED_FORM, ITERATIVE)])
def test_approximate_pseudo_inverse(case: Case) -> None:
    physics, x = case.bound([0, 1], torch.float32), case.pictures(2, torch.float32)
    start = physics.A_dagger(physics.A(x))
    assert start.shape == x.shape
    assert start.isfinite().all()


@rows(LINEAR)
def test_gradient_of_the_data_term(case: Case) -> None:
    """d/dx 1/2 |y - A x|^2 = -A^T (y - A x): samplers use autograd, the theory the adjoint."""
    physics, x = case.bound([0, 1]), case.pictures(2).requires_grad_()
    residual = physics.A(case.pictures(2, seed=3)).detach() - physics.A(x)
    (gradient,) = torch.autograd.grad(0.5 * residual.square().sum(), x)
    same(gradient, -physics.A_adjoint(residual.detach()), 1e-10)


@rows([case for case in CASES if case.stated is None])
def test_gradcheck(case: Case) -> None:
    physics, x = case.bound([0]), case.pictures(1).requires_grad_()
    assert torch.autograd.gradcheck(physics.A, (x,), fast_mode=True)


@rows([case for case in CASES if case.stated is not None])
def test_stated_gradient(case: Case) -> None:
    """Of operators that are flat almost everywhere."""
    physics, x = case.bound([0, 1]), case.pictures(2).requires_grad_()
    y = physics.A(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(4), dtype=x.dtype)
    (gradient,) = torch.autograd.grad((weight * y).sum(), x)
    assert case.stated is not None
    same(gradient, case.stated(weight))


@rows(CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dtype(case: Case, dtype: torch.dtype) -> None:
    physics, x = case.bound([0], dtype), case.pictures(1, dtype)
    y = physics.A(x)
    assert (y.dtype, physics.A_dagger(y).dtype) == (dtype, dtype)
    if not case.nonlinear:
        assert physics.A_adjoint(y).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8, torch.bool], ids=str)
def test_type_of_the_mask_does_not_matter(dtype: torch.dtype) -> None:
    """Samples bring masks as PNG and npy; the type that counts is the image's."""
    physics, x = Inpainting(), torch.rand(2, 3, 12, 16)
    bind(physics, {"mask": FIXED_MASK[None].to(dtype)})
    y = physics.A(x)
    assert y.dtype == torch.float32
    assert torch.equal(y, FIXED_MASK * x)


# --- parameters, one set an image


@rows(CASES)
def test_batch_equals_single_images(case: Case) -> None:
    together, x = case.bound([0, 1, 2]), case.pictures(3)
    for image in range(3):
        alone, one = case.bound([image]), slice(image, image + 1)
        y = alone.A(x[one])
        same(together.A(x)[one], y)
        if not case.nonlinear:
            same(together.A_adjoint(together.A(x))[one], alone.A_adjoint(y))
        if case.dagger != ITERATIVE:  # an iteration stops with the slowest image of its batch
            same(together.A_dagger(together.A(x))[one], alone.A_dagger(y))


@rows(VARYING)
def test_images_meet_their_own_parameters(case: Case) -> None:
    """One picture, three parameter sets: three measurements."""
    y = case.bound([0, 1, 2]).A(case.pictures(1).expand(3, -1, -1, -1))
    for first, second in itertools.combinations(y, 2):
        assert (first - second).norm() > 1e-2 * first.norm()


@rows(VARYING)
def test_bind_again(case: Case) -> None:
    """Batches of other sizes, and back: nothing of the old ones stays."""
    physics = case.make()
    for images in ([0, 1, 2], [3, 4], [5], [6, 7, 8], [9, 0, 1]):
        x = case.pictures(len(images))
        bind(physics, case.batch(images))
        same(physics.A(x), case.bound(images).A(x))
        if case.dagger != ITERATIVE:
            same(physics.A_dagger(physics.A(x)), case.bound(images).A_dagger(physics.A(x)))


@rows(VARYING)
def test_bind_keeps_the_storage(case: Case) -> None:
    """Captured graphs read the addresses that they saw at capture."""
    physics = case.bound([0, 1, 2])
    buffers = {
        name: value for name, value in operator_of(physics).named_buffers() if not name.startswith("_")
    }
    addresses, x = {name: value.data_ptr() for name, value in buffers.items()}, case.pictures(3)
    bind(physics, case.batch([3, 4, 5]))
    assert {name: operator_of(physics).get_buffer(name).data_ptr() for name in addresses} == addresses
    same(physics.A(x), case.bound([3, 4, 5]).A(x))


@rows(VARYING)
def test_bind_copies(case: Case) -> None:
    """Operator and caller do not write into each other's tensors."""
    first = case.batch([0, 1])
    before = {name: value.clone() for name, value in first.items()}
    physics, x = case.make(), case.pictures(2)
    bind(physics, first)
    bind(physics, case.batch([2, 3]))
    assert all(torch.equal(first[name], before[name]) for name in first)
    last = case.batch([4, 5])
    bind(physics, last)
    expected = physics.A(x)
    for value in last.values():
        value.zero_()
    same(physics.A(x), expected)


@rows(PER_IMAGE)
def test_parameters_stay_out_of_state_dict(case: Case) -> None:
    """A checkpoint of the prior must not hold the masks of the last batch, nor demand those of the first."""
    for images in ([0], [1, 2]):
        assert list(case.bound(images, torch.float32).state_dict()) == []


def test_bind_recomputes_derived_quantities() -> None:
    """BlurFFT works on the Fourier transform of its filter."""
    x = torch.rand(2, 3, 12, 16)
    physics = dinv.BlurFFT((3, 12, 16), peaked_filter(3, 5, 5))
    old, new = physics.A(x), torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    bind(physics, {"filter": new})
    for image in range(2):
        expected = dinv.BlurFFT((3, 12, 16), new[image : image + 1]).A(x[image : image + 1])
        same(physics.A(x)[image : image + 1], expected, 1e-5)
        assert (old[image] - expected).norm() > 0.1 * old[image].norm()


@pytest.mark.parametrize("wrap", [lambda p: p, UnitRange], ids=["plain", "unit_range"])
def test_bind_unknown_name(wrap: Callable[[Physics], Physics]) -> None:
    with pytest.raises(SampleError, match=r"GaussianDeblurring has no parameter mask"):
        bind(wrap(GaussianDeblurring()), {"mask": torch.ones(1, 1, 8, 8)})


@pytest.mark.parametrize(
    "physics, names",
    [
        (Inpainting(), ["mask"]),
        (UnitRange(GaussianDeblurring()), ["kernel"]),
        (SuperResolution(), []),
        (dinv.Blur(), ["filter"]),
    ],
    ids=["inpainting", "unit_blur", "superresolution", "deepinv_blur"],
)
def test_parameter_names(physics: Physics, names: list[str]) -> None:
    assert parameter_names(physics) == names


# --- what samples bring is checked


@pytest.mark.parametrize(
    "physics, name, value, message",
    [
        (Inpainting(), "mask", torch.ones(1, 8, 9), r"\(1, 8, 9\), expected \(1, 8, 6\) or \(3, 8, 6\)"),
        (Inpainting(), "mask", torch.ones(8, 6), r"mask has shape \(8, 6\), expected"),
        (UnitRange(Inpainting()), "mask", torch.ones(2, 8, 6), r"mask has shape \(2, 8, 6\), expected"),
        (Inpainting(), "mask", torch.full((1, 8, 6), torch.nan), "mask holds NaN"),
        (GaussianDeblurring(), "kernel", torch.ones(7), r"kernel has shape \(7,\), expected \(5,\)"),
        (GaussianDeblurring(), "kernel", torch.tensor([0, 0, torch.nan, 0, 0]), "kernel holds NaN"),
        (GaussianDeblurring(), "kernel", torch.tensor([0, 0, torch.inf, 0, 0]), "kernel holds .* infinite"),
        (dinv.Blur(filter=torch.ones(1, 1, 3, 3)), "filter", torch.ones(1, 5, 5), r"expected \(1, 3, 3\)"),
    ],
)  # fmt: skip
def test_check_parameters_refuses(physics: Physics, name: str, value: Tensor, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        check_parameters(physics, (3, 8, 6), {name: value})


@rows(PER_IMAGE)
def test_check_parameters_accepts_what_fits(case: Case) -> None:
    check_parameters(case.make(), case.shape, case.parameters(0))


def test_check_parameters_accepts_the_filter_that_the_operator_was_made_with() -> None:
    one_for_all_channels = peaked_filter(1, 5, 5)
    physics = dinv.BlurFFT((3, 12, 16), one_for_all_channels)
    check_parameters(physics, (3, 12, 16), {"filter": one_for_all_channels[0]})


@rows(CASES)
def test_degradation_measures_as_the_bound_operator(case: Case) -> None:
    """Loader and sampler see one operator: y of image i is row i of A, bound to the batch's parameters."""
    degradation, x = Degradation(case.make(), NoNoise(), case.shape, seed=0), case.pictures(3, torch.float32)
    physics = case.bound([0, 1, 2], torch.float32)
    for image in range(3):
        y, params = degradation(x[image], f"key{image}", case.parameters(image))
        assert all(torch.equal(params[name], value) for name, value in case.parameters(image).items())
        same(y, physics.A(x)[image])
        accepted, _, shape = degradation.accept(y, f"key{image}", params)
        assert shape == case.shape
        # a pixel of a blur that sees masked pixels only is 0, up to what its Fourier transforms round
        assert (accepted - y).abs().max() < 1e-7


# --- against matrices written out


def dense(operator: Callable[[Tensor], Tensor], shape: tuple[int, int, int]) -> np.ndarray:
    """The matrix of a linear map: its images of the unit vectors, as columns."""
    units = torch.eye(int(np.prod(shape)), dtype=torch.float64).reshape(-1, *shape)
    return operator(units).flatten(1).numpy().T


def blur_matrix(taps: np.ndarray, height: int, width: int) -> np.ndarray:
    """y[i, j] = sum_ab taps[a] taps[b] x[i - a + c, j - b + c], x = 0 outside the image."""
    matrix, center = np.zeros((height, width, height, width)), len(taps) // 2
    for i, j, a, b in itertools.product(range(height), range(width), range(len(taps)), range(len(taps))):
        row, column = i - a + center, j - b + center
        if 0 <= row < height and 0 <= column < width:
            matrix[i, j, row, column] += taps[a] * taps[b]
    return matrix.reshape(height * width, height * width)


@pytest.mark.parametrize(
    "sigma, taps", [(3.0, 5), (25.0, 5), (0.8, 7), (None, 5)], ids=["3", "25", ".8", "given"]
)
def test_gaussian_deblurring_matrix(sigma: float | None, taps: int) -> None:
    height, width = 9, 6
    if sigma is None:
        physics, values = GaussianDeblurring(), np.array([0.05, 0.1, 0.2, 0.5, 0.15])
        bind(physics, {"kernel": torch.tensor(values)[None]})
    else:
        physics = GaussianDeblurring(sigma, taps)
        values = np.array([np.exp(-((i - taps // 2) ** 2) / (2 * sigma**2)) for i in range(taps)])
        values /= values.sum()
    matrix = blur_matrix(values, height, width)
    np.testing.assert_allclose(dense(physics.A, (1, height, width)), matrix, atol=1e-7)
    np.testing.assert_allclose(dense(physics.A_adjoint, (1, height, width)), matrix.T, atol=1e-7)

    u, s, vh = np.linalg.svd(matrix)
    kept = s >= physics.cut
    assert abs(s - physics.cut).min() > 1e-5, (
        "a value at the cut would make the next line a matter of rounding"
    )
    inverse = (vh.T[:, kept] / s[kept]) @ u.T[kept]
    # the kernel is stored in float32, and errors grow by up to 1 / cut^2
    np.testing.assert_allclose(
        dense(physics.A_dagger, (1, height, width)), inverse, atol=1e-6 / physics.cut**2
    )


def test_gaussian_deblurring_truncates() -> None:
    """Both usual settings have singular values on both sides of the cut: else nothing above tests the cut."""
    for sigma in (3.0, 25.0):
        s = np.linalg.svd(dense(GaussianDeblurring(sigma).A, (1, 12, 12)), compute_uv=False)
        assert 0.1 < (s < 3e-2).mean() < 0.9


def test_gaussian_deblurring_borders_turn_grey() -> None:
    """Zeros around the [-1, 1] image are grey: a black image keeps its middle, its corners brighten."""
    y = GaussianDeblurring(25.0).A(-torch.ones(1, 3, 12, 12))
    same(y[..., 2:-2, 2:-2], -torch.ones(1, 3, 8, 8))
    same(y[..., 0, 0], torch.full((1, 3), -((3 / 5) ** 2)), 1e-2)  # 3 of 5 taps inside, each about 1/5


@pytest.mark.parametrize("factor, shape", [(2, (3, 4, 6)), (4, (1, 12, 8)), (3, (2, 3, 9)), (1, (1, 2, 3))])
def test_superresolution_matrix(factor: int, shape: tuple[int, int, int]) -> None:
    physics, x = SuperResolution(factor), torch.rand(2, *shape, dtype=torch.float64)
    expected = torch.zeros(2, shape[0], shape[1] // factor, shape[2] // factor, dtype=torch.float64)
    for i, j in itertools.product(range(expected.shape[2]), range(expected.shape[3])):
        block = x[:, :, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
        expected[:, :, i, j] = block.sum((2, 3)) / factor**2
    same(physics.A(x), expected, 1e-14)
    matrix = dense(physics.A, shape)
    np.testing.assert_allclose(
        dense(physics.A_dagger, tuple(expected.shape[1:])), np.linalg.pinv(matrix), atol=1e-12
    )


def test_unit_range() -> None:
    """Black is 0 and white is 1 to the operator inside."""
    x = 2 * torch.rand(2, 3, 12, 16, dtype=torch.float64) - 1
    physics = UnitRange(SuperResolution(4))
    same(physics.A(x), SuperResolution(4).A((x + 1) / 2), 1e-14)
    same(physics.A_dagger(torch.full((1, 3, 3, 4), 0.25)), torch.full((1, 3, 12, 16), -0.5), 1e-14)


# --- bad options


@pytest.mark.parametrize(
    "use, option",
    [
        (lambda: SuperResolution(0), "factor"),
        (lambda: GaussianDeblurring(0.0), "sigma"),
        (lambda: GaussianDeblurring(float("nan")), "sigma"),
        (lambda: GaussianDeblurring((2.0, 1.0)), "sigma"),
        (lambda: GaussianDeblurring((-1.0, 1.0)), "sigma"),
        (lambda: GaussianDeblurring(taps=4), "taps"),
        (lambda: GaussianDeblurring(taps=-1), "taps"),
        (lambda: Inpainting().A(torch.zeros(1, 3, 8, 8)), "no mask"),
    ],
)
def test_bad_options(use: Callable[[], object], option: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.physics\b.*\b{option}\b"):
        use()
