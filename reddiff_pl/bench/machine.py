"""The machine: its name, its clock, its memory, and how fast it multiplies matrices."""

from __future__ import annotations

import gc
import platform
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reddiff_pl.devices.cores import cores

GIB = 2**30


def describe(device: torch.device) -> dict[str, Any]:
    """Names and versions that the numbers depend on."""
    import diffusers

    from reddiff_pl.restoring.output import device_name, versions

    known: dict[str, Any] = {
        "device": device_name(device),
        "cpu_cores": cores(),
        "diffusers": diffusers.__version__,
        "platform": platform.platform(),
        **versions(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        known |= {
            "gpu_gib": round(properties.total_memory / GIB, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return known


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of some work: between two events on a GPU, whose stream is empty before; by the clock elsewhere."""
    if device.type != "cuda":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1000


def repeated(
    work: Callable[[], Any], device: torch.device, repeats: int, seconds: float, least: float = 0.0
) -> list[float]:
    """Seconds of one call of `work`, measured up to `repeats` times, at least once, until `seconds` are spent.

    Args:
        least: a measurement repeats short work until about so many seconds are full, and divides.
    """
    once = timed(work, device)
    calls = max(1, min(1000, round(least / once))) if once > 0 else 1
    if calls == 1 and once >= seconds / 2:
        return [once]

    def many() -> None:
        for _ in range(calls):
            work()

    found: list[float] = []
    began = time.perf_counter()
    while len(found) < repeats and (not found or time.perf_counter() - began < seconds):
        found.append(timed(many, device) / calls)
    return found


def peak(device: torch.device) -> dict[str, Any]:
    """TFLOP/s that networks could hope for, on random normal numbers.

    On CUDA the median of many bfloat16 8192^3 products after a warm-up. Elsewhere the fastest of a few float32 2048^3
    products and 3x3 convolutions, which some processors do better.
    """
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator)

    if device.type == "cuda":
        a, b = (normal(8192, 8192).bfloat16() for _ in range(2))
        out = torch.empty_like(a)
        seconds = [timed(lambda: torch.mm(a, b, out=out), device) for _ in range(220)][20:]
        return {
            "tflops": 2 * 8192**3 / statistics.median(seconds) / 1e12,
            "product": "bfloat16 8192^3 product",
        }
    a, b = normal(2048, 2048), normal(2048, 2048)
    x, kernel = normal(4, 256, 32, 32), normal(512, 256, 3, 3)
    rates = []
    for _ in range(4):
        rates.append(2 * 2048**3 / timed(lambda: a @ b, device))
        rates.append(2 * 4 * 512 * 256 * 9 * 32 * 32 / timed(lambda: F.conv2d(x, kernel, padding=1), device))
    return {"tflops": max(rates) / 1e12, "product": "float32 2048^3 product or 3x3 convolution"}


def forget(device: torch.device) -> None:
    """Give back unused memory and begin a new account of its peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: torch.device) -> dict[str, float]:
    """Peak memory in GiB: allocated and reserved by torch since `forget` on a GPU; else the process, resident."""
    if device.type == "cuda":
        return {
            "peak_gib": torch.cuda.max_memory_allocated(device) / GIB,
            "reserved_gib": torch.cuda.max_memory_reserved(device) / GIB,
        }
    return {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}
