"""How the network of a pipeline is evaluated: diffusers' own forward pass; on CUDA faster ways to the same numbers.

UNets go through the kernels of `fused/`, transformers through their blocks compiled, which are many of few kinds, so
that it takes seconds; what comes of it is captured as a CUDA graph, with the texts among its inputs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from reddiff_pl.priors.families import Call, stable_diffusion_conditions
from reddiff_pl.priors.forward import most_at_a_time
from reddiff_pl.priors.fused.graphs import Graphs
from reddiff_pl.priors.fused.obstacle import obstacle
from reddiff_pl.priors.precision import sound_attention

log = logging.getLogger(__name__)


class ConditionalForward:
    """Evaluates a network on a `Call`.

    Args:
        network: of a family; its weights are of the type that it computes in. Its owner moves it between devices.
        call: the family's.
        channels: of the output that are wanted.
        fused: on CUDA and in 16 bits, the kernels of `fused/` or compiled blocks; false: diffusers' own.
        graph: on CUDA, replay the evaluation as a CUDA graph.
        compile: torch.compile the whole network instead.
    """

    def __init__(
        self,
        network: nn.Module,
        call: Callable[[Any, Call], Tensor],
        channels: int,
        fused: bool = True,
        graph: bool = True,
        compile: bool = False,
    ) -> None:
        self.network: Any = network
        self.call, self.channels = call, channels
        self.fused, self.graph, self.compiled = fused, graph, compile
        self._fast: Callable[..., Tensor] | None = None

    def __call__(self, asked: Call) -> Tensor:
        """The first `channels` channels of the output, float32. Differentiable in x where grad is enabled.

        Args:
            asked: x in float32, words in the type that the network computes in.
        """
        if not asked.x.is_cuda or torch.is_grad_enabled():
            # blocks that were compiled are not for gradients
            eager = torch.compiler.set_stance("force_eager") if self._fast else contextlib.nullcontext()
            with eager, sound_attention(asked.x):
                return self._plain(asked)[:, : self.channels].float()
        if self._fast is None:
            fast = self._fast_forward(asked)
            self._fast = Graphs(fast) if self.graph else fast
        return self._fast(asked.x, asked.time, asked.words, asked.pooled)[:, : self.channels].float()

    def _plain(self, asked: Call) -> Tensor:
        """diffusers' own forward pass, or what became of it."""
        return self.call(self.network, replace(asked, x=asked.x.to(asked.words.dtype)))

    def calls(self, images: int, most: int, like: Tensor) -> list[int] | None:
        """As `reddiff_pl.priors.Prior.calls`; None where any number is as good."""
        captured = self.graph or self.compiled or self._compiles_blocks()
        return most_at_a_time(images, most, like, captured, self.compiled or self._compiles_blocks())

    def release(self) -> None:
        """Give up captured graphs, and their memory."""
        if isinstance(self._fast, Graphs):
            self._fast.clear()

    def _compiles_blocks(self) -> bool:
        return self.fused and not hasattr(self.network, "down_blocks")

    def _fast_forward(self, like: Call) -> Callable[..., Tensor]:
        """Of x, the time, words and pooled ones; of a call like the others in all else."""

        def as_it_is(x: Tensor, time: Tensor, words: Tensor, pooled: Tensor | None) -> Tensor:
            return self._plain(replace(like, x=x, time=time, words=words, pooled=pooled))

        if self.compiled:
            self.network.to(memory_format=torch.channels_last)
            return torch.compile(as_it_is, dynamic=False)
        if not self.fused or like.words.dtype == torch.float32:
            return as_it_is
        if self._compiles_blocks():
            for block in repeated_blocks(self.network):
                block.compile(dynamic=False)
            return as_it_is
        if (reason := obstacle(self.network)) is not None:
            log.info("the network is not fused: %s; compile: true may make it faster", reason)
            return as_it_is
        from reddiff_pl.priors.fused.conditional import FusedConditionUNet  # Triton

        unet = FusedConditionUNet(self.network, like.words.dtype, self.channels)

        def fused(x: Tensor, time: Tensor, words: Tensor, pooled: Tensor | None) -> Tensor:
            asked = replace(like, x=x, time=time, words=words, pooled=pooled)
            return unet(x, time, words, **stable_diffusion_conditions(self.network, asked))

        return fused


def repeated_blocks(network: Any) -> list[nn.Module]:
    """A transformer's blocks: many modules of few classes, each of which is compiled once."""
    names = ("transformer_blocks", "single_transformer_blocks")
    return [block for name in names for block in getattr(network, name, ())]
