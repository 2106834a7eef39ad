"""Classifier guidance: a classifier of noisy images pulls a prior towards the class of each image.

    eps <- eps - sigma_t scale grad_{x_t} log p(label | x_t)

References:
    Diffusion Models Beat GANs on Image Synthesis | https://arxiv.org/abs/2105.05233
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import Prior, describe, labels_of, per_image
from reddiff_pl.priors.checkpoints import check_finite
from reddiff_pl.priors.loading import find_folder, full_precision, read_json, wide_unet
from reddiff_pl.priors.precision import autocast

_OPTION = "model.prior.init_args.classifier.init_args.path"
WEIGHTS = "diffusion_pytorch_model.safetensors"


class Classifier(nn.Module):
    """Classifies noisy images: forward(x_t (B, C, H, W), t long (B,)) -> logits (B, classes).

    Attributes:
        classes: how many there are.
    """

    classes: int


class ClassifierGuidance(Prior):
    """A prior, conditional on classes or not, guided by a classifier.

    Args:
        prior: the diffusion model.
        classifier: trained on the same images and schedule.
        scale: weight of the classifier's gradient; 1 is Bayes' rule.
        label: class of samples that have no `label` in their KEY.json. Without, such samples fail.

    Raises:
        ConfigError: the two have another number of classes, or there is no such label.
    """

    def __init__(
        self, prior: Prior, classifier: Classifier, scale: float = 1.0, label: int | None = None
    ) -> None:
        super().__init__()
        if prior.classes not in (0, classifier.classes):
            raise ConfigError(
                f"model.prior.init_args.classifier: it knows {classifier.classes} classes, the prior {prior.classes}"
            )
        if label is not None and not 0 <= label < classifier.classes:
            raise ConfigError(
                f"model.prior.init_args.label: the classifier has {classifier.classes} classes, got {label}"
            )
        if prior.latent:
            raise ConfigError(
                "model.prior: put ClassifierGuidance inside Latent, with a classifier of latents"
            )
        self.prior, self.classifier, self.scale = prior, classifier, scale
        self.shape, self.classes, self.default_label = prior.shape, classifier.classes, label
        self.register_buffer("abar", prior.abar, persistent=False)

    def settings(self) -> str:
        classifier = getattr(self.classifier, "settings", "")
        return f"{self.scale} {self.default_label} {classifier} {describe(self.prior)}"

    def foreign(self) -> str | None:
        known = type(self.classifier).__module__.startswith("reddiff_pl.")
        return None if known else "model.prior.init_args.classifier"

    def calls(self, images: int, most: int, like: Tensor) -> list[int]:
        return self.prior.calls(images, most, like)

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        label = labels_of(self, label, len(x_t)).to(x_t.device)
        eps = self.prior.eps(x_t, t, label)
        differentiated = (
            torch.is_grad_enabled() and x_t.requires_grad
        )  # by the sampler, through both networks
        # the fused attention kernels have no second derivative
        kernels = sdpa_kernel(SDPBackend.MATH) if differentiated else nullcontext()
        with torch.enable_grad(), kernels:
            x = x_t if differentiated else x_t.detach().requires_grad_()
            log_p = self.classifier(x, t).float().log_softmax(1).gather(1, label[:, None]).sum()
            [gradient] = torch.autograd.grad(log_p, x, create_graph=differentiated)
        sigma = per_image((1 - self.abar[t]).sqrt().float(), x_t)
        return eps - self.scale * sigma * gradient.float()


class ADMClassifier(Classifier):
    """The classifiers of the ADM family: the UNet's way down, and a head that pools by attention.

    Args:
        path: a folder that `reddiff prior import 256x256_classifier.pt --out FOLDER` made.
        precision: "32", or "bf16" and "16" under autocast.

    Raises:
        ConfigError: no usable classifier at `path`.
    """

    def __init__(self, path: str, precision: Literal["32", "bf16", "16"] = "32") -> None:
        super().__init__()
        from safetensors.torch import load_file

        folder = find_folder(path, hub=False, option=_OPTION)
        config = read_json(folder / "config.json", _OPTION)
        if config.get("_class_name") != "ADMClassifier":
            raise ConfigError(f"{_OPTION}: {folder} is a {config.get('_class_name')}, not an ADMClassifier")
        try:
            head = config["head"]
            self.classes = head["classes"]
            self.encoder, self.norm, self.pool = modules(config["encoder"], **head)
            self.load_state_dict(load_file(folder / WEIGHTS))
            check_finite(self.state_dict(), f"{_OPTION}: {folder}")
        except ConfigError:
            raise
        except Exception as error:  # whatever a damaged file raises
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"{_OPTION}: cannot load {folder}: {reason}") from error
        self.float().eval().requires_grad_(False)
        self.precision = precision
        self.settings = json.dumps([precision, config], sort_keys=True)
        if precision == "32":
            full_precision()

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        with autocast(x_t.device, self.precision):
            encoder: Any = self.encoder
            emb = encoder.time_embedding(encoder.time_proj(t))
            h = encoder.conv_in(x_t.float())
            for block in encoder.down_blocks:
                h, _ = block(h, emb)
            return self.pool(F.silu(self.norm(encoder.mid_block(h, emb))))


def modules(encoder: dict[str, Any], classes: int, side: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """A classifier's parts with random weights: the way down of a UNet2DModel, the norm and the pool after it."""
    network: Any = wide_unet(encoder)
    network.up_blocks = nn.ModuleList()
    network.conv_norm_out = network.conv_out = nn.Identity()
    width = encoder["block_out_channels"][-1]
    norm = nn.GroupNorm(encoder["norm_num_groups"], width, encoder["norm_eps"])
    return network, norm, AttentionPool(side, width, encoder["attention_head_dim"], classes)


class AttentionPool(nn.Module):
    """One attention from the mean of all places to all places and their mean.

    Args:
        side: side of the square of places.
        width: their channels.
        head_channels: channels of an attention head.
        classes: number of outputs.
    """

    def __init__(self, side: int, width: int, head_channels: int, classes: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.positional_embedding = nn.Parameter(torch.zeros(width, side**2 + 1))
        self.qkv_proj = nn.Conv1d(width, 3 * width, 1)
        self.c_proj = nn.Conv1d(width, classes, 1)

    def forward(self, h: Tensor) -> Tensor:
        """(B, width, side, side) -> (B, classes)."""
        places = h.flatten(2)
        places = torch.cat([places.mean(2, keepdim=True), places], 2) + self.positional_embedding
        q, k, v = (
            part.unflatten(1, (-1, self.head_channels)).transpose(2, 3)
            for part in self.qkv_proj(places).chunk(3, dim=1)
        )
        pooled = F.scaled_dot_product_attention(q[:, :, :1], k, v)  # (B, heads, 1, head_channels)
        return self.c_proj(pooled.flatten(1)[..., None])[..., 0]


def config_of(encoder: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The config.json of a classifier, from its encoder's and the tensors of its head."""
    places = tensors["out.2.positional_embedding"].shape[1] - 1
    head = {"classes": tensors["out.2.c_proj.weight"].shape[0], "side": round(places**0.5)}
    return {"_class_name": "ADMClassifier", "encoder": encoder, "head": head}


def head_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The head's tensors under the names of `ADMClassifier`."""
    names = {"out.0.": "norm.", "out.2.": "pool."}
    return {
        names[name[:6]] + name[6:]: value for name, value in tensors.items() if name.startswith(tuple(names))
    }


def classifier_from(config: dict[str, Any]) -> nn.Module:
    """An empty module with a classifier's tensors, to compare shapes with."""
    encoder, norm, pool = modules(config["encoder"], **config["head"])
    return nn.ModuleDict({"encoder": encoder, "norm": norm, "pool": pool})
