"""RED-diff, step for step, against a straight-line float64 implementation that shares no code with it.

The reference below works on one image at a time, with dense matrices for the prior and the operators, an
explicit adjoint and an Adam written by hand. Both replay the same recorded draws.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import NormalDist
from typing import Any

import pytest
import torch
from deepinv.physics import LinearPhysics, Physics
from torch import Tensor

from reddiff_pl.physics import Inpainting, SuperResolution, bind
from reddiff_pl.priors import Gaussian
from reddiff_pl.samplers import REDDiff, ReplayedNoise, run
from reddiff_pl.samplers.reddiff import data_gradient

SHAPE = (2, 8, 8)
D = 128
BATCH = 3
MEAN = 0.1

G: dict[str, Callable[[float], float]] = {
    "linear": lambda r: r,
    "sqrt": math.sqrt,
    "square": lambda r: r * r,
    "log": lambda r: math.log(1 + r),
    "trunc_linear": lambda r: min(r, 1.0),
    "power2over3": lambda r: r ** (2 / 3),
    "const": lambda r: 1.0,
    "inverse": lambda r: 1 / r,
}


def covariance() -> Tensor:
    """C of the two-channel field, dense, from a unitary Fourier basis."""
    k = torch.fft.fftfreq(8, 1 / 8, dtype=torch.float64)
    spectrum = (1 + k[:, None] ** 2 + k[None, :] ** 2) ** -1.25
    spectrum *= 0.25 / spectrum.mean()
    wave = torch.exp(2j * math.pi * torch.outer(torch.arange(8), k) / 8) / math.sqrt(8)
    basis = torch.kron(wave, wave)
    return torch.block_diag(*[(basis * spectrum.flatten() @ basis.conj().T).real] * 2)


def abar(t: int) -> float:
    return math.prod(1 - (1e-4 + (0.02 - 1e-4) * s / 999) for s in range(t + 1))


class Adam:
    def __init__(self, lr: float = 0.1, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-8) -> None:
        self.lr, (self.b1, self.b2), self.eps = lr, betas, eps
        self.m, self.v, self.n = 0.0, 0.0, 0

    def __call__(self, mu: Tensor, gradient: Tensor) -> Tensor:
        self.n += 1
        self.m = self.b1 * self.m + (1 - self.b1) * gradient
        self.v = self.b2 * self.v + (1 - self.b2) * gradient**2
        m, v = self.m / (1 - self.b1**self.n), self.v / (1 - self.b2**self.n)
        return mu - self.lr * m / (v.sqrt() + self.eps)


class MomentumSGD:
    def __init__(self, lr: float, momentum: float) -> None:
        self.lr, self.momentum, self.velocity = lr, momentum, 0.0

    def __call__(self, mu: Tensor, gradient: Tensor) -> Tensor:
        self.velocity = self.momentum * self.velocity + gradient
        return mu - self.lr * self.velocity


def reference(
    mu: Tensor,
    y: Tensor,
    forward: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor, Tensor], Tensor],
    draws: Sequence[Tensor],
    times: Sequence[int],
    K: int = 1,
    antithetic: bool = False,
    lam: float = 0.25,
    weighting: str = "linear",
    obs_weight: float = 1.0,
    sigma_x0: float = 0.0,
    optimizer: Callable[[Tensor, Tensor], Tensor] | None = None,
    output: str = "mu",
) -> tuple[Tensor, Tensor]:
    """SPEC section 2 for one image, flat: (result, x0_hat of the last network evaluation).

    Args:
        forward: A(x).
        adjoint: A'(x)^T v, as a function of x and v.
        draws: z0, z for each timestep, flat.
    """
    C, identity = covariance(), torch.eye(D, dtype=torch.float64)
    optimizer = optimizer or Adam()
    for first in range(0, len(times), K):
        group = range(first, min(first + K, len(times)))
        xh = mu + sigma_x0 * draws[2 * first]
        regulariser, evaluations = torch.zeros(D, dtype=torch.float64), 0
        for i in group:
            a = abar(times[i])
            w = lam * G[weighting](math.sqrt((1 - a) / a))
            for z in (draws[2 * i + 1], -draws[2 * i + 1])[: 2 if antithetic else 1]:
                x_t = math.sqrt(a) * xh + math.sqrt(1 - a) * z
                system = a * C + (1 - a) * identity
                e = math.sqrt(1 - a) * torch.linalg.solve(system, x_t - math.sqrt(a) * MEAN)
                x0_hat = (x_t - math.sqrt(1 - a) * e) / math.sqrt(a)
                regulariser = regulariser + w * (e - z) / D
                evaluations += 1
        data = -adjoint(xh, y - forward(xh)) / len(y)
        mu = optimizer(mu, regulariser / evaluations + obs_weight * data)
    return (xh if output == "x_hat" else mu), x0_hat


class Tanh(Physics):
    """tanh(2x), a smooth nonlinear operator; started from y."""

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return torch.tanh(2 * x)

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y


class Clip(Tanh):
    """clip(2x, -1, 1), whose gradient is dead where it saturates."""

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return (2 * x).clamp(-1, 1)


class Fourier(LinearPhysics):
    """A complex measurement."""

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return torch.fft.fft2(x, norm="ortho")


def linear(A: Tensor) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    return (lambda x: A @ x), (lambda x, v: A.T @ v)


def problem(task: str) -> tuple[Physics, Tensor, Tensor, list[tuple[Callable[..., Tensor], ...]]]:
    """The package's operator, y, A_dagger(y) and, for each image, A and A'^T as flat functions."""
    draws = torch.Generator().manual_seed(3)
    x = torch.randn(BATCH, D, generator=draws, dtype=torch.float64) / 2
    if task == "inpainting":  # one mask an image
        masks = (torch.rand(BATCH, 1, 8, 8, generator=draws) < 0.5).double()
        physics: Physics = Inpainting()
        bind(physics, {"mask": masks})
        flat = masks.expand(-1, 2, -1, -1).flatten(1)
        functions = [linear(mask.diag()) for mask in flat]
        y = (flat * (x + 0.1 * torch.randn(BATCH, D, generator=draws, dtype=torch.float64))).reshape(
            -1, *SHAPE
        )
        return physics, y, y, functions
    if task == "sr4":
        A = torch.zeros(8, D, dtype=torch.float64)
        for channel in range(2):
            for row in range(8):
                for column in range(8):
                    A[channel * 4 + row // 4 * 2 + column // 4, channel * 64 + row * 8 + column] = 1 / 16
        y = x @ A.T + 0.1 * torch.randn(BATCH, 8, generator=draws, dtype=torch.float64)
        start = (y @ (A > 0).double()).reshape(-1, *SHAPE)  # every pixel of a block gets the block's value
        return SuperResolution(4), y.reshape(-1, 2, 2, 2), start, [linear(A)] * BATCH
    if task == "tanh":
        functions = [(lambda x: (2 * x).tanh(), lambda x, v: 2 * (1 - (2 * x).tanh() ** 2) * v)] * BATCH
        physics, y = Tanh(), torch.tanh(2 * x)
    else:
        functions = [(lambda x: (2 * x).clamp(-1, 1), lambda x, v: 2 * v * ((2 * x).abs() < 1))] * BATCH
        physics, y = Clip(), (2 * x).clamp(-1, 1)
    y = (y + 0.1 * torch.randn(BATCH, D, generator=draws, dtype=torch.float64)).reshape(-1, *SHAPE)
    return physics, y, y, functions


def record(timesteps: int) -> list[Tensor]:
    """z0, z for each timestep, as a run of another program would have written them."""
    draws = torch.Generator().manual_seed(7)
    return [torch.randn(BATCH, *SHAPE, generator=draws, dtype=torch.float64) for _ in range(2 * timesteps)]


def check(
    task: str,
    options: dict[str, Any],
    times: Sequence[Sequence[int]] | None = None,
    noise: Callable[..., ReplayedNoise] = ReplayedNoise,
    optimizer: Callable[[], Callable[[Tensor, Tensor], Tensor]] = Adam,
    x_init: Tensor | None = None,
    **changes: Any,
) -> None:
    """Run both; equal to 1e-6 relative, x and x0_hat.

    Args:
        options: of REDDiff.
        times: what each image must visit; default: 950, 900, ..., 0.
        changes: options of the reference.
    """
    times = times or [range(950, -1, -50)] * BATCH
    draws = record(len(times[0]))
    physics, y, start, functions = problem(task)
    start = start if x_init is None else x_init
    last: dict[str, Tensor] = {}

    def keep(step: int, x: Tensor, x0_hat: Tensor) -> None:
        last["x0_hat"] = x0_hat

    sampler = REDDiff(**({"steps": 20} | options))
    replay = noise(draws, sampler.timesteps_per_step)
    x = run(sampler, y, physics, Gaussian(SHAPE, mean=MEAN), replay, x_init=x_init, callback=keep)
    for i in range(BATCH):
        forward, adjoint = functions[i]
        flat = [draw[i].flatten() for draw in draws]
        expected, expected_x0 = reference(
            start[i].flatten(),
            y[i].flatten(),
            forward,
            adjoint,
            flat,
            times[i],
            optimizer=optimizer(),
            **changes,
        )
        for name, ours, theirs in (("x", x, expected), ("x0_hat", last["x0_hat"], expected_x0)):
            error = (ours[i].flatten() - theirs).norm() / theirs.norm()
            assert error < 1e-6, f"{name} of image {i}: relative error {error:.1e}"


@pytest.mark.parametrize("sigma_x0", [0.0, 0.05])
@pytest.mark.parametrize("weighting", G)
@pytest.mark.parametrize("task", ["inpainting", "sr4"])
def test_every_weighting(task: str, weighting: str, sigma_x0: float) -> None:
    shared = {"weighting": weighting, "sigma_x0": sigma_x0}
    check(task, shared, **shared)


@pytest.mark.parametrize(
    "shared",
    [
        {"obs_weight": 3.0},
        {"obs_weight": 0.0},
        {"lam": 2.0},
        {
            "lam": 0.0,
            "sigma_x0": 0.05,
        },  # without z0 it would start where the gradient is nothing but rounding
        {"antithetic": True},
        {"antithetic": True, "sigma_x0": 0.05},
        {"output": "x_hat"},
        {"output": "x_hat", "sigma_x0": 0.05},
    ],
    ids=str,
)
@pytest.mark.parametrize("task", ["inpainting", "sr4"])
def test_options(task: str, shared: dict[str, Any]) -> None:
    check(task, shared, **shared)


@pytest.mark.parametrize("sigma_x0", [0.0, 0.05])
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("K", [4, 3, 20, 21])
def test_parallel_form(K: int, antithetic: bool, sigma_x0: float) -> None:
    """K timesteps a step, each with its own z; 3 and 21 do not divide the 20 timesteps."""
    shared = {"antithetic": antithetic, "sigma_x0": sigma_x0}
    check("inpainting", {"timesteps_per_step": K, "output": "x_hat", **shared}, K=K, output="x_hat", **shared)
    check("inpainting", {"timesteps_per_step": K, **shared}, K=K, **shared)


def test_explicit_timesteps() -> None:
    times = [999, 700, 13, 13, 0]
    check("sr4", {"timesteps": times}, times=[times] * BATCH)


def test_ascending_order() -> None:
    check("inpainting", {"order": "ascending"}, times=[range(0, 951, 50)] * BATCH)


class RecordedOrder(ReplayedNoise):
    """Also answers for the normal numbers that make the random time orders."""

    def __init__(self, times_draw: Tensor, draws: Sequence[Tensor], timesteps_per_step: int) -> None:
        super().__init__(draws, timesteps_per_step)
        self.times_draw = times_draw

    def normal(
        self, name: str, shape: Sequence[int], dtype: torch.dtype, step: int = 0, k: int = 0
    ) -> Tensor:
        return self.times_draw.to(dtype) if name == "t" else super().normal(name, shape, dtype, step, k)


@pytest.mark.parametrize("K", [1, 4])
@pytest.mark.parametrize("order", ["random", "random_without_replacement"])
def test_each_image_follows_its_own_random_order(order: str, K: int) -> None:
    """The images of a batch stand at different timesteps, so alpha, sigma and the weight differ by image."""
    indices = torch.stack(
        [torch.randperm(20, generator=torch.Generator().manual_seed(i)) for i in range(BATCH)]
    )
    if order == "random":  # a normal number at the middle of the j-th of 20 equal shares picks grid[j]
        indices[:, 5] = indices[:, 6]  # may repeat
        draw = torch.tensor([[NormalDist().inv_cdf((j + 0.5) / 20) for j in row] for row in indices.tolist()])
    else:  # the permutation that sorts the numbers
        draw = indices.argsort(1).double()
    times = [[950 - 50 * j for j in row] for row in indices.tolist()]
    options = {"order": order, "timesteps_per_step": K}
    check("inpainting", options, times=times, noise=partial(RecordedOrder, draw), K=K)


def test_explicit_start() -> None:
    """x_init takes the place of A_dagger(y) and is left as it was."""
    x_init = torch.randn(BATCH, *SHAPE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    before = x_init.clone()
    check("sr4", {}, x_init=x_init)
    assert torch.equal(x_init, before)


def test_adam_options() -> None:
    options = {"lr": 0.03, "betas": (0.7, 0.9), "adam_eps": 1e-3}
    check("inpainting", options, optimizer=partial(Adam, 0.03, (0.7, 0.9), 1e-3))


def test_another_optimizer() -> None:
    """Plain gradient steps show the gradient's scale, which Adam hides."""
    settings = {"lr": 4.0, "momentum": 0.5}
    options = {"optimizer": partial(torch.optim.SGD, **settings), "lr": 123.0}  # its own lr counts
    check("inpainting", options, optimizer=partial(MomentumSGD, **settings))
    check("sr4", options, optimizer=partial(MomentumSGD, **settings))


@pytest.mark.parametrize("task", ["tanh", "clip"])
def test_nonlinear_operator(task: str) -> None:
    shared = {"sigma_x0": 0.05, "obs_weight": 2.0}
    check(task, shared, **shared)


@pytest.mark.parametrize("task", ["inpainting", "sr4", "tanh", "clip"])
def test_data_gradient(task: str) -> None:
    """-A'(x)^T (y - A(x)) / M with M the elements of one measurement; inpainting counts masked ones too."""
    physics, y, _, functions = problem(task)
    x = torch.randn(BATCH, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, ours = data_gradient(x, y, physics)
    for i, (forward, adjoint) in enumerate(functions):
        flat, measured = x[i].flatten(), y[i].flatten()
        theirs = -adjoint(flat, measured - forward(flat)) / len(measured)
        torch.testing.assert_close(ours[i].flatten(), theirs, rtol=1e-12, atol=1e-15)
    assert not ours.requires_grad and not x.requires_grad


def test_data_gradient_of_a_complex_measurement() -> None:
    """For a unitary A it is (x - A^H y) / M, the real part."""
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, *SHAPE, generator=draws, dtype=torch.float64)
    y = torch.randn(BATCH, *SHAPE, generator=draws, dtype=torch.complex128)
    theirs = (x - torch.fft.ifft2(y, norm="ortho").real) / D
    torch.testing.assert_close(data_gradient(x, y, Fourier())[1], theirs, rtol=1e-12, atol=1e-15)
