"""Functions of tensors replayed as CUDA graphs: hundreds of small launches as one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class _Graph:
    inputs: list[Tensor | None]
    output: Tensor
    graph: torch.cuda.CUDAGraph


class Graphs:
    """Replays a function, captured once for each set of shapes.

    The function must do the same work whatever its inputs hold, and wait for nothing. Its weights must stay where
    they are.

    Args:
        function: of tensors, some of which may be None, and of keywords that say how; returns a tensor.
        ways: the keywords that it may be called with. All are tried before the first is captured: what a try takes is
            given back then, and not held beside the memory of a graph.
        keep: graphs kept; the one used longest ago goes first. All share the memory that they work in: one is
            replayed after the other, and what it gives is copied at once.
    """

    def __init__(
        self, function: Callable[..., Tensor], ways: Sequence[dict[str, Any]] = ({},), keep: int = 12
    ) -> None:
        self.function, self.ways, self.keep = function, ways, keep
        self._pool: Any = None  # as torch gives it
        self.graphs: OrderedDict[tuple, _Graph] = OrderedDict()

    def __call__(self, *inputs: Tensor | None, **how: Any) -> Tensor:
        """The function's output, a new tensor.

        Args:
            inputs: the function's.
            how: one of `ways`.

        Raises:
            torch.OutOfMemoryError: there is no memory for it; all graphs are given up.
        """
        shapes = tuple(None if x is None else (x.shape, x.dtype, x.device) for x in inputs)
        key = (*how.items(), *shapes)
        if key in self.graphs:
            self.graphs.move_to_end(key)
        else:
            while len(self.graphs) > self.keep - len(self.ways):
                self.graphs.popitem(last=False)
            try:
                self._try(inputs)
                for way in self.ways:
                    self.graphs[(*way.items(), *shapes)] = self._captured(inputs, way)
            except torch.OutOfMemoryError:
                self.clear()
                raise
        captured = self.graphs[key]
        for mine, given in zip(captured.inputs, inputs, strict=True):
            if mine is not None and given is not None:
                mine.copy_(given)
        captured.graph.replay()
        return captured.output.clone()

    def clear(self) -> None:
        """Give up all graphs, and their memory."""
        self.graphs.clear()
        self._pool = None

    def _try(self, inputs: tuple[Tensor | None, ...]) -> None:
        """All ways: compiles kernels, makes libraries' workspaces, neither of which can be captured."""
        side = torch.cuda.Stream()  # one for all, since each has memory of its own
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for way in self.ways:
                self.function(*inputs, **way)
        torch.cuda.current_stream().wait_stream(side)

    def _captured(self, given: tuple[Tensor | None, ...], how: dict[str, Any]) -> _Graph:
        inputs = [None if x is None else x.clone() for x in given]
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        # other threads may go on copying meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = self.function(*inputs, **how)
        return _Graph(inputs, output, graph)
