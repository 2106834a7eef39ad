"""A mixture of Gaussian fields as a prior: several modes, and every quantity in closed form.

x0 ~ sum_k w_k N(m_k, C) with C diagonal in the 2-D Fourier basis. With a = abar_t and S = a C + (1-a) I,

    eps(x_t, t) = sqrt(1-a) sum_k p_k S^-1 (x_t - sqrt(a) m_k),
    p_k proportional to w_k exp(-(x_t - sqrt(a) m_k)^T S^-1 (x_t - sqrt(a) m_k) / 2).

The posterior of a linear measurement with Gaussian noise is again a mixture, of the components' own posteriors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import per_image
from reddiff_pl.priors.gaussian import Gaussian, dense_matrix


class MixturePosterior(NamedTuple):
    """The posterior of a measurement, float64.

    Attributes:
        weights: of the components, (B, K).
        means: their means, (B, K, C, H, W).
        covariance: of each of them, (D, D) with D = C H W.
    """

    weights: Tensor
    means: Tensor
    covariance: Tensor

    def mean(self) -> Tensor:
        """The posterior mean, (B, C, H, W)."""
        return torch.einsum("bk,bkchw->bchw", self.weights, self.means)

    def variance(self) -> Tensor:
        """The variance of each pixel, (B, C, H, W)."""
        spread = (self.means - self.mean()[:, None]).square()
        between = torch.einsum("bk,bkchw->bchw", self.weights, spread)
        return between + self.covariance.diagonal().reshape(self.means.shape[2:])


class GaussianMixture(Gaussian):
    """Gaussian random fields about several mean images.

    Args:
        means: of the components: a number for each (every pixel's mean), or an image for each, (K, C, H, W).
        weights: of the components, positive; divided by their sum. Default: equal ones.
        shape: (C, H, W) of the images.
        variance: variance of a pixel within a component, on the [-1, 1] scale.
        exponent: decay of its spectrum; k counts whole periods over the image. 0: white.
        T: number of timesteps of the linear beta schedule.

    Raises:
        ConfigError: means or weights that do not fit.
    """

    means: Tensor
    log_weights: Tensor

    def __init__(
        self,
        means: list | Tensor,
        weights: list[float] | None = None,
        shape: tuple[int, int, int] = (1, 32, 32),
        variance: float = 0.05,
        exponent: float = 1.25,
        T: int = 1000,
    ) -> None:
        super().__init__(shape, variance, exponent, 0.0, T)
        centres = torch.as_tensor(means, dtype=torch.float64)
        if centres.ndim == 1 and len(centres):
            centres = centres.reshape(-1, 1, 1, 1).expand(-1, *self.shape).clone()
        if centres.ndim != 4 or tuple(centres.shape[1:]) != self.shape:
            raise ConfigError(
                f"model.prior.init_args.means: needs a number or an image of {self.shape} for each component, got "
                f"{tuple(centres.shape)}"
            )
        shares = torch.ones(len(centres)) if weights is None else torch.tensor(weights)
        if len(shares) != len(centres) or not (shares > 0).all():
            raise ConfigError(
                f"model.prior.init_args.weights: needs {len(centres)} positive numbers, got {weights}"
            )
        self.register_buffer("means", centres)
        self.register_buffer("log_weights", (shares.double() / shares.double().sum()).log())

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        a = per_image(self.abar[t].to(x_t.dtype), x_t)
        centred = x_t[:, None] - a.sqrt()[:, None] * self.means.to(x_t.dtype)  # (B, K, C, H, W)
        gain = a[:, None]
        pulls = self._inverse(centred, gain)
        share = (self.log_weights.to(x_t.dtype) - (centred * pulls).flatten(2).sum(2) / 2).softmax(1)
        return (1 - a).sqrt() * torch.einsum("bk,bkchw->bchw", share, pulls)

    def _inverse(self, x: Tensor, a: Tensor) -> Tensor:
        """(a C + (1 - a) I)^-1 x for images (B, K, C, H, W) and a (B, 1, 1, 1, 1)."""
        return self.filter(x, lambda c: 1 / (a * c + 1 - a))

    def sample(self, normal: Tensor, component: Tensor | None = None) -> Tensor:
        """Images of this prior from standard normal draws, (B, C, H, W).

        Args:
            normal: (B, C, H, W).
            component: which one each is of, long (B,); default: image i of component i modulo K.
        """
        if component is None:
            component = torch.arange(len(normal), device=normal.device) % len(self.means)
        return self.means[component].to(normal) + super().sample(normal)

    def posterior(  # type: ignore[override]
        self, y: Tensor, physics: LinearPhysics, noise_std: float
    ) -> MixturePosterior:
        """The mixture of x0 given y = A x0 + noise_std n, dense, float64.

        Args:
            y: measurements, (B, ...), of one operator for all (no per-image parameters).
            physics: a linear operator.
            noise_std: standard deviation of the noise, on the measurement's scale.
        """
        C, A = self.covariance(), dense_matrix(physics, self.shape)
        inner = A @ C @ A.T + noise_std**2 * torch.eye(len(A), dtype=torch.float64)
        gain = torch.linalg.solve(inner, A @ C).T
        centres = self.means.flatten(1)
        residual = y.double().flatten(1)[:, None] - centres @ A.T  # (B, K, M)
        means = centres + residual @ gain.T
        fit = (residual * torch.linalg.solve(inner, residual.mT).mT).sum(2)
        weights = (self.log_weights - fit / 2).softmax(1)
        return MixturePosterior(weights, means.reshape(*means.shape[:2], *self.shape), C - gain @ A @ C)
