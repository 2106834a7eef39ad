"""What a network predicts, as the noise eps in x_t = alpha_t x0 + sigma_t eps:

    epsilon: eps    v_prediction: eps = alpha_t v + sigma_t x_t    sample: eps = (x_t - alpha_t x0) / sigma_t

A flow interpolates x = (1 - t) x0 + t eps, t in [0, 1], and its network predicts the velocity v = eps - x0. With
t = sigma_t / (alpha_t + sigma_t) that is the same image at another scale, x = x_t / (alpha_t + sigma_t), so that

    flow: eps = x + (1 - t) v = (x_t + alpha_t v) / (alpha_t + sigma_t)

References:
    Progressive Distillation for Fast Sampling of Diffusion Models | https://arxiv.org/abs/2202.00512
    Flow Matching for Generative Modeling | https://arxiv.org/abs/2210.02747
    FLAIR: Solving Inverse Problems with Flow-based Image Priors | https://arxiv.org/abs/2506.02680
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import per_image

Prediction = Literal["epsilon", "v_prediction", "sample"]


def checked(kind: str) -> Prediction:
    """A kind of prediction, as it is.

    Raises:
        ConfigError: it is none.
    """
    if kind not in get_args(Prediction):
        raise ConfigError(
            f"model.prior.init_args.prediction_type: must be one of {', '.join(get_args(Prediction))}, got {kind}"
        )
    return kind  # type: ignore[return-value]


def predicted_by(config: Mapping[str, Any]) -> str:
    """What a scheduler's configuration says that the network predicts: "flow", or one of `Prediction`."""
    if "FlowMatch" in str(config.get("_class_name", "")):
        return "flow"
    return checked(config.get("prediction_type", "epsilon"))


def levels(abar: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t and sigma_t of abar_t (B,), to multiply the images x (B, C, H, W), in x's dtype."""
    a = per_image(abar, x)
    return a.sqrt().to(x.dtype), (1 - a).sqrt().to(x.dtype)


def flow_time(abar: Tensor) -> Tensor:
    """t = sigma_t / (alpha_t + sigma_t), the flow's time of each abar_t, like abar."""
    return (1 - abar).sqrt() / (abar.sqrt() + (1 - abar).sqrt())


def channels_of(output: Any, x: Tensor, argument: str) -> Tensor:
    """The channels of a network's output that count: the first C, for images x (B, C, H, W).

    Args:
        argument: of the prior, that named the network.

    Raises:
        ConfigError: it is something else than (B, C or more, H, W), which arithmetic could stretch in silence.
    """
    B, C, *sides = x.shape
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) != 4 or shape[0] != B or shape[1] < C or [*shape[2:]] != sides:
        what = shape or type(output).__name__
        raise ConfigError(
            f"model.prior.init_args.{argument}: gives {what} for images {tuple(x.shape)}, expected as many, of the "
            "same size and channels, or more channels of which the first count"
        )
    return output[:, :C]


def eps_from(output: Tensor, x_t: Tensor, abar: Tensor, kind: str) -> Tensor:
    """The noise that a network's output stands for, (B, C, H, W).

    Args:
        output: of the network, at x_t; for a flow at x_t / (alpha_t + sigma_t).
        x_t: noisy images, (B, C, H, W).
        abar: of each image, (B,).
        kind: "epsilon", "v_prediction", "sample" or "flow".
    """
    if kind == "epsilon":
        return output
    alpha, sigma = levels(abar, x_t)
    if kind == "v_prediction":
        return alpha * output + sigma * x_t
    if kind == "flow":
        return (x_t + alpha * output) / (alpha + sigma)
    return (x_t - alpha * output) / sigma
