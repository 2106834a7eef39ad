"""Where samplers get their randomness: one stream a sample, so a result never depends on its batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from reddiff_pl.devices.copies import send
from reddiff_pl.seeding import stream_seed


class Noise(Protocol):
    """What a sampler draws from. Replace it to replay recorded draws."""

    def normal(
        self, name: str, shape: Sequence[int], dtype: torch.dtype, step: int = 0, k: int = 0
    ) -> Tensor:
        """Standard normal draws of shape (B, *shape) for the draw `name` of this step."""
        ...


class SeededNoise:
    """Draws seeded by (seed, key, sample, name, step, k), one stream an image.

    Bit for bit the same on one device type, whatever the batch. With `noise_device="cpu"` it is the same
    on every device, at the price of a copy. On CUDA a batch is drawn in one launch (`noise_kernel.py`).

    Args:
        seed: the run's seed.
        keys: the images' keys, B of them.
        device: where the draws are wanted.
        noise_device: where they are made; default: `device`.
        sample: index of the restoration, when an image gets several.
    """

    def __init__(
        self,
        seed: int,
        keys: Sequence[str],
        device: torch.device | str = "cpu",
        noise_device: torch.device | str | None = None,
        sample: int = 0,
    ) -> None:
        self.seed, self.keys, self.sample = seed, list(keys), sample
        self.device = torch.device(device)
        self.noise_device = torch.device(noise_device or device)
        if self.noise_device.type == "cuda":
            seeds = [stream_seed(seed, key, "", sample=sample) for key in keys]
            self._seeds = send(torch.tensor(seeds), self.noise_device)
        else:
            self._generator = torch.Generator(self.noise_device)

    def normal(
        self, name: str, shape: Sequence[int], dtype: torch.dtype, step: int = 0, k: int = 0
    ) -> Tensor:
        # always drawn in float32, so that a float64 run sees the same noise
        if self.noise_device.type == "cuda":
            from reddiff_pl.samplers import noise_kernel  # imports Triton

            draw = stream_seed(self.seed, "", name, step, k)
            return noise_kernel.normal(self._seeds, draw, shape).to(self.device, dtype)
        draws = torch.empty((len(self.keys), *shape), device=self.noise_device)
        for row, key in zip(draws, self.keys, strict=True):
            self._generator.manual_seed(stream_seed(self.seed, key, name, step, k, self.sample))
            row.normal_(generator=self._generator)
        return draws.to(self.device, dtype)


class ReplayedNoise:
    """Recorded RED-diff draws: z0 then z for each step (and each k), each of shape (B, C, H, W).

    z0 has its place in the sequence even where `sigma_x0` is 0 and it is not asked for.

    Args:
        draws: the sequence z0, z, z0, z, ...
        timesteps_per_step: the sampler's K; each of a step's K evaluations has its own z0, z in the sequence
            (RED-diff uses the z0 of the first).
    """

    def __init__(self, draws: Sequence[Tensor], timesteps_per_step: int = 1) -> None:
        self.draws, self.timesteps_per_step = draws, timesteps_per_step

    def normal(
        self, name: str, shape: Sequence[int], dtype: torch.dtype, step: int = 0, k: int = 0
    ) -> Tensor:
        draw = self.draws[2 * (step * self.timesteps_per_step + k) + ("z0", "z").index(name)]
        if draw.shape[1:] != torch.Size(shape):
            raise ValueError(f"replayed {name} of step {step} has shape {tuple(draw.shape[1:])}, not {shape}")
        return draw.to(dtype)
