"""Operators with a known singular value decomposition: the decomposition is one, and is that of A."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from reddiff_pl.physics import (
    AnisotropicGaussianKernel,
    BicubicSuperResolution,
    Colorization,
    CompressedSensing,
    Decomposable,
    Denoising,
    GaussianDeblurring,
    Inpainting,
    KernelDeblurring,
    MotionKernel,
    Separable,
    SuperResolution,
    UniformDeblurring,
    bind,
)
from reddiff_pl.physics.binding import draw_parameters

pytestmark = pytest.mark.usefixtures("one_thread")


class Stretched(Separable):
    """Rows and columns by matrices of their own, one pair an image; more rows than pixels, fewer columns, rank lost."""

    cut = 1e-6

    def matrices(self, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        draws = torch.Generator().manual_seed(0)
        rows = torch.randn(3, height + 2, height, generator=draws, dtype=torch.float64)
        columns = torch.randn(3, width // 2, width, generator=draws, dtype=torch.float64)
        columns[:, 0] = columns[:, 1]
        return rows.to(dtype), columns.to(dtype)

    def size_of(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return shape[-2] - 2, shape[-1] * 2


def inpainting(channels: int) -> Inpainting:
    physics = Inpainting()
    mask = torch.rand(3, channels, 6, 8, generator=torch.Generator().manual_seed(1)) < 0.5
    bind(physics, {"mask": mask.float()})
    return physics


def blur(*sigmas: float) -> GaussianDeblurring:
    physics = GaussianDeblurring(2.0)
    if sigmas:
        kernels = [GaussianDeblurring(sigma).kernel[0] for sigma in sigmas]
        bind(physics, {"kernel": torch.stack(kernels)})
    return physics


def drawn(physics: Decomposable) -> Decomposable:
    """With the parameters of three images."""
    draws = torch.Generator().manual_seed(2)
    images = [draw_parameters(physics, (2, 6, 8), draws) for _ in range(3)]
    bind(physics, {name: torch.stack([one[name] for one in images]) for name in images[0]})
    return physics


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], Decomposable]
    shape: tuple[int, int, int] = (2, 6, 8)


CASES = [
    Case("inpainting", lambda: inpainting(1)),
    Case("inpainting_per_channel", lambda: inpainting(2)),
    Case("superresolution_2x", lambda: SuperResolution(2)),
    Case("superresolution_3x", lambda: SuperResolution(3), (1, 6, 9)),
    Case("superresolution_4x", lambda: SuperResolution(4), (1, 4, 12)),
    Case("blur", blur),
    Case("blur_square", blur, (2, 7, 7)),
    Case("blur_per_image", lambda: blur(0.6, 2.0, 30.0)),
    Case("stretched", Stretched),
    Case("denoising", Denoising),
    Case("colorization", Colorization, (3, 4, 5)),
    Case("bicubic_2x", lambda: BicubicSuperResolution(2)),
    Case("bicubic_4x", lambda: BicubicSuperResolution(4), (1, 8, 12)),
    Case("uniform_blur", UniformDeblurring),
    Case("uniform_blur_small", lambda: UniformDeblurring(3), (2, 7, 7)),
    Case("kernel_aniso", lambda: drawn(KernelDeblurring(AnisotropicGaussianKernel(), taps=5))),
    Case("kernel_motion", lambda: drawn(KernelDeblurring(MotionKernel(), taps=5)), (1, 7, 8)),
    Case("compressed_sensing", lambda: drawn(CompressedSensing(0.4))),
]
EACH = pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(operator: Callable[[Tensor], Tensor], shape: tuple[int, ...], image: int) -> Tensor:
    """The matrix of a linear map for one image of a batch of three, (M, D)."""
    units = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).reshape(-1, *shape)
    columns = [operator(unit.expand(3, *shape))[image].flatten() for unit in units]
    return torch.stack(columns, 1)


def near(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@EACH
def test_v_is_orthogonal(case: Case) -> None:
    physics, x = case.make(), pictures(3, *case.shape)
    near(physics.V(physics.V_adjoint(x)), x)
    near(physics.V_adjoint(physics.V(x)), x)
    near(physics.V(x).square().sum((1, 2, 3)), x.square().sum((1, 2, 3)))


@EACH
def test_u_is_orthogonal_where_something_is_measured(case: Case) -> None:
    physics, c = case.make(), pictures(3, *case.shape)
    seen = physics.singular_values(c).expand_as(c) > 0
    near(physics.U_adjoint(physics.U(c)), torch.where(seen, c, 0))
    near(physics.U(torch.where(seen, 0, c)), torch.zeros_like(physics.A(c)))
    near(physics.U(c).flatten(1).square().sum(1), torch.where(seen, c, 0).flatten(1).square().sum(1))
    y = pictures(*physics.A(c).shape, seed=1)
    near((physics.U(c) * y).flatten(1).sum(1), (c * physics.U_adjoint(y)).flatten(1).sum(1))


@EACH
def test_it_is_the_decomposition_of_the_operator(case: Case) -> None:
    physics, x = case.make(), pictures(3, *case.shape)
    s = physics.singular_values(x)
    assert (s >= 0).all()
    y = physics.A(x)
    near(physics.U(s * physics.V_adjoint(x)), y, 1e-7)  # kernels are kept in float32
    near(physics.V(s * physics.U_adjoint(y)), physics.A_adjoint(y), 1e-7)
    for image in range(3):
        wanted = torch.linalg.svdvals(dense(physics.A, case.shape, image))
        found = s.expand_as(x)[image].flatten().sort(descending=True).values
        near(found[: len(wanted)], wanted[: len(found)], 1e-7)


@EACH
def test_pseudo_inverse_follows(case: Case) -> None:
    """From the four maps, as the subclass's own shortcut has it, and as the dense matrix has it."""
    physics = case.make()
    if isinstance(physics, KernelDeblurring):
        pytest.skip("its A_dagger is a Wiener filter")
    y = physics.A(pictures(3, *case.shape)) + pictures(*physics.A(pictures(3, *case.shape)).shape, seed=2)
    near(Decomposable.A_dagger(physics, y), physics.A_dagger(y))
    for image in range(3):
        # dense singular values are as those above: at half the cut none is in doubt but a zero's rounding
        u, s, vh = torch.linalg.svd(dense(physics.A, case.shape, image), full_matrices=False)
        kept = s >= max(physics.cut, 1e-9)
        inverse = (vh.T[:, kept] / s[kept]) @ u.T[kept]
        near(physics.A_dagger(y)[image].flatten(), inverse @ y[image].flatten(), 1e-5)


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("kernel")], ids=lambda c: c.name)
def test_wiener_filter(case: Case) -> None:
    """argmin_x |y - A x|^2 + regularization |x|^2."""
    physics = case.make()
    y = pictures(3, *case.shape)
    near(physics.A_dagger(y), physics.prox(torch.zeros_like(y), y, physics.regularization))


@EACH
@pytest.mark.parametrize(
    "rho", [torch.tensor([1e-3, 0.2, 5.0], dtype=torch.float64), 0.3], ids=["each", "one"]
)
def test_proximal_step(case: Case, rho: Tensor | float) -> None:
    """Against (A^T A + rho I)^-1 (A^T y + rho z) with dense matrices."""
    physics, z = case.make(), pictures(3, *case.shape)
    y = pictures(*physics.A(z).shape, seed=3)
    x = physics.prox(z, y, rho)
    for image in range(3):
        A = dense(physics.A, case.shape, image)
        weight = rho[image] if isinstance(rho, Tensor) else rho
        left = A.T @ A + weight * torch.eye(A.shape[1], dtype=torch.float64)
        wanted = torch.linalg.solve(left, A.T @ y[image].flatten() + weight * z[image].flatten())
        near(x[image].flatten(), wanted, 1e-5)


@pytest.mark.parametrize("case", [CASES[0], CASES[2]], ids=lambda case: case.name)
def test_proximal_step_without_weight_fits_the_measurement(case: Case) -> None:
    physics, z = case.make(), pictures(3, *case.shape)
    y = physics.A(pictures(3, *case.shape, seed=4))
    x = physics.prox(z, y, 0.0)
    near(physics.A(x), y)
    unseen = physics.singular_values(z).expand_as(z) == 0
    near(physics.V_adjoint(x)[unseen], physics.V_adjoint(z)[unseen])


def test_the_kept_decomposition_follows_the_kernel() -> None:
    """It is kept between calls, and not a call longer than the kernel."""
    physics, x = blur(0.6, 2.0, 30.0), pictures(3, 1, 9, 9)
    before = physics.singular_values(x)
    assert physics._axes(x)[0] is physics._axes(x)[1] is physics._axes(x)[0]
    bind(physics, {"kernel": torch.stack([GaussianDeblurring(1.0).kernel[0]] * 3)})  # into the same storage
    near(physics.singular_values(x)[:1], GaussianDeblurring(1.0).singular_values(x))
    assert (physics.singular_values(x) - before).abs().max() > 0.1
    assert physics.singular_values(x[..., :6, :5]).shape[-2:] == (6, 5)


@EACH
def test_dtype(case: Case) -> None:
    physics, x = case.make(), pictures(3, *case.shape).float()
    y = physics.A(x)
    parts = [physics.V(x), physics.V_adjoint(x), physics.U(x), physics.U_adjoint(y), physics.prox(x, y, 0.1)]
    assert {part.dtype for part in [*parts, physics.singular_values(x)]} == {torch.float32}
