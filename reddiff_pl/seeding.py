"""The one place where seeds come from.

Every draw is named by (run seed, key, sample index, name, step, k); the name is one of
init, z0, z, n (samplers), t (random time orders), mask, y (degradation). Neither rank nor batch nor the
number of tasks is in the name, so nothing depends on them.
"""

from __future__ import annotations

import hashlib

import torch


def stream_seed(seed: int, key: str, name: str, step: int = 0, k: int = 0, sample: int = 0) -> int:
    """A 63-bit seed for one draw. The CPU generator uses its low 32 bits only, CUDA's all of them.

    Two draws of a large run may thus share a CPU stream; they belong to other steps or other images,
    which does no harm.
    """
    text = f"{seed}\0{key}\0{sample}\0{name}\0{step}\0{k}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def stream(seed: int, key: str, name: str) -> torch.Generator:
    """A CPU generator for what is drawn once for a sample: its mask, its kernel, its measurement noise."""
    return torch.Generator().manual_seed(stream_seed(seed, key, name))
