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

from reddiff_pl.cores import cores

GIB = 2**30


def describe(device: torch.device) -> dict[str, Any]:
    """Names and versions that the numbers depend on."""
    import diffusers

    from reddiff_pl.output import device_name, versions

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
    """TFLOP/s of the largest products that networks could hope for: bfloat16 8192^3 on CUDA, float32 2048^3 elsewhere.

    Random normal matrices; the median of many products after a warm-up, on a CPU, which others use too, the fastest.
    """
    gpu = device.type == "cuda"
    n, dtype = (8192, torch.bfloat16) if gpu else (2048, torch.float32)
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(n, n, device=device, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    for _ in range(20 if gpu else 1):
        torch.mm(a, b, out=out)
    seconds = [timed(lambda: torch.mm(a, b, out=out), device) for _ in range(200 if gpu else 4)]
    return {
        "tflops": 2 * n**3 / (statistics.median(seconds) if gpu else min(seconds)) / 1e12,
        "product": f"{str(dtype).removeprefix('torch.')} {n}^3",
    }


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
