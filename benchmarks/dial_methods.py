"""Which restorations the comparison of the dial is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# those that all neighbours restore
KEY = (
    *(
        "superresolution_4x",
        "inpainting_box",
        "deblur_aniso",
        "inpainting_freeform",
        "deblur_gauss, sigma_y 0.05",
    ),
    *("superresolution_4x, sigma_y 0.05", "bicubic_4x", "jpeg", "colorization", "inpainting_random"),
    *("deblur_motion", "denoising", "hdr"),
)
TASKS = (
    *KEY,
    *("superresolution_8x", "superresolution_4x, sigma_y 0.1", "inpainting_random, sigma_y 0.1"),
    *("inpainting_random, sigma_y 0.05", "superresolution_2x", "bicubic_2x", "bicubic_8x"),
    *("superresolution_4x, sigma_y 0.25", "compressed_sensing", "quantization", "deblur_gauss, 8-bit"),
    *("deblur_uniform, 8-bit", "superresolution_4x_inpainting", "inpainting_box, sigma_y 0.05"),
)
NONLINEAR = ("jpeg", "hdr", "quantization")
NOISY = ("deblur", "denoising", "jpeg", "quantization")
# the blur's file is tuned for what is nearly free of noise, that of noisy super-resolution for sigma_y .1
OWN: dict[str, dict[str, float]] = {
    "deblur_gauss, sigma_y 0.05": {
        "perception_level": 0.92,
        "perception_cut": 0.14,
        "perception_epsilon_scale": 0.985,
    },
    "superresolution_4x, sigma_y 0.05": {"perception_level": 1.0},
    "superresolution_4x, sigma_y 0.25": {"perception_level": 2.0},
}
OPEN = {
    "perception_level": 1.5,
    "perception_cut": 0.0,
    "perception_eta": 1.0,
    "perception_share": 1.0,
    "perception_epsilon_scale": 1.0,
}
ZETA = {"deblur_aniso": 0.6, "colorization": 0.3, "hdr": 0.1, "jpeg": 0.3}
TURNS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Run:
    """One restoration of all photos; without a class the task's own sampler."""

    task: str
    name: str
    class_name: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def runs() -> Iterator[Run]:
    """The dial at its turns, and beyond: a sample of the posterior."""
    for task in TASKS:
        for turn in TURNS:
            yield Run(task, f"dial {turn:g}", None, {**OWN.get(task, {}), "perception": turn})
        if task not in NONLINEAR:
            yield Run(task, "open", None, {"perception": 1.0, **OPEN})


def neighbours() -> Iterator[Run]:
    """At published settings and at a second one, those that cost least first: time may run out."""
    for task in TASKS:
        if decomposable(task):
            yield Run(task, "DDRM 100, eta .85", "DDRM", {"steps": 100})
        for zeta, text in ((0.3, ".3"), (1.0, "1")):
            yield Run(task, f"DiffPIR 100, zeta {text}", "DiffPIR", {"steps": 100, "zeta": zeta})
        if task not in NONLINEAR:
            yield Run(task, "DDNM+ 100, eta .85", "DDNM", {"steps": 100})
    for task in KEY:
        if decomposable(task):
            yield Run(task, "DDRM 20, eta .85", "DDRM", {"steps": 20})
        if task not in NONLINEAR:
            yield Run(task, "DDNM+ 100, eta .5", "DDNM", {"steps": 100, "eta": 0.5})
    for task in KEY:
        noisy = "sigma_y" in task or task.startswith(NOISY)
        pigdm = {"steps": 100, "lam": 0.3 if noisy else 1.0, "noise_aware": task not in NONLINEAR}
        yield Run(task, "PiGDM 100, eta 1", "PiGDM", pigdm)
        yield Run(task, "PiGDM 100, eta .3", "PiGDM", {**pigdm, "eta": 0.3})
    for task in KEY:
        yield Run(task, "DPS 250", "DPS", {"steps": 250, "eta": 1.0, "zeta": ZETA.get(task, 1.0)})
    for task in KEY:
        pnpdm = {"steps": 40, "denoise_steps": 5, "decay": 0.88, "rho_min": 0.1}
        yield Run(task, "PnP-DM 40x5", "PnPDM", pnpdm)
        daps = {"steps": 100, "ode_steps": 2, "langevin_steps": 20, "eta": 5e-5}
        yield Run(task, "DAPS 100x2", "DAPS", daps)


def decomposable(task: str) -> bool:
    """Whether the singular values of its operator are known."""
    return task not in (*NONLINEAR, "superresolution_4x_inpainting")
