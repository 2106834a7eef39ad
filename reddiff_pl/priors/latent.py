"""Priors in the latent space of an autoencoder: the sampler's x is a latent z, and images are decode(z).

The operator becomes A(decode(z)), differentiated through the decoder; a start is that of the images, encoded. Latents
are those that the prior was trained on: the autoencoder's times scaling_factor.

Samplers whose steps ask for the latent near z that fits the measurement descend through the decoder for it, many
decodings and their gradients. By way of pixels, as LATINO goes, it is the image near decode(z) that fits, which has a
closed form or a few conjugate gradients:

    z + encode(x) - encode(u),    u = decode(z),    x = argmin_x |y - A(x)|^2 + rho |x - u|^2

Three passes through the autoencoder, and nothing is lost to it where u already fits. It is approximate: rho weighs
pixels, not numbers of z.

References:
    High-Resolution Image Synthesis with Latent Diffusion Models | https://arxiv.org/abs/2112.10752
    LATINO-PRO: LAtent consisTency INverse sOlver with PRompt Optimization | https://arxiv.org/abs/2503.12615
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import Prior, Question, describe
from reddiff_pl.priors.loading import find_folder, full_precision, load_network, part
from reddiff_pl.priors.precision import autocast
from reddiff_pl.priors.tiled import windowed
from reddiff_pl.priors.unet import padded

_OPTION = "model.prior.init_args.autoencoder"

DataStep = Literal["decoder", "pixels"]


class Latent(Prior):
    """A prior on the latents of a diffusers AutoencoderKL, AutoencoderTiny or VQModel. Its `shape` is the images'.

    Put `Tiled`, `Guidance` and `ClassifierGuidance` inside, as they are of the latents. Images are padded by reflection
    to sides that the autoencoder divides.

    Args:
        prior: the diffusion model of the latents, unconditional or by class.
        autoencoder: a folder with config.json and safetensors, or a pipeline's with these in vae/ or vqvae/; with
            `hub: true` also a model id on the Hugging Face hub.
        hub: download `autoencoder` from the hub when it is not a local folder.
        scaling_factor: what the prior's latents are, in units of the autoencoder's. Default: its config.json's.
        precision: of the autoencoder: "32", or "bf16" and "16" under autocast.
        checkpoint: for the data term's gradient keep what goes between the decoder's blocks alone, and compute what is
            within them again: less memory, at the price of another decoding. For an AutoencoderKL.
        data_step: how samplers that ask for the latent near z that fits find it: "decoder", by descent through the
            decoder, or "pixels", from the image that fits. The gradient of the data term is the decoder's either way.

    Raises:
        ConfigError: no usable autoencoder, or one that does not fit the prior.
    """

    latent = True
    any_size = True  # the latents are seen in windows

    def __init__(
        self,
        prior: Prior,
        autoencoder: str,
        hub: bool = False,
        scaling_factor: float | None = None,
        precision: Literal["32", "bf16", "16"] = "32",
        checkpoint: bool = True,
        data_step: DataStep = "decoder",
    ) -> None:
        super().__init__()
        if data_step not in get_args(DataStep):
            raise ConfigError(
                f"model.prior.init_args.data_step: must be one of {', '.join(get_args(DataStep))}, got {data_step}"
            )
        self.data_step = data_step
        folder = part(find_folder(autoencoder, hub, _OPTION), ("vae", "vqvae"))
        self.autoencoder = load_network(folder, ("AutoencoderKL", "AutoencoderTiny", "VQModel"), _OPTION)
        config: Any = self.autoencoder.config
        if getattr(config, "latents_mean", None) is not None:
            raise ConfigError(f"{_OPTION}: latents with a mean and deviation for each channel are not known")
        # a checkpointed AutoencoderTiny of diffusers forgets to scale its input
        if checkpoint and type(self.autoencoder).__name__ == "AutoencoderKL":
            self.autoencoder.enable_gradient_checkpointing()  # type: ignore[operator]
        channels = getattr(config, "vq_embed_dim", None) or config.latent_channels
        if prior.shape[0] != channels:
            raise ConfigError(
                f"{_OPTION}: its latents have {channels} channels, the prior's {prior.shape[0]}"
            )
        self.scale = config.scaling_factor if scaling_factor is None else scaling_factor
        if not self.scale > 0:
            raise ConfigError(f"model.prior.init_args.scaling_factor: must be positive, got {self.scale}")
        self.shift = getattr(config, "shift_factor", None) or 0.0
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.prior, self.precision = prior, precision
        self.windows = windowed(prior)
        _, height, width = prior.shape
        self.shape = (config.in_channels, height * self.factor, width * self.factor)
        self.classes, self.default_label = prior.classes, prior.default_label
        self.register_buffer("abar", prior.abar, persistent=False)
        if precision == "32":
            full_precision()

    def settings(self) -> str:
        more = "" if self.data_step == "decoder" else f" {self.data_step}"
        return f"{self.scale} {self.shift} {self.precision}{more} {type(self.autoencoder)} {describe(self.prior)}"

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.windows.eps(x_t, t, label)

    def eps_many(self, questions: Sequence[Question]) -> list[Tensor]:
        return self.windows.eps_many(questions)

    def release(self) -> None:
        self.prior.release()

    def refuses(self, shape: tuple[int, int, int]) -> str | None:
        if min(shape[-2:]) < self.factor:  # less than what is reflected to pad them
            return f"sides of images must be at least {self.factor}, got {shape[-1]}x{shape[-2]}"
        return None

    def encode(self, x: Tensor) -> Tensor:
        if reason := self.refuses((x.shape[1], x.shape[2], x.shape[3])):
            raise ConfigError(f"model.prior: {reason}")
        autoencoder: Any = self.autoencoder
        with autocast(x.device, self.precision):
            encoded = autoencoder.encode(padded(x.float(), self.factor))
        # the mode of the posterior: no draw, so that an image's result is its own
        z = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return (z.float() - self.shift) * self.scale

    def decode(self, x: Tensor) -> Tensor:
        autoencoder: Any = self.autoencoder
        with autocast(x.device, self.precision):
            return autoencoder.decode(x.float() / self.scale + self.shift).sample.float()

    def observed(self, physics: Physics) -> Physics:
        return (PixelPhysics if self.data_step == "pixels" else LatentPhysics)(physics, self)


class LatentPhysics(Physics):
    """An operator on images as one on latents, nonlinear: A(decode(z)), and encode(A_dagger(y)) for a start.

    Where sides are not multiples of what the autoencoder divides, decoded images are cropped to the size of the last
    start.

    Args:
        physics: the operator on images.
        prior: whose latents they are.
    """

    size: tuple[int, int] | None = None

    def __init__(self, physics: Physics, prior: Latent) -> None:
        super().__init__()
        self.physics, self.prior = physics, prior

    def image(self, x: Tensor) -> Tensor:
        """Latents decoded, (B, C, H, W)."""
        image = self.prior.decode(x)
        return image if self.size is None else image[..., : self.size[0], : self.size[1]]

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.physics.A(self.image(x), **kwargs)

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.encoded(self.physics.A_dagger(y, **kwargs))

    def encoded(self, image: Tensor) -> Tensor:
        """Images of a start as latents, (B, C, H, W); decoded ones are cropped to their size from here on."""
        self.size = (image.shape[-2], image.shape[-1])
        return self.prior.encode(image)


class PixelPhysics(LatentPhysics):
    """The same, with proximal steps by way of pixels (`reddiff_pl.physics.proximal`)."""

    def through(self, z: Tensor, nearest: Callable[[Physics, Tensor], Tensor]) -> Tensor:
        """The latents near z that fit, (B, C, H, W).

        Args:
            z: latents, like them.
            nearest: gives the images that fit an operator near others, (B, C, H, W).
        """
        image = self.image(z)
        return z + self.prior.encode(nearest(self.physics, image)) - self.prior.encode(image)
