"""RED-diff as one of deepinv's reconstruction models: `x = model(y, physics)`.

deepinv's images are in [0, 1], the samplers' in [-1, 1]; the noise level is that of the physics' own noise model.

References:
    DeepInverse: a Python package for solving imaging inverse problems with deep learning
    | https://arxiv.org/abs/2505.20160
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from deepinv.models import Reconstructor
from deepinv.physics import GaussianNoise, Physics
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.options.shipped import shipped
from reddiff_pl.physics import UnitRange
from reddiff_pl.physics.compose import is_linear
from reddiff_pl.priors import Prior, UNet
from reddiff_pl.priors.tiled import windowed
from reddiff_pl.samplers import ProximalREDDiff, Sampler, SeededNoise, run


class REDDiff(Reconstructor):
    """Restores measurements of any deepinv operator.

    Examples:
        >>> import torch, deepinv
        >>> from reddiff_pl.integrations.deepinv import REDDiff
        >>> physics = deepinv.physics.Inpainting((3, 64, 64), mask=0.5, noise_model=deepinv.physics.GaussianNoise(0.05))
        >>> model = REDDiff(evaluations=4)
        >>> model(physics(torch.rand(2, 3, 64, 64)), physics).shape
        torch.Size([2, 3, 64, 64])

    Args:
        prior: the diffusion model. Default: the bundled one, of 64x64 photographs; other sizes are seen in windows.
        sampler: the method. Default: the command's, RED-diff by proximal steps as samplers/reddiff.yaml sets it.
        evaluations: forward passes of the network an image. Default: the sampler's own.
        sigma_y: standard deviation of the noise in y's units, where the physics' noise model is not Gaussian. A
            Gaussian one tells its own.
        seed: of all noise; the same seed and keys give the same images.
        device: where the prior lies.
    """

    def __init__(
        self,
        prior: Prior | None = None,
        sampler: Sampler | None = None,
        evaluations: int | None = None,
        sigma_y: float = 0.0,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(device)
        self.prior = windowed(UNet() if prior is None else prior).to(device)
        if sampler is None:
            content = yaml.safe_load(Path(shipped("samplers/reddiff.yaml")).read_text(encoding="utf-8"))
            sampler = ProximalREDDiff(**content["model"]["sampler"]["init_args"])
        self.sampler = sampler if evaluations is None else sampler.with_evaluations(evaluations)
        self.sigma_y, self.seed = sigma_y, seed

    def forward(
        self, y: Tensor, physics: Physics, keys: Sequence[str] | None = None, **kwargs: Any
    ) -> Tensor:
        """Restored images in [0, 1], (B, C, H, W), not clipped.

        Args:
            y: measurements, (B, ...).
            physics: the operator, on images in [0, 1].
            keys: a name an image, which seeds its noise. Default: 0, 1, ...
            kwargs: not used.

        Raises:
            ConfigError: the images do not have the prior's channels.
        """
        keys = [str(i) for i in range(len(y))] if keys is None else keys
        operator = UnitRange(physics)
        with torch.no_grad():
            # not A_dagger, which iterates, and which samplers need not begin at
            image = physics.A_adjoint(y) if is_linear(physics) else operator.A_dagger(y)
            if image.ndim != 4 or image.shape[1] != self.prior.shape[0]:
                raise ConfigError(
                    f"prior: made for {self.prior.shape[0]} channels, the physics' images are {tuple(image.shape[1:])}"
                )
            noise = SeededNoise(self.seed, keys, y.device)
            x = run(
                self.sampler,
                y,
                operator,
                self.prior,
                noise,
                noise_std=self._noise_std(y, physics),
            )
        return (x + 1) / 2

    def _noise_std(self, y: Tensor, physics: Physics) -> Tensor:
        """Of each measurement, (B,)."""
        model = getattr(physics, "noise_model", None)
        sigma = model.sigma if isinstance(model, GaussianNoise) else self.sigma_y
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=y.device).flatten()
        return sigma.expand(len(y)) if len(sigma) == 1 else sigma
