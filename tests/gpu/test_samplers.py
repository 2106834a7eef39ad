"""Every sampler over the fast path on a CUDA device, against float32."""

from __future__ import annotations

import pytest
import torch

from reddiff_pl.physics import Colorization, GaussianDeblurring, SuperResolution
from reddiff_pl.priors import UNet
from reddiff_pl.samplers import (
    DAPS,
    DDNM,
    DDRM,
    DiffPIR,
    PiGDM,
    PnPDM,
    ProximalREDDiff,
    REDDiff,
    SeededNoise,
    run,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

OPERATORS = {
    "transposed in memory": GaussianDeblurring,
    "channels mixed": Colorization,
    "blocks": lambda: SuperResolution(4),
}
SAMPLERS = {
    "dial": ProximalREDDiff(steps=4, perception=1.0, perception_level=0.5, perception_steps=8),
    "REDDiff": REDDiff(steps=10),
    "DDRM": DDRM(steps=10),
    "DDNM": DDNM(steps=10),
    "DiffPIR": DiffPIR(steps=10),
    "PiGDM": PiGDM(steps=10),
    "PnPDM": PnPDM(steps=3, denoise_steps=3),
    "DAPS": DAPS(steps=5, ode_steps=2, langevin_steps=5),
}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_fast_way_restores_what_float32_does(name, operator):
    """Whatever order in memory an operator leaves its images in: the kernels read them by place."""
    physics = OPERATORS[operator]().cuda()
    torch.manual_seed(0)
    x = torch.nn.functional.interpolate(torch.randn(2, 3, 8, 8).clamp(-1, 1), size=64, mode="bilinear").cuda()
    y, restored = physics.A(x), []
    y = y + 0.2 * torch.randn_like(y)  # or what is measured would decide, whatever the network says
    for precision in ("32", "bf16"):
        prior, noise = UNet(precision=precision).cuda(), SeededNoise(0, ["a", "b"], "cuda")
        with torch.no_grad():
            std = torch.full((2,), 0.2, device="cuda")
            restored.append(run(SAMPLERS[name], y, physics, prior, noise, noise_std=std).clamp(-1, 1))
    exact, fast = restored
    assert (fast - exact).square().mean().sqrt() < 0.25 * exact.std()
