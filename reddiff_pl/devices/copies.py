"""Copies between the host and a CUDA device beside the computation, so that neither waits for the other.

Each direction has a stream of its own: with one for both, the upload of the next batch would wait behind the download
of the last one, which waits for its computation. On the CPU nothing is copied and nothing waits.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor


@functools.cache
def _stream(device: torch.device, direction: str) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; what is computed there from now on finds it copied.

    Overlaps with the computation only if the tensor lies in pinned memory.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    stream, current = _stream(device, "up"), torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        copy = tensor.to(device, non_blocking=True)
    current.wait_stream(stream)
    copy.record_stream(current)
    return copy


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the host's on a device, in turn with the work there.

    `Tensor.to` would hold the host until the device has done all that was asked of it before.
    """
    if device.type != "cuda":
        return tensor.to(device)
    # an expanded tensor cannot be pinned: its elements share their places
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


class Download:
    """Copies of tensors on the CPU, begun as soon as what was asked of the device before is computed.

    Args:
        tensors: any, {name: tensor}; those on the CPU already are kept as they are.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._event: torch.cuda.Event | None = None
        device = next((tensor.device for tensor in tensors.values() if tensor.is_cuda), None)
        if device is None:
            self._copies = dict(tensors)
            return
        stream = _stream(device, "down")
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            # copies that do not block go to pinned memory
            self._copies = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
            # waiting sleeps instead of spinning: eight tasks on one host need their cores for other things
            self._event = torch.cuda.Event(blocking=True)
            self._event.record(stream)
        for tensor in tensors.values():
            if tensor.is_cuda:
                tensor.record_stream(stream)  # its memory is not reused before it is copied

    def wait(self) -> dict[str, Tensor]:
        """The copies, once they have arrived; from any thread.

        Raises:
            RuntimeError: what the computation before failed of.
        """
        if self._event is not None:
            self._event.synchronize()
        return self._copies


class Pace:
    """Keeps the host no more than a few steps ahead of the device.

    Without it hundreds of steps may be queued on the device by the time that a signal asks to stop. Some must be,
    so that the device has work while the host passes from one batch to the next.

    Args:
        device: where the steps are computed.
        ahead: steps that the device may be behind.
    """

    def __init__(self, device: torch.device, ahead: int = 4) -> None:
        self.device, self.ahead = device, ahead
        self._events: deque[torch.cuda.Event] = deque()

    def step(self) -> None:
        """To be called before each step."""
        if self.device.type != "cuda":
            return
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self.device))
        self._events.append(event)
        if len(self._events) > self.ahead:
            self._events.popleft().synchronize()
