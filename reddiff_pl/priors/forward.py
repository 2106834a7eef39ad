"""How a diffusers network is evaluated: its own forward pass, compiled, or by the kernels of `fused/`, as a graph."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.fused.graphs import Graphs
from reddiff_pl.priors.fused.obstacle import obstacle
from reddiff_pl.priors.loading import full_precision
from reddiff_pl.priors.precision import DTYPES, exact_ends, multiplies_bf16, sound_attention

log = logging.getLogger(__name__)

_PRECISION = "model.prior.init_args.precision"

Precision = Literal["auto", "32", "bf16", "16", "fp8"]

# of how many first and last residual blocks convolutions stay in 16 bits where `auto` chooses 8: they make nearly all
# of the error
EXACT_BLOCKS = (1, 2)


class Forward:
    """Evaluates network(x, t, class_labels=labels, return_dict=False)[0].

    Args:
        network: a UNet2DModel, or another one that is called like it. Its owner moves it between devices.
        channels: of the output that are wanted.
        precision, fused, graph, compile: as `reddiff_pl.priors.UNet` has them.
        eight_bits: with `auto`, the first and the last t at which 8 bits are as good as float32; None: nowhere.

    Attributes:
        evaluations: how many images were evaluated on the fast path, by precision.

    Raises:
        ConfigError: options that do not fit the network or the machine.
    """

    def __init__(
        self,
        network: nn.Module,
        channels: int,
        precision: Precision = "auto",
        fused: bool = True,
        graph: bool = True,
        compile: bool = False,
        eight_bits: tuple[int, int] | None = None,
    ) -> None:
        if precision not in get_args(Precision):
            raise ConfigError(
                f"{_PRECISION}: must be one of {', '.join(get_args(Precision))}, got {precision}"
            )
        self.network: Any = network
        self.channels, self.precision = channels, precision
        self.fused, self.graph, self.compiled = fused, graph, compile
        self.eight_bits = eight_bits
        self.exact_blocks = EXACT_BLOCKS if precision == "auto" else (0, 0)
        self.evaluations: Counter[str] = Counter()
        if precision == "fp8" and (lack := self._lacks_eight_bits(_cuda())):
            raise ConfigError(f"{_PRECISION}: fp8 needs {lack}")
        self._fast: Callable[..., Tensor] | None = None
        self._name, self._chooses = "", False  # on the device of `_fast`
        full_precision()
        exact_ends(network)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """The first `channels` channels of the output, float32. Differentiable in x where grad is enabled.

        Args:
            x: what the network sees, float32 (B, C, H, W).
            t: what it is told of the noise, (B,): long, or float32.
            labels: classes, long (B,), for networks that know some.
        """
        if x.is_cuda and not torch.is_grad_enabled():
            if self._fast is None:
                self._fast = self._fast_forward(x.device)
            output = self._fast(x, t, labels, **self._how(t))
        else:
            output = self._network(x, t, labels)
        return output[:, : self.channels].float()

    def calls(self, images: int, most: int, like: Tensor) -> list[int] | None:
        """As `reddiff_pl.priors.Prior.calls`, by `few_sizes`; None where any number is as good."""
        return most_at_a_time(images, most, like, self.graph or self.compiled, self.compiled)

    def release(self) -> None:
        """Give up captured graphs, and their memory."""
        if isinstance(self._fast, Graphs):
            self._fast.clear()

    def _dtype(self, device: torch.device) -> torch.dtype:
        """What the network computes in."""
        if self.precision == "auto":
            return torch.bfloat16 if multiplies_bf16(device) else torch.float32
        return DTYPES[self.precision.replace("fp8", "bf16")] or torch.float32

    def resolved(self, device: torch.device) -> str:
        """What `precision` comes to on a device, in words: runs hold on to it."""
        if self.precision == "fp8":
            return "fp8"
        name = {torch.float32: "32", torch.bfloat16: "bf16", torch.float16: "16"}[self._dtype(device)]
        if self.eight_bits is None or not self._by_timestep(device):
            return name
        first, last = self.eight_bits
        return f"fp8 from t = {first} to {last}, else {name}"

    def _by_timestep(self, device: torch.device) -> bool:
        """Whether 8 bits are chosen by t."""
        return self.precision == "auto" and self.eight_bits is not None and not self._lacks_eight_bits(device)

    def _how(self, t: Tensor) -> dict[str, bool]:
        """In which way this evaluation goes; nothing where there is one way only."""
        if not self._chooses or self.eight_bits is None:
            self.evaluations[self._name] += len(t)
            return {}
        # one look at the device; images of a batch whose t differ go one way together
        first, last = self.eight_bits
        eight_bits = bool(((t >= first) & (t <= last)).all())
        self.evaluations["fp8" if eight_bits else "bf16"] += len(t)
        return {"eight_bits": eight_bits}

    def _lacks_eight_bits(self, device: torch.device) -> str | None:
        """What fp8 needs and is not there; None where it can be."""
        if not self.fused or self.compiled:
            return "fused: true and compile: false"
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
            return "a CUDA device of compute capability 8.9 or more"
        if (reason := obstacle(self.network)) is not None:
            return f"a network that can be fused, not one with {reason}"
        return None

    def _network(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """diffusers' own forward pass."""
        dtype = self._dtype(x.device)
        if x.device.type == "cpu":  # a tenth faster there
            x = x.contiguous(memory_format=torch.channels_last)
        # a graph must not keep the cache's copies of the weights
        cast = torch.autocast(x.device.type, dtype, dtype != torch.float32, cache_enabled=not x.is_cuda)
        with cast, sound_attention(x):
            # t stays an integer or float32: bf16 would turn 937 into 936
            return self.network(x, t, class_labels=labels, return_dict=False)[0]

    def _fast_forward(self, device: torch.device) -> Callable[..., Tensor]:
        """The network's evaluation without gradients, on the CUDA device where it is by now."""
        forward: Callable[..., Tensor] = self._network
        dtype = self._dtype(device)
        self._name, self._chooses = self.resolved(device), self._by_timestep(device)
        if self.compiled:
            self.network.to(memory_format=torch.channels_last)
            forward = torch.compile(forward, dynamic=False)
        elif self.fused and dtype != torch.float32:
            if (reason := obstacle(self.network)) is None:
                from reddiff_pl.priors.fused.unet import FusedUNet  # Triton

                eight = self.precision == "fp8" or self._chooses
                operands = torch.float8_e4m3fn if eight else None
                forward = FusedUNet(self.network, dtype, self.channels, operands, self.exact_blocks)
            else:
                log.info("the network is not fused: %s; compile: true may make it faster", reason)
        ways = [{"eight_bits": True}, {"eight_bits": False}] if self._chooses else [{}]
        return Graphs(forward, ways) if self.graph else forward


def _cuda() -> torch.device:
    """The device that restorations will run on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def most_at_a_time(images: int, most: int, like: Tensor, captured: bool, compiled: bool) -> list[int] | None:
    """In how many at a time images are best evaluated; None where any number is as good.

    Args:
        images: how many there are.
        most: how many may be evaluated at a time.
        like: images; only their device counts.
        captured: each number is captured, or compiled, when it comes up first.
        compiled: that takes so long that there should be one only.
    """
    if not (like.is_cuda and captured) or torch.is_grad_enabled():
        return None
    return [most] * -(-images // most) if compiled else few_sizes(images, most)


def few_sizes(images: int, most: int) -> list[int]:
    """Numbers of images at a time, `most` at most, in sum `images` or somewhat more.

    Each number that ever comes up is captured as a graph, and libraries choose kernels for it, which takes as long as
    many evaluations: what does not fill a batch is evaluated in quarters of one; where there is no full one, in powers
    of two.
    """
    sizes, left = [most] * (images // most), images % most
    if sizes and left:
        quarter = -(-most // 4)
        more = [quarter] * -(-left // quarter)
        return sizes + (more if sum(more) < most else [most])
    while left:
        size = 1 << (left - 1).bit_length()  # the next power of two
        if size > most:
            size = most
        elif left < 0.75 * size:  # two evaluations are less work than one that is padded by so much
            size //= 2
        sizes.append(size)
        left -= min(size, left)
    return sizes
