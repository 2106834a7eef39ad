"""What single operators compute, against other implementations and written-out definitions."""

from __future__ import annotations

import io
import itertools

import imagecodecs
import numpy as np
import pytest
import torch
from helpers import blur_network
from PIL import Image, ImageOps
from torch import Tensor

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.physics import (
    HDR,
    JPEG,
    AnisotropicGaussianKernel,
    BicubicSuperResolution,
    Colorization,
    Compose,
    CompressedSensing,
    GaussianDeblurring,
    Inpainting,
    KernelDeblurring,
    MotionKernel,
    NonlinearBlur,
    PhaseRetrieval,
    Quantization,
    RandomMask,
    SuperResolution,
    UniformDeblurring,
    UnitRange,
    bind,
)
from reddiff_pl.physics.binding import (
    check_parameters,
    draw_parameters,
    measured,
    measurement_scale,
    parameter_names,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def pictures(*shape: int) -> Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1


def small_photos(photos: dict[str, bytes], width: int, height: int) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(photo)).convert("RGB").resize((64, 64)).crop((0, 0, width, height))
        for photo in list(photos.values())[:8]
    ]


def tensor(picture: Image.Image) -> Tensor:
    array = np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1).astype(np.float32)
    return torch.from_numpy(array)[None] / 127.5 - 1


# --- JPEG


@pytest.mark.parametrize("quality, exact, off", [(10, 0.99, 0.15), (40, 0.97, 0.15), (75, 0.95, 0.2)])
@pytest.mark.parametrize("mode", ["4:2:0", "4:4:4", "grey"])
@pytest.mark.parametrize("size", [(64, 64), (61, 43)], ids=str)
def test_jpeg_against_libjpeg(photos, mode, quality, exact, off, size) -> None:
    """Nearly every pixel is the one that Pillow decodes; the rest is a coefficient in a thousand on another step."""
    same = error = count = 0.0
    physics = JPEG(quality, "4:2:0" if mode == "grey" else mode)
    for picture in small_photos(photos, *size):
        source, file = picture.convert("L") if mode == "grey" else picture, io.BytesIO()
        source.save(file, "JPEG", quality=quality, subsampling={"4:2:0": 2}.get(mode, 0))
        expected = tensor(Image.open(file))
        y = physics.A(tensor(source))
        levels = ((y - expected) * 127.5).abs()
        same += float((levels < 0.5).sum())
        error += float(levels.sum())
        count += levels.numel()
        assert torch.equal(physics.parameters_of_file(file.getvalue())["tables"][0], physics.tables[0, 0])
    assert same / count > exact and error / count < off


def test_jpeg_loses_more_at_lower_quality(photos) -> None:
    x = torch.cat([tensor(picture) for picture in small_photos(photos, 64, 64)])
    errors = [float((JPEG(quality).A(x) - x).square().mean()) for quality in (90, 50, 20, 5)]
    assert errors == sorted(errors) and errors[-1] > 10 * errors[0]


def test_jpeg_reads_tables_of_jpeg_files_only(photos) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    assert JPEG().parameters_of_file(file.getvalue()) == {}
    file = io.BytesIO()
    Image.new("CMYK", (16, 16)).save(file, "JPEG")
    with pytest.raises(SampleError, match="luminance and two planes"):
        JPEG().parameters_of_file(file.getvalue())


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
@pytest.mark.parametrize("chroma", ["444", "422", "420", "440", "411", "grey"])
def test_a_jpeg_file_says_how_it_was_made(photos, chroma: str, orientation: int) -> None:
    """Tables, the reduction of colours and the orientation; sides that no block and no reduction divides."""
    [photo] = small_photos(photos, 61, 45)[:1]
    stored = np.asarray(photo.convert("L") if chroma == "grey" else photo)
    how = "444" if chroma == "grey" else chroma
    content = imagecodecs.jpeg8_encode(stored, level=25, subsampling=how)
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    content = content[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + content[2:]
    file = Image.open(io.BytesIO(content))
    expected = tensor(ImageOps.exif_transpose(file))
    upright = Image.fromarray(stored)
    upright.getexif()[0x0112] = orientation
    x = tensor(ImageOps.exif_transpose(upright))
    physics = JPEG(90)
    told = physics.parameters_of_file(content)
    check_parameters(physics, tuple(x.shape[1:]), told)
    bind(physics, {name: value[None] for name, value in told.items()})
    levels = ((physics.A(x) - expected) * 127.5).abs()
    assert levels.shape[1:] == expected.shape[1:] and float((levels < 0.5).float().mean()) > 0.93
    assert float(levels.mean()) < 0.4


# --- reductions and blurs


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_bicubic_against_pillow(factor: int) -> None:
    """The same away from the borders, which Pillow cuts off and we mirror."""
    x = pictures(64, 64)
    expected = Image.fromarray(x.numpy()).resize((64 // factor, 64 // factor), Image.Resampling.BICUBIC)
    y = BicubicSuperResolution(factor).A(x[None, None])[0, 0]
    np.testing.assert_allclose(y[2:-2, 2:-2], np.asarray(expected)[2:-2, 2:-2], atol=1e-6)


@pytest.mark.parametrize("n", [8, 4])
def test_bicubic_mirrors_borders(n: int) -> None:
    """The same as reducing the mirrored image, and taking its middle; also where the filter is the longer one."""
    x, physics = pictures(1, 1, n, n), BicubicSuperResolution(4)
    wide = torch.cat([x.flip(-1), x, x.flip(-1)], -1)
    wide = torch.cat([wide.flip(-2), wide, wide.flip(-2)], -2)
    wide = torch.cat([wide.flip(-1), wide, wide.flip(-1)], -1)
    wide = torch.cat([wide.flip(-2), wide, wide.flip(-2)], -2)
    m = n // 4
    middle = physics.A(wide)[..., 4 * m : 5 * m, 4 * m : 5 * m]
    torch.testing.assert_close(physics.A(x), middle)
    assert (physics.A(torch.ones(1, 1, n, n)) - 1).abs().max() < 1e-6


def test_uniform_blur() -> None:
    x = pictures(2, 3, 12, 15)
    expected = torch.nn.functional.avg_pool2d(x, 9, stride=1, padding=4)
    torch.testing.assert_close(UniformDeblurring(9).A(x), expected)


def test_convolution_goes_around() -> None:
    """y[i, j] = sum_ab kernel[a, b] x[i - a + 2, j - b + 2], indices modulo the size; one kernel an image."""
    x, kernel = pictures(2, 1, 7, 8).double(), torch.rand(2, 5, 5, dtype=torch.float64)
    physics = KernelDeblurring(taps=5)
    bind(physics, {"kernel": kernel})
    expected = torch.zeros_like(x)
    for a, b in itertools.product(range(5), range(5)):
        expected += kernel[:, a, b, None, None, None] * x.roll((a - 2, b - 2), (-2, -1))
    torch.testing.assert_close(physics.A(x), expected)


def test_wiener_filter_undoes_a_mild_blur() -> None:
    physics, x = (
        KernelDeblurring(AnisotropicGaussianKernel((0.6, 0.4), 30.0), 7, 1e-8),
        pictures(1, 3, 16, 16),
    )
    bind(physics, {"kernel": physics.draw((3, 16, 16), torch.Generator())["kernel"][None]})
    y = physics.A(x)
    assert (y - x).norm() > 0.1 * x.norm()
    assert (physics.A_dagger(y) - x).norm() < 1e-3 * x.norm()


@pytest.mark.parametrize("angle, axis", [(0.0, 1), (90.0, 0)])
def test_anisotropic_kernel(angle: float, axis: int) -> None:
    kernel = AnisotropicGaussianKernel((2.0, 0.7), angle).draw(21, torch.Generator()).double()
    offset = torch.arange(21) - 10.0
    spread = [float((kernel.sum(1 - dim) * offset**2).sum().sqrt()) for dim in (0, 1)]
    assert spread[axis] == pytest.approx(2.0, rel=1e-2) and spread[1 - axis] == pytest.approx(0.7, rel=2e-2)


@pytest.mark.parametrize("source", [AnisotropicGaussianKernel(), MotionKernel(), MotionKernel(spread=2.0)])
def test_kernels_are_drawn_by_the_generator_alone(source) -> None:
    drawn = [source.draw(9, torch.Generator().manual_seed(seed)) for seed in (0, 1, 2, 0)]
    for kernel in drawn:
        assert kernel.shape == (9, 9) and (kernel >= 0).all() and float(kernel.sum()) == pytest.approx(1)
    assert torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


def test_motion_kernels_are_paths() -> None:
    """Connected, thin, and longer where the spread is."""
    sizes = {}
    for spread in (0.1, 0.3):
        kernels = [MotionKernel(spread=spread).draw(15, torch.Generator().manual_seed(i)) for i in range(20)]
        sizes[spread] = float(torch.stack([(kernel > 0).sum() for kernel in kernels]).double().mean())
    assert 2 < sizes[0.1] < 0.7 * sizes[0.3] < 0.3 * 15**2


# --- the others


def test_colorization_is_the_mean() -> None:
    x = pictures(2, 3, 4, 5)
    torch.testing.assert_close(Colorization().A(x), (x[:, :1] + x[:, 1:2] + x[:, 2:]) / 3)


def test_hdr() -> None:
    x = torch.tensor([-1.0, -0.6, -0.2, 0.0, 0.3, 0.5, 0.9]).reshape(1, 1, 1, 7)
    y = HDR().A(x).flatten()
    torch.testing.assert_close(y, torch.tensor([-1.0, -1.0, -0.4, 0.0, 0.6, 1.0, 1.0]))


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_quantization_keeps_its_levels(bits: int) -> None:
    levels = 2**bits
    y = Quantization(bits).A(torch.linspace(-1.2, 1.2, 5000).reshape(1, 1, 1, -1))
    expected = 2 * torch.arange(levels) / (levels - 1) - 1
    torch.testing.assert_close(y.unique(), expected)
    torch.testing.assert_close(Quantization(bits).A(y), y)


def test_compressed_sensing_measures_the_share_it_says() -> None:
    physics = CompressedSensing(0.3)
    drawn = physics.draw((3, 16, 20), torch.Generator().manual_seed(0))
    assert drawn["mask"].sum() == round(0.3 * 320) and 100 < drawn["flip"].sum() < 220
    bind(physics, {name: value[None] for name, value in drawn.items()})
    moved, nothing = measured(physics, torch.zeros(1, 3, 16, 20))
    assert torch.equal(moved[0], (drawn["mask"] > 0).expand(3, -1, -1)) and not nothing.any()


def test_phase_retrieval_keeps_the_energy_and_its_ambiguities() -> None:
    x, physics = pictures(2, 3, 16, 16), PhaseRetrieval()
    y = physics.A(x)
    assert y.shape == (2, 3, 24, 24)
    torch.testing.assert_close(y.square().sum((1, 2, 3)), x.square().sum((1, 2, 3)))
    for other in (-x, x.rot90(2, (-2, -1))):
        torch.testing.assert_close(physics.A(other), y, rtol=1e-4, atol=1e-5)
    for other in (x.flip(-1), x + 0.1):
        assert (physics.A(other) - y).norm() > 1e-2 * y.norm()
    torch.testing.assert_close(y[..., 12, 12], x.sum((-2, -1)).abs() / 24)  # the mean stands in the middle


@pytest.mark.parametrize("size", [(8, 8), (9, 6), (11, 14)], ids=str)
def test_phase_retrieval_start(size: tuple[int, int]) -> None:
    """The crop of |centred IFFT2(y)|, of the size that the image had."""
    x, physics = pictures(1, 1, *size), PhaseRetrieval()
    pad, y = size[0] // 4, physics.A(x)
    assert y.shape[-2:] == (size[0] + 2 * pad, size[1] + 2 * pad)
    spectrum = np.fft.ifftshift(y[0, 0].numpy())
    image = np.abs(np.fft.fftshift(np.fft.ifft2(spectrum, norm="ortho")))
    expected = image[pad : pad + size[0], pad : pad + size[1]]
    np.testing.assert_allclose(physics.A_dagger(y)[0, 0], expected, atol=1e-5)


# --- compositions


def test_a_composition_is_its_parts_in_order() -> None:
    first, second = SuperResolution(2), GaussianDeblurring()
    x, physics = pictures(1, 3, 16, 16), Compose([first, second])
    y = second.A(first.A(x))
    assert torch.equal(physics.A(x), y)
    assert torch.equal(physics.A_dagger(y), first.A_dagger(second.A_dagger(y)))
    assert torch.equal(physics.A_adjoint(y), first.A_adjoint(second.A_adjoint(y)))


def chain() -> Compose:
    return Compose(
        [SuperResolution(2), Inpainting(RandomMask(0.5)), UnitRange(GaussianDeblurring((1.0, 3.0)))]
    )


def test_parameters_of_parts_have_names_of_their_own() -> None:
    physics = chain()
    assert parameter_names(physics) == ["mask_1", "kernel_2"]
    drawn = draw_parameters(physics, (3, 16, 12), torch.Generator().manual_seed(0))
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {
        "mask_1": (1, 8, 6),
        "kernel_2": (5,),
    }
    check_parameters(physics, (3, 16, 12), drawn)
    with pytest.raises(SampleError, match=r"mask_1 has shape \(1, 16, 12\), expected \(1, 8, 6\)"):
        check_parameters(physics, (3, 16, 12), {"mask_1": torch.ones(1, 16, 12)})
    for name in ("mask", "mask_0", "mask_2"):
        with pytest.raises(SampleError, match=f"Compose has no parameter {name}"):
            bind(physics, {name: torch.ones(1, 1, 8, 6)})
    nested = Compose([Inpainting(), UnitRange(Compose([Inpainting(), Inpainting()]))])
    assert parameter_names(nested) == ["mask_0", "mask_1_0", "mask_1_1"]


def test_a_part_draws_the_same_whatever_the_others_are_given() -> None:
    drawn = [
        draw_parameters(chain(), (3, 16, 12), torch.Generator().manual_seed(0), given)
        for given in ((), ("mask_1",), ("kernel_2",))
    ]
    assert [set(one) for one in drawn] == [{"mask_1", "kernel_2"}, {"kernel_2"}, {"mask_1"}]
    assert torch.equal(drawn[0]["kernel_2"], drawn[1]["kernel_2"])
    assert torch.equal(drawn[0]["mask_1"], drawn[2]["mask_1"])


def test_a_part_that_draws_nothing_says_what_is_missing() -> None:
    physics = Compose([SuperResolution(2), Inpainting()])
    with pytest.raises(SampleError, match=r"part 1 of the composition: no mask.*NAME_1"):
        draw_parameters(physics, (3, 16, 12), torch.Generator())
    assert draw_parameters(physics, (3, 16, 12), torch.Generator(), ["mask_1"]) == {}


def test_the_range_of_a_composition() -> None:
    assert measurement_scale(chain()) == 1
    assert measurement_scale(Compose([SuperResolution(2), Inpainting()])) == 2


# --- bad options


@pytest.mark.parametrize(
    "use, option",
    [
        (lambda: BicubicSuperResolution(3), "factor"),
        (lambda: BicubicSuperResolution(cut=0), "cut"),
        (lambda: UniformDeblurring(4), "taps"),
        (lambda: UniformDeblurring(cut=-1), "cut"),
        (lambda: KernelDeblurring(taps=4), "taps"),
        (lambda: KernelDeblurring(regularization=0), "regularization"),
        (lambda: KernelDeblurring().A(torch.zeros(1, 3, 16, 16)), "kernel"),
        (lambda: AnisotropicGaussianKernel((1.0, 0.0)), "sigma"),
        (lambda: AnisotropicGaussianKernel(angle=(2.0, 1.0)), "angle"),
        (lambda: MotionKernel(spread=0), "spread"),
        (lambda: Colorization(0), "channels"),
        (lambda: Colorization(3).A(torch.zeros(1, 1, 8, 8)), "channels"),
        (lambda: HDR(0), "gain"),
        (lambda: Quantization(9), "bits"),
        (lambda: JPEG(0), "quality"),
        (lambda: JPEG((50, 20)), "quality"),
        (lambda: JPEG(chroma="4:1:0"), "chroma"),
        (lambda: JPEG().A(torch.zeros(1, 2, 8, 8)), "channels"),
        (lambda: PhaseRetrieval(-1), "pad"),
        (lambda: CompressedSensing(0), "ratio"),
        (lambda: CompressedSensing().A(torch.zeros(1, 3, 8, 8)), "mask and flip"),
        (lambda: Compose([]), "parts"),
        (lambda: NonlinearBlur(), "path"),
        (lambda: NonlinearBlur("nowhere.pt", trust=True), "path"),
        (lambda: NonlinearBlur(__file__), "trust"),
        (lambda: NonlinearBlur(__file__, trust=True), "path"),
    ],
)
def test_bad_options(use, option: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.physics\b.*\b{option}\b"):
        use()


def test_a_kernel_larger_than_the_image() -> None:
    physics = KernelDeblurring(taps=15)
    bind(physics, {"kernel": torch.ones(1, 15, 15)})
    with pytest.raises(ConfigError, match="taps: a kernel of 15x15 pixels is larger than a 16x12 image"):
        physics.A(torch.zeros(1, 3, 12, 16))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 5), (5, 2), (8, 6)])
def test_kernels_of_any_sides_turn_about_their_middle(rows: int, columns: int) -> None:
    physics = KernelDeblurring(taps=15)
    kernel = torch.rand(1, rows, columns, generator=torch.Generator().manual_seed(0))
    check_parameters(physics, (3, 8, 6), {"kernel": kernel[0]})
    bind(physics, {"kernel": kernel})
    point = torch.zeros(1, 1, 8, 6)
    point[..., 4, 3] = 1
    expected = torch.zeros(8, 6)
    for i in range(rows):
        for j in range(columns):
            expected[(4 + i - rows // 2) % 8, (3 + j - columns // 2) % 6] += kernel[0, i, j]
    assert torch.allclose(physics.A(point)[0, 0], expected, atol=1e-6)


def test_the_networks_kernel_is_drawn_once(tmp_path) -> None:
    """And not trained: two measurements of one image are one."""
    physics = NonlinearBlur(str(blur_network(tmp_path / "a.pt")), trust=True, kernel_shape=[3, 3])
    with pytest.raises(ConfigError, match="no kernel"):
        physics.A(torch.zeros(1, 3, 8, 8))
    bind(physics, draw := {"kernel": physics.draw((3, 8, 8), torch.Generator())["kernel"][None]})
    x = pictures(1, 3, 8, 8)
    assert torch.equal(physics.A(x), physics.A(x)) and draw["kernel"].std() > 0.5
    assert (physics.A(-0.5 * x) + 0.5 * physics.A(x)).norm() > 1e-2, "it is not linear"
