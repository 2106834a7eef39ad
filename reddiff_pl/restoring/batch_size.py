"""`--data.batch_size auto`: the largest batch that pays, measured."""

from __future__ import annotations

import itertools
import logging
import statistics
import time
from collections.abc import Callable

import torch

from reddiff_pl.errors import SampleError, Stopped
from reddiff_pl.physics import bind
from reddiff_pl.priors import Prior, Tiled
from reddiff_pl.restoring.datamodule import ShardDataModule
from reddiff_pl.restoring.restoration import Restoration
from reddiff_pl.samplers import SeededNoise, run

log = logging.getLogger(__name__)

WITHOUT_GPU = 8  # on a CPU larger ones win nothing, and the first image comes later
LARGEST = 256
GAIN = 0.03  # of the time an image, below which a batch twice as large does not pay
MEMORY = 0.9  # of the device that may be in use, by whomever


def choose(model: Restoration, data: ShardDataModule, device: torch.device) -> int:
    """The batch size for a device; leaves the model there.

    Some steps of the sampler are timed at each size, on measurements of random images; where samples must bring the
    operator's parameters, the prior alone.
    """
    if device.type != "cuda":
        log.info("batch size %d: the one for a %s", WITHOUT_GPU, device.type)
        return WITHOUT_GPU
    model.to(device)

    def in_use() -> float:
        free, memory = torch.cuda.mem_get_info(device)
        return 1 - free / memory

    size, why = largest_that_pays(lambda size: milliseconds(model, data, device, size), in_use)
    _release(model.prior)
    torch.cuda.reset_peak_memory_stats(device)
    log.info("batch size %d: %s", size, why)
    return size


def largest_that_pays(time: Callable[[int], float], in_use: Callable[[], float]) -> tuple[int, str]:
    """A size that is doubled as long as that saves 3 % of the time an image and leaves 10 % of the memory; and why.

    Args:
        time: milliseconds an image at a size; may run out of memory.
        in_use: share of the memory in use, after the last size was timed.
    """
    size, times, why = 1, {1: time(1)}, "larger ones are not tried"
    while (larger := 2 * size) <= LARGEST:
        try:
            times[larger] = time(larger)
        except torch.OutOfMemoryError:
            why = f"no memory for {larger}"
            break
        if in_use() > MEMORY:
            why = f"{larger} would take {in_use():.0%} of the memory"
            break
        if times[larger] > (1 - GAIN) * times[size]:
            why = f"{larger} would save less than {GAIN:.0%} of the time"
            break
        size = larger
    measured = ", ".join(f"{ms:.3g} at {n}" for n, ms in times.items())
    return size, f"{why}; ms an image and step: {measured}"


def milliseconds(model: Restoration, data: ShardDataModule, device: torch.device, size: int) -> float:
    """Time of a step, an image; the first one, which compiles and captures, does not count."""
    _release(model.prior)  # each size is to have the memory for itself
    work, times = _work(model, data, device, size), list[float]()

    def enough(steps: int) -> bool:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter())
        return len(times) > steps

    for steps in (1, 3):
        times.clear()
        try:
            work(lambda: enough(steps))  # noqa: B023
            enough(0)  # the sampler has no more steps
        except Stopped:
            pass
    return 1000 * statistics.median(after - before for before, after in itertools.pairwise(times)) / size


def _work(
    model: Restoration, data: ShardDataModule, device: torch.device, size: int
) -> Callable[[Callable[[], bool]], object]:
    """What is timed: calls what it is given before each step, and raises `Stopped` when that says so."""
    prior, degradation = model.seen, data.degradation
    for module in prior.modules():
        if isinstance(module, Tiled):
            module.usual = size
    image = 2 * torch.rand(degradation.shape, generator=torch.Generator().manual_seed(0)) - 1
    label = torch.zeros(size, dtype=torch.long, device=device) if prior.classes else None

    def many(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device).expand(size, *tensor.shape).contiguous()

    try:
        y, params = degradation(image, "probe", {})
    except SampleError:
        x, t = prior.encode(many(image)), torch.full((size,), len(prior.abar) // 2, device=device)

        def evaluate(should_stop: Callable[[], bool]) -> None:
            with torch.no_grad():
                while not should_stop():
                    prior.eps(x, t, label)
            raise Stopped

        return evaluate
    assert model.physics is not None
    bind(model.physics, {name: many(value) for name, value in params.items()}, degradation.shape)
    physics = prior.observed(model.physics)
    std = torch.full((size,), degradation.noise_std(y, params, degradation.sigma_y), device=device)
    noise = SeededNoise(0, [f"probe{i}" for i in range(size)], device, model.noise_device)
    return lambda should_stop: run(
        model.sampler, many(y), physics, prior, noise, label, noise_std=std, should_stop=should_stop
    )


def _release(prior: Prior) -> None:
    """Give back what the prior and those inside it keep for the shapes that they have seen."""
    for module in prior.modules():
        if isinstance(module, Prior):
            module.release()
    torch.cuda.empty_cache()
