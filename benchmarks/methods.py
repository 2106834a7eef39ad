"""Which tasks and methods the quality table compares, and the settings among which each method is tuned.

Every method chooses its settings for every task by mean PSNR on the tuning photos; the table's photos are never seen.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

Settings = dict[str, Any]

# name -> (file in configs/tasks, sigma_y; None: as the file says)
TASKS: dict[str, tuple[str, float | None]] = {
    "denoising": ("denoising", None),
    "inpainting_random": ("inpainting_random", None),
    "inpainting_box": ("inpainting_box", None),
    "inpainting_freeform": ("inpainting_freeform", None),
    "superresolution_2x": ("superresolution_2x", None),
    "superresolution_4x": ("superresolution_4x", None),
    "superresolution_8x": ("superresolution_8x", None),
    "bicubic_2x": ("bicubic_2x", None),
    "bicubic_4x": ("bicubic_4x", None),
    "bicubic_8x": ("bicubic_8x", None),
    "deblur_gauss": ("deblur_gauss", None),
    "deblur_uniform": ("deblur_uniform", None),
    "deblur_aniso": ("deblur_aniso", None),
    "deblur_motion": ("deblur_motion", None),
    "colorization": ("colorization", None),
    "compressed_sensing": ("compressed_sensing", None),
    "hdr": ("hdr", None),
    "quantization": ("quantization", None),
    "jpeg": ("jpeg", None),
    "phase_retrieval": ("phase_retrieval", None),
    "superresolution_4x_inpainting": ("superresolution_4x_inpainting", None),
    **{
        f"{task}, sigma_y {sigma_y}": (f"{task}_noisy", sigma_y)
        for task in ("inpainting_random", "superresolution_4x")
        for sigma_y in (0.05, 0.1, 0.25)
    },
}
TASKS |= {
    "deblur_gauss, 8-bit": ("deblur_gauss", 1 / 255 / 12**0.5),
    "deblur_uniform, 8-bit": ("deblur_uniform", 1 / 255 / 12**0.5),
    "deblur_gauss, sigma_y 0.05": ("deblur_gauss", 0.05),
    "inpainting_box, sigma_y 0.05": ("inpainting_box", 0.05),
}
# where the tuning did not come to a task within its time, the settings are those of its nearest relative
TUNED_AS = {f"superresolution_{f}x": f"bicubic_{f}x" for f in (2, 4, 8)}
CURVES = ("inpainting_random", "inpainting_random, sigma_y 0.1")
EVALUATIONS = (10, 20, 50, 100, 300, 1000)


def grid(fixed: Settings, **choices: list[Any]) -> list[Settings]:
    """All combinations of the choices."""
    return [
        {**fixed, **dict(zip(choices, values, strict=True))}
        for values in itertools.product(*choices.values())
    ]


def draws(count: int, first: list[Settings], **choices: list[Any]) -> list[Settings]:
    """`first`, and random combinations of the choices up to `count`."""
    chance = random.Random(0)
    return first + [
        {name: chance.choice(values) for name, values in choices.items()} for _ in range(count - len(first))
    ]


def halve(settings: Settings) -> Settings:
    """Antithetic steps cost two evaluations: half as many."""
    return {**settings, "steps": settings["steps"] // 2} if settings.get("antithetic") else settings


PAPER = {"steps": 100, "lr": 0.1, "lam": 0.25}
PROXIMAL: Settings = {"steps": 20, "antithetic": True}
ADAM: Settings = {
    "steps": 100,
    "grid": "geometric",
    "t_max": 600,
    "t_min": 3,
    "lr": 0.05,
    "lr_schedule": "sqrt",
    "lam": 0.15,
    "betas": [0.8, 0.99],
    "noise_weight": 0.5,
    "average": 0.2,
}

# method -> (class, settings to choose from); a method may refuse a task
METHODS: dict[str, tuple[str, list[Settings]]] = {
    "classical": ("classical", grid({}, weight=[0.003, 0.01, 0.03, 0.1, 0.3])),
    "PnP-FFDNet": ("plug_and_play", grid({}, steps=[8, 24], lam=[0.05, 0.23, 1.0])),
    "DPS": ("DPS", grid({"steps": 250, "eta": 1.0}, zeta=[0.1, 0.3, 0.6, 1.0, 2.0, 4.0])),
    "PiGDM": ("PiGDM", grid({"steps": 100}, eta=[0.3, 1.0], lam=[0.3, 1.0, 3.0])),
    "DDRM": ("DDRM", grid({}, steps=[20, 100], eta=[0.5, 0.85, 1.0], eta_b=[1.0])),
    "DiffPIR": ("DiffPIR", grid({"steps": 100}, lam=[1.0, 4.0, 15.0], zeta=[0.1, 0.4, 1.0])),
    "DDNM+": ("DDNM", grid({"steps": 100}, eta=[0.5, 0.85, 1.0])),
    "PnP-DM": (
        "PnPDM",
        grid({"average": 0.5, "rho_min": 0.1}, steps=[20], denoise_steps=[5], decay=[0.7, 0.8])
        + grid({"average": 0.5, "decay": 0.9}, steps=[50], denoise_steps=[2], rho_min=[0.05, 0.1, 0.3]),
    ),
    "DAPS": (
        "DAPS",
        [
            {"steps": 100, "ode_steps": 1, "langevin_steps": 30, "eta": eta, "tau": tau}
            for eta, tau in ((5e-5, 0.01), (3e-4, 0.03), (2e-3, 0.1))
        ],
    ),
    "RED-diff, paper": ("REDDiff", [PAPER]),
    "REDDiff": (
        "REDDiff",
        draws(
            20,
            [ADAM, {**ADAM, "noise_weight": 1.0, "lam": 0.0, "t_min": 10}],
            steps=[100],
            grid=["geometric", "karras"],
            t_max=[300, 400, 600, 999],
            t_min=[1, 3, 10],
            lr=[0.03, 0.05, 0.08, 0.15, 0.3],
            lr_schedule=["sqrt", "linear"],
            lam=[0.01, 0.03, 0.1, 0.25, 1.0],
            betas=[[0.5, 0.99], [0.8, 0.99], [0.9, 0.99]],
            noise_weight=[0.4, 0.6, 0.8],
            average=[0.1, 0.2],
        ),
    ),
    "ProximalREDDiff": (
        "ProximalREDDiff",
        [
            halve(settings)
            for settings in draws(
                44,
                [
                    PROXIMAL,
                    {**PROXIMAL, "r_max": 0.3},
                    {**PROXIMAL, "r_max": 1.2},
                    {
                        **PROXIMAL,
                        "r_max": 0.6,
                        "local_variance": 0.01,
                        "momentum": 0.3,
                        "lr_schedule": "sqrt",
                    },
                ],
                steps=[20],
                antithetic=[True],
                r_max=[0.15, 0.3, 0.6, 1.2, 2.5, 8.0],
                r_min=[None, 0.02, 0.05],
                lr_schedule=["constant", "sqrt"],
                momentum=[0.0, 0.3, 0.5],
                lam=[1e-8, 1e-5, 1e-3],
                noise_weight=[0.5, 0.7, 0.9],
                local_variance=[None, 0.0, 0.003, 0.01],
                average=[0.1, 0.2],
            )
        ],
    ),
}
# evaluations that say something only where they are many; settings as published
LONG_PAPER = ("REDDiff", {"steps": 1000, "lr": 0.1, "lam": 1.0})
LONG_TASKS = ("inpainting_random", "inpainting_box", "superresolution_2x", "superresolution_4x")
