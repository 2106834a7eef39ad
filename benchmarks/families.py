"""One evaluation of Stable Diffusion 1.5's, SDXL's and SD3 medium's networks, random weights: diffusers' ways and ours.

    python -m benchmarks.families --out runs/families           # on a GPU: minutes, most of them torch.compile's
    python -m benchmarks.families --out runs/families --networks tiny --batches 2 --ways eager ours

Each network is asked at the size that it was trained on, in bf16, with classifier-free guidance: a batch is half images
with their text and half the same with none, in one call, as diffusers' pipelines do it too. The ways, one after the
other in one process, with empty caches of compiled code:

    eager           diffusers' forward pass
    compiled        torch.compile of the whole network (Stable Diffusion 1.5, in channels_last), or of its transformer
                    blocks (the others, diffusers' compile_repeated_blocks)
    compiled graph  the same, captured as a CUDA graph
    ours            `reddiff_pl.priors.Pipeline`'s own way, with nothing set

A row's error is that of its output to diffusers' eager one in float32. Rows are written as they are measured.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

WAYS = ("eager", "compiled", "compiled graph", "ours")
_SD: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
_SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + 1280,
}
_SD3: dict[str, Any] = {
    "sample_size": 128,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
_TINY: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 24),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
}
_TINY3: dict[str, Any] = {
    "sample_size": 8,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_projection_dim": 16,
    "joint_attention_dim": 8,
    "pooled_projection_dim": 8,
    "pos_embed_max_size": 8,
}
# class, configuration, tokens of a text and their width, of a whole text (0: none), batches, whether compiled whole
NETWORKS: dict[str, tuple[str, dict[str, Any], int, int, int, tuple[int, ...], bool]] = {
    "sd15": ("UNet2DConditionModel", _SD, 77, 768, 0, (16, 2), True),
    "sdxl": ("UNet2DConditionModel", _SDXL, 77, 2048, 1280, (8, 2), False),
    "sd3": ("SD3Transformer2DModel", _SD3, 77 + 256, 4096, 2048, (8, 2), False),
    "tiny": ("UNet2DConditionModel", _TINY, 5, 8, 0, (2,), True),
    "tiny3": ("SD3Transformer2DModel", _TINY3, 5, 8, 8, (2,), False),
}


def rows(
    name: str, batches: list[int], ways: list[str], device: Any, seconds: float
) -> Iterator[dict[str, Any]]:
    """What each way takes, a row for each batch."""
    import torch

    from reddiff_pl.bench.machine import forget, memory, repeated
    from reddiff_pl.priors.conditional import ConditionalForward, repeated_blocks
    from reddiff_pl.priors.families import FAMILIES, Call
    from reddiff_pl.priors.fused.graphs import Graphs

    kind, config, tokens, width, pooled, _, whole = NETWORKS[name]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    call = next(family.call for family in FAMILIES.values() if family.network == kind)
    network: Any = made(kind, config, device)
    like = Call(*[torch.empty(0)] * 3, None, 8, 1.0)  # type: ignore[arg-type]

    def asked(batch: int, dtype: Any) -> Call:
        generator = torch.Generator(device).manual_seed(batch)

        def normal(*shape: int) -> Any:
            return torch.randn(*shape, device=device, generator=generator)

        half, side = -(-batch // 2), config["sample_size"]
        x = normal(half, network.config.in_channels, side, side).repeat(2, 1, 1, 1)[:batch]
        time = torch.full((batch,), 0.6 if pooled and "num_layers" in config else 600, device=device)
        whole_text = normal(batch, pooled).to(dtype) if pooled else None
        words = normal(batch, tokens, width).to(dtype)
        return Call(x, time, words, whole_text, like.pixels, like.strength)

    def evaluate(run: Callable[[Call], Any], way: str, batch: int) -> dict[str, Any]:
        forget(device)
        given = asked(batch, dtype)
        with torch.no_grad():
            began = time_now(device)
            output = run(given)
            first = time_now(device) - began
            for _ in range(2):
                run(given)
            found = repeated(lambda: run(given), device, 15, seconds, 0.1)
        ms = statistics.median(found) * 1000 / batch
        reference = expected[batch].to(device)
        off = ((output.float() - reference).norm() / reference.norm()).item()
        return {
            "network": name,
            "way": way,
            "batch": batch,
            "ms": ms,
            "spread": [min(found) * 1000 / batch, max(found) * 1000 / batch],
            "first_seconds": first,
            "tflops": work / ms / 1e9,
            "error": off,
            **memory(device),
        }

    def plain(given: Call) -> Any:
        return call(network, replace(given, x=given.x.to(given.words.dtype)))

    work = flop(network, call, asked(1, torch.float32))
    with torch.no_grad():
        expected = {batch: plain(asked(batch, torch.float32)).float().cpu() for batch in batches}
    network = network.to(dtype)
    if "eager" in ways:
        yield from (evaluate(plain, "eager", batch) for batch in batches)
    if "compiled" in ways or "compiled graph" in ways:
        compiled: Any = copy.deepcopy(network)
        if whole:
            compiled = torch.compile(compiled.to(memory_format=torch.channels_last), dynamic=False)
        elif hasattr(compiled, "_repeated_blocks") and compiled._repeated_blocks:
            compiled.compile_repeated_blocks(dynamic=False)
        else:
            for block in repeated_blocks(compiled):
                block.compile(dynamic=False)
        unwrapped = getattr(compiled, "_orig_mod", compiled)
        assert unwrapped.config is not None

        def by_compiled(given: Call) -> Any:
            return call(compiled, replace(given, x=given.x.to(given.words.dtype)))

        def tensors(x: Any, time: Any, words: Any, whole_text: Any) -> Any:
            return by_compiled(Call(x, time, words, whole_text, like.pixels, like.strength))

        captured = Graphs(tensors)
        for batch in batches:
            if "compiled" in ways:
                yield evaluate(by_compiled, "compiled", batch)
            if "compiled graph" in ways and device.type == "cuda":
                yield evaluate(lambda g: captured(g.x, g.time, g.words, g.pooled), "compiled graph", batch)
        captured.clear()
        del compiled, captured, unwrapped
        torch._dynamo.reset()  # what is ours is compiled by itself
        forget(device)
    if "ours" in ways:
        ours = ConditionalForward(network, call, network.config.out_channels)
        yield from (evaluate(ours, "ours", batch) for batch in batches)


def made(kind: str, config: dict[str, Any], device: Any) -> Any:
    """A random network, float32, whose activations are at ordinary sizes."""
    import diffusers
    import torch

    with torch.device("meta"):
        network = getattr(diffusers, kind)(**config)
    buffers = {key: value for key, value in network.named_buffers() if value.is_meta}
    network = network.to_empty(device=device).eval().requires_grad_(False)
    if buffers:  # what is no weight is computed by the constructor: once on the CPU, of one layer
        small = getattr(diffusers, kind)(
            **{**config, **({"num_layers": 1} if "num_layers" in config else {})}
        )
        known = dict(small.named_buffers())
        for key in buffers:
            network.get_buffer(key).copy_(known[key])
    generator = torch.Generator(device).manual_seed(0)
    for name, value in network.named_parameters():
        value.normal_(generator=generator)
        if value.ndim > 1:
            value.mul_(1 / math.sqrt(value[0].numel()))
        elif name.endswith("bias"):
            value.mul_(0.02)
        else:
            value.mul_(0.1).add_(1)
    return network


def flop(network: Any, call: Callable[..., Any], given: Any) -> int:
    """Floating-point operations of one image's evaluation."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(network, given)
    return counter.get_total_flops()


def time_now(device: Any) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def table(found: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| network | batch | how | ms / image | eager = 1 | compiled = 1 | TFLOP/s | GiB | first call, s | error |",
        "|---" * 10 + "|",
    ]
    for row in found:
        same = {
            r["way"]: r["ms"] for r in found if (r["network"], r["batch"]) == (row["network"], row["batch"])
        }
        best = min((same[way] for way in ("compiled", "compiled graph") if way in same), default=None)
        to_eager = f"{same['eager'] / row['ms']:.2f}" if "eager" in same else ""
        to_best = f"{best / row['ms']:.2f}" if best else ""
        lines.append(
            f"| {row['network']} | {row['batch']} | {row['way']} | {row['ms']:.2f} | {to_eager} | {to_best} | "
            f"{row['tflops']:.0f} | {row['peak_gib']:.1f} | {row['first_seconds']:.1f} | {row['error']:.4f} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.families", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for families.md and families.json")
    parser.add_argument("--networks", nargs="+", default=["sd3", "sdxl", "sd15"], choices=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, help="default: each network's own")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="a row is measured for (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    caches = tempfile.TemporaryDirectory()  # cold starts are cold
    os.environ |= {
        "TORCHINDUCTOR_CACHE_DIR": f"{caches.name}/inductor",
        "TRITON_CACHE_DIR": f"{caches.name}/triton",
    }
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    import torch

    from reddiff_pl.bench.machine import describe, peak

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record: dict[str, Any] = {"machine": describe(device), "peak": peak(device), "rows": []}
    failed = False
    for name in options.networks:
        batches = options.batches or list(NETWORKS[name][5])
        try:
            for row in rows(name, batches, options.ways, device, options.seconds):
                record["rows"].append(row)
                print(json.dumps(row), flush=True)
                (options.out / "families.json").write_text(json.dumps(record, indent=1) + "\n")
                (options.out / "families.md").write_text(table(record["rows"]) + "\n")
        except (RuntimeError, AssertionError) as error:  # the others are still worth their rows
            failed = True
            print(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:500]}", flush=True)
    print(f"{record['machine']['device']}, peak {record['peak']['tflops']:.0f} TFLOP/s")
    print(table(record["rows"]))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
