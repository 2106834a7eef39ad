"""At a constant timestep and a Gaussian prior RED-diff converges to a closed form.

The targets are made of dense float64 matrices written down here; nothing of the sampler or of the prior's
own Fourier code enters them.
"""

import math

import pytest
import torch

from reddiff_pl.physics import Inpainting, SuperResolution, bind
from reddiff_pl.priors import Gaussian
from reddiff_pl.samplers import REDDiff, SeededNoise, run

pytestmark = pytest.mark.usefixtures("one_thread")

N = 32
STEPS = 3000
SIGMA_Y = 0.05
IMAGES, CHAINS = 2, 6


def field_covariance() -> torch.Tensor:
    """C, dense: a unitary Fourier basis times the spectrum (1 + k^2)^-1.25, scaled to pixel variance .25."""
    k = torch.fft.fftfreq(N, 1 / N, dtype=torch.float64)
    spectrum = (1 + k[:, None] ** 2 + k[None, :] ** 2) ** -1.25
    spectrum *= 0.25 / spectrum.mean()
    wave = torch.exp(2j * math.pi * torch.outer(torch.arange(N), k) / N) / math.sqrt(N)
    basis = torch.kron(wave, wave)
    return (basis * spectrum.flatten() @ basis.conj().T).real


def abar(t: int) -> float:
    return math.prod(1 - (1e-4 + (0.02 - 1e-4) * s / 999) for s in range(t + 1))


def problem(task: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """An operator of the package, and its matrix."""
    if task == "sr4":
        A = torch.zeros(64, N * N, dtype=torch.float64)
        for row in range(N):
            for column in range(N):
                A[row // 4 * 8 + column // 4, row * N + column] = 1 / 16
        return SuperResolution(4), A
    keep = (torch.rand(N, N, generator=torch.Generator().manual_seed(5)) < 0.5).double()
    physics = Inpainting()
    bind(physics, {"mask": keep[None, None]})
    return physics, keep.flatten().diag()


@pytest.mark.parametrize("t", [100, 200, 500])
@pytest.mark.parametrize("task", ["inpainting", "sr4"])
def test_iterates_average_to_the_closed_form(task: str, t: int) -> None:
    """Each chain's average over its last half is within 3 %, what Adam's noise at lr .01 leaves.

    That is noise, not bias: the mean over independent chains of one image is within 1.5 %.
    """
    lam = 0.25
    physics, A = problem(task)
    C = field_covariance()
    M, D = A.shape
    draws = torch.Generator().manual_seed(11)

    # x0 from the prior (m = 0), y = A x0 + n; noise falls on kept pixels only
    x0 = torch.randn(IMAGES, D, generator=draws, dtype=torch.float64) @ torch.linalg.cholesky(C).T
    n = 2 * SIGMA_Y * torch.randn(IMAGES, M, generator=draws, dtype=torch.float64)
    y = x0 @ A.T + n * (A.sum(1) > 0)

    # [A^T A / M + lam r sqrt(a (1-a)) (a C + (1-a) I)^-1 / D] target = A^T y / M
    a = abar(t)
    weight = lam * math.sqrt((1 - a) / a) * math.sqrt(a * (1 - a))
    denoiser = torch.linalg.inv(a * C + (1 - a) * torch.eye(D, dtype=torch.float64))
    target = torch.linalg.solve(A.T @ A / M + weight * denoiser / D, A.T @ y.T / M).T

    total, count = torch.zeros(IMAGES * CHAINS, D, dtype=torch.float64), 0

    def accumulate(step: int, x: torch.Tensor, x0_hat: torch.Tensor) -> None:
        nonlocal count
        if step > STEPS // 2:
            total.add_(x.flatten(1))
            count += 1

    side = math.isqrt(M)
    run(
        REDDiff(timesteps=[t] * STEPS, lr=0.01, lam=lam),
        y.repeat_interleave(CHAINS, 0).reshape(-1, 1, side, side),
        physics,
        Gaussian((1, N, N)),
        SeededNoise(0, [f"image {i} chain {c}" for i in range(IMAGES) for c in range(CHAINS)]),
        callback=accumulate,
    )
    assert count == STEPS // 2
    error = (total / count).reshape(IMAGES, CHAINS, D) - target[:, None]
    size = target.norm(dim=1)
    chains, pooled = error.norm(dim=2) / size[:, None], error.mean(1).norm(dim=1) / size
    assert chains.max() < 0.03, f"chains {chains.tolist()}"
    assert pooled.max() < 0.015, f"mean over chains {pooled.tolist()}"
