"""Networks by class_path that cannot run: exit code 2 before any work, with the option that named them."""

from __future__ import annotations

import pytest
import torch
from helpers import VAL_SHARD
from torch import nn

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors import EDM, Denoiser, Flow, Gaussian, Tiled
from reddiff_pl.priors.trial import try_out

SHAPE = (3, 16, 16)


class Works(nn.Module):
    """Called like every network here: images, and what it is told of the noise."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, channels, 3, padding=1)

    def forward(self, x, noise=None, sigma=None):
        return self.layer(x)


class OneChannel(Works):
    def forward(self, x, noise=None, sigma=None):
        return self.layer(x)[:, :1]


class Smaller(Works):
    def forward(self, x, noise=None, sigma=None):
        return self.layer(x)[..., ::2, ::2]


class Pair(Works):
    def forward(self, x, noise=None, sigma=None):
        return self.layer(x), None


class OtherArguments(Works):
    def forward(self, x):
        return self.layer(x)


class OneImage(Works):
    """Right for one image; of two, the numbers meet the images' columns."""

    def forward(self, x, noise=None, sigma=None):
        return self.layer(x) + (noise if sigma is None else sigma)


class Together(Works):
    def forward(self, x, noise=None, sigma=None):
        return self.layer(x) - x.mean(0, keepdim=True)


class Random(Works):
    def forward(self, x, noise=None, sigma=None):
        return torch.randn_like(x)


class NotFinite(Works):
    def forward(self, x, noise=None, sigma=None):
        return self.layer(x).sqrt()


class BadWeights(Works):
    def __init__(self) -> None:
        super().__init__()
        self.layer.weight.data[0, 0, 0, 0] = float("nan")


WRONG = {
    OneChannel: r"gives \(2, 1, 16, 16\)",
    Smaller: r"gives \(2, 3, 8, 8\)",
    Pair: "gives tuple",
    OtherArguments: "fails on images",
    OneImage: "fails on images",
    Together: "depends on the others of its batch",
    Random: "depends on the others of its batch",
    NotFinite: "NaN or infinite",
    BadWeights: r"NaN or infinite values, in tensor layer\.weight",
}


def made(kind: str, network: type[nn.Module]):
    if kind == "denoiser":
        with pytest.MonkeyPatch.context() as patch:  # a denoiser is made by its name, and wants weights
            patch.setattr("reddiff_pl.priors.denoiser.load_weights", lambda *_: None)
            return Denoiser(f"{__name__}.{network.__name__}", weights="any", shape=SHAPE)
    return (EDM if kind == "edm" else Flow)(network=network(), shape=SHAPE)


@pytest.mark.parametrize("kind", ["edm", "flow", "denoiser"])
@pytest.mark.parametrize("network", WRONG)
def test_what_cannot_run_is_named(kind, network):
    option = {"denoiser": "denoiser|weights"}.get(kind, "network")
    with pytest.raises(ConfigError, match=rf"model\.prior\.init_args\.({option}): .*{WRONG[network]}"):
        try_out(made(kind, network))
    with pytest.raises(ConfigError):
        try_out(Tiled(made(kind, network)))


@pytest.mark.parametrize("kind", ["edm", "flow", "denoiser"])
def test_what_can_run_is_asked_once_alone_and_once_together(kind):
    prior = made(kind, Works)
    seen = []
    prior.network.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    try_out(Tiled(prior))
    assert seen == [2, 1]


class Mine(Gaussian):
    """A user's own prior, which forgot that images come in batches."""

    def eps(self, x_t, t, label=None):
        return super().eps(x_t, t, label)[0]


def test_a_prior_of_the_users_own():
    with pytest.raises(ConfigError, match=r"model\.prior: gives \(3, 16, 16\)"):
        try_out(Mine(SHAPE))


@pytest.mark.parametrize("network", ["Smaller", "OtherArguments"])
def test_nothing_is_begun(reddiff, tmp_path, network):
    prior = f"{{class_path: reddiff_pl.priors.EDM, init_args: {{shape: {[*SHAPE]}, network: {__name__}.{network}}}}}"
    task = ["--task", "inpainting_random", "--trainer.accelerator=cpu", f"--model.prior={prior}"]
    code, printed = reddiff("restore", *task, "--data.shards", VAL_SHARD, "--out", tmp_path / "out")
    assert code == 2 and "model.prior.init_args.network: " in printed and printed.count("\n") == 1, printed
    assert not (tmp_path / "out").exists()
