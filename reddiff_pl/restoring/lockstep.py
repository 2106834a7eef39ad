"""Several batches, each of images of its own size, restored step by step together: they share network calls.

Each runs in a thread of its own, up to where it asks the prior; when all have asked, they are answered at once. Only
one of them runs at a time, in a fixed order: threads serve as coroutines here, and nothing depends on their timing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from deepinv.physics import Physics
from torch import Tensor

from reddiff_pl.errors import Stopped
from reddiff_pl.priors.base import Prior, Question, host_abar

T = TypeVar("T")


def together(prior: Prior, jobs: Sequence[Callable[[Prior], T]]) -> list[T]:
    """What the jobs return, each called with a prior that answers as `prior` does.

    Raises:
        BaseException: what one of them raised; the others are ended.
    """
    if len(jobs) == 1:
        return [jobs[0](prior)]
    seats = [_Seat(prior, job) for job in jobs]
    try:
        for seat in seats:
            seat.go_on()
        while asking := [seat for seat in seats if seat.question is not None]:
            with torch.no_grad():
                answers = prior.eps_many([seat.question for seat in asking if seat.question is not None])
            for seat, answer in zip(asking, answers, strict=True):
                seat.go_on(answer)
    finally:
        for seat in seats:
            seat.end()
    return [seat.result for seat in seats]


class _Seat(Generic[T]):
    """One job in its thread.

    Attributes:
        question: what it asks the prior; None before it has begun and once it has ended.
        result: what it returned.
    """

    result: T

    def __init__(self, prior: Prior, job: Callable[[Prior], T]) -> None:
        self.question: Question | None = None
        self.asking = _Asking(prior, self)
        self._job, self._answer = job, None
        self._error: BaseException | None = None
        self._ended = False
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        # all of these are a thread's own
        self._grad, self._threads = torch.is_grad_enabled(), torch.get_num_threads()
        device = prior.abar.device
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._thread = threading.Thread(target=self._run, name="lockstep", daemon=True)

    def go_on(self, answer: Any = None) -> None:
        """Let it run until it asks again, or ends.

        Raises:
            BaseException: what it raised.
        """
        self.question, self._answer = None, answer
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._turn.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """End a job that waits for an answer that will not come."""
        if self.question is not None:
            self.question, self._ended = None, True
            self._turn.release()
        if self._thread.ident is not None:
            self._thread.join()

    def ask(self, question: Question) -> Tensor:
        """Called by the job: wait until all have asked, and for the answer.

        Raises:
            Stopped: there will be none.
        """
        self.question = question
        self._back.release()
        self._turn.acquire()
        if self._ended:
            raise Stopped
        answer, self._answer = self._answer, None
        assert answer is not None
        return answer

    def _run(self) -> None:
        try:
            torch.set_grad_enabled(self._grad)
            torch.set_num_threads(self._threads)
            if self._stream is not None:
                torch.cuda.set_device(self._stream.device)
                torch.cuda.set_stream(self._stream)
            self.result = self._job(self.asking)
        except BaseException as error:
            self._error = error
        finally:
            self._back.release()


class _Asking(Prior):
    """The prior, as a job sees it."""

    def __init__(self, prior: Prior, seat: _Seat) -> None:
        super().__init__()
        self.prior, self._seat = prior, seat
        self.shape, self.classes, self.default_label = prior.shape, prior.classes, prior.default_label
        self.any_size, self.latent = prior.any_size, prior.latent
        self.abar = prior.abar
        self.__dict__["_host_abar"] = host_abar(prior)

    def eps(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled() and x_t.requires_grad:  # its graph is its own
            return self.prior.eps(x_t, t, label)
        return self._seat.ask((x_t, t, label))

    def encode(self, x: Tensor) -> Tensor:
        return self.prior.encode(x)

    def decode(self, x: Tensor) -> Tensor:
        return self.prior.decode(x)

    def observed(self, physics: Physics) -> Physics:
        return self.prior.observed(physics)
