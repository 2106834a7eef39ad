"""The restoration of a batch, as a LightningModule."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from deepinv.physics import Physics
from lightning.pytorch import LightningModule
from torch import Tensor

from reddiff_pl.datamodule import Batch
from reddiff_pl.errors import ConfigError
from reddiff_pl.metrics import misfit, psnr, ssim
from reddiff_pl.physics import MeasurementNoise, bind
from reddiff_pl.priors import Prior
from reddiff_pl.samplers import Sampler, SeededNoise, run
from reddiff_pl.samplers.spread import spread
from reddiff_pl.shards.samples import to_uint8

log = logging.getLogger(__name__)


@dataclass
class Restored:
    """What became of the samples of a batch, in their order, on the CPU.

    Attributes:
        images: uint8, (n, C, H, W).
        metrics: a dict a sample: misfit, and psnr and ssim where there is a reference.
        strips: the evolution of each, uint8 (C, 2H, kept * W), if asked for: x above, x0_hat below.
        starts: A_dagger(y), uint8 (n, C, H, W), if asked for.
        stds: standard deviation of each pixel over several restorations, on the [0, 1] scale, float16 (n, C, H, W);
            None where there is one.
        samples: the restorations, uint8 (n, C, H, W) each, if asked for.
    """

    images: Tensor
    metrics: list[dict[str, float | None]]
    strips: list[Tensor]
    starts: Tensor | None = None
    stds: Tensor | None = None
    samples: list[Tensor] = field(default_factory=list)


class Restoration(LightningModule):
    """Restores batches of measurements: `predict_step` runs all steps of a sampler.

    Needs Trainer(inference_mode=False): the optimiser works inside `predict_step`.

    Args:
        prior: the diffusion model.
        physics: the operator, any deepinv.physics.Physics; acts on images in [-1, 1] (else wrap it in
            reddiff_pl.physics.UnitRange). Not needed where a physics.yaml lies beside the shards.
        sampler: the restoration method.
        noise: noise added to measurements made from clean images. Measurements that come as such are left
            alone.
        keep_steps: write the evolution of each image over so many of its steps (`KEY.steps.png`).
        keep_start: write A_dagger(y), which the sampler starts from, as a picture (`KEY.start.png`).
        num_samples: restorations of each image, with independent noise. With more than one their mean is written, and
            the standard deviation of each pixel (`KEY.std.npy`, float16 (C, H, W) on the [0, 1] scale).
        keep_samples: write each of them, too (`KEY.sample0.png`, ...).
        noise_device: where random numbers are made. Default: on the device that restores; "cpu" gives the same
            ones everywhere.
        seed: the run's seed. Filled in from --seed.
    """

    def __init__(
        self,
        prior: Prior,
        sampler: Sampler,
        physics: Physics | None = None,
        noise: MeasurementNoise | None = None,
        keep_steps: int = 0,
        keep_start: bool = False,
        num_samples: int = 1,
        keep_samples: bool = False,
        noise_device: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if keep_steps < 0:
            raise ConfigError(f"--model.keep_steps: must not be negative, got {keep_steps}")
        if num_samples < 1:
            raise ConfigError(f"--model.num_samples: must be at least 1, got {num_samples}")
        self.num_samples, self.keep_samples = num_samples, keep_samples
        self.prior, self.physics, self.sampler, self.noise = prior, physics, sampler, noise
        self.keep_steps, self.keep_start = keep_steps, keep_start
        self.noise_device, self.seed = noise_device, seed
        self.should_stop: Callable[[], bool] = lambda: False
        self._rows = 0  # images restored at a time, once memory has run out; 0: the whole batch

    def check(self, shape: tuple[int, int, int]) -> None:
        """Start the sampler on an empty image, so that options that do not fit the prior stop before any work.

        Args:
            shape: (C, H, W) of the images; where it is not the prior's own, the prior is tried too.

        Raises:
            ConfigError: which option.
        """
        empty = torch.zeros(1, *shape)
        if shape != self.prior.shape:
            try:
                t = label = torch.zeros(1, dtype=torch.long)
                self.prior.eps(self.prior.encode(empty), t, label)
            except Exception as error:  # every network fails in its own way
                raise ConfigError(
                    f"--data.size: the prior, made for {self.prior.shape}, does not take images of {shape}: "
                    f"{' '.join(str(error).split())[:200]}"
                ) from error
        noise = SeededNoise(self.seed, ["check"])
        assert self.physics is not None
        start = self.prior.encode(empty)
        self.sampler.init(empty, self.prior.observed(self.physics), self.prior, noise, x_init=start)

    def on_predict_start(self) -> None:
        if self.trainer.predict_loop.inference_mode:
            raise ConfigError(
                "--trainer.inference_mode: must be false; the sampler's optimiser needs gradients of the "
                "operator inside predict_step"
            )

    def predict_step(self, batch: Batch, batch_idx: int) -> Restored | None:
        if batch.y is None:
            return None
        assert self.physics is not None
        batch_size, n = len(batch.y), len(batch.samples)
        rows = min(self._rows or batch_size, batch_size)
        while True:
            try:
                parts = [self._restore(batch, start, start + rows) for start in range(0, batch_size, rows)]
                break
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise
                rows = rows // 2
            torch.cuda.empty_cache()  # outside the handler, which keeps the failed step's tensors alive
        if rows < batch_size and not self._rows:
            self._rows = rows
            log.warning("out of memory: from here on %d images at a time, in batches of %d", rows, batch_size)
        images = torch.cat([part.mean for part in parts])
        strips = [strip for part in parts for strip in part.strips]
        stds = torch.cat([part.std for part in parts])[:n].cpu() if self.num_samples > 1 else None
        samples = [torch.cat(rows)[:n].cpu() for rows in zip(*(part.samples for part in parts), strict=True)]
        bind(self.physics, batch.params)
        starts = to_uint8(self.physics.A_dagger(batch.y))[:n].cpu() if self.keep_start else None
        return Restored(images[:n].cpu(), self._metrics(images, batch), strips[:n], starts, stds, samples)

    def _restore(self, batch: Batch, start: int, end: int) -> _Part:
        """Rows of a batch restored."""
        assert self.physics is not None and batch.y is not None and batch.noise_std is not None
        y, rows = batch.y[start:end], slice(start, end)
        bind(self.physics, {name: value[rows] for name, value in batch.params.items()})
        kept = _KeptSteps(self.keep_steps, self.prior.decode)

        def restore(sample: int) -> Tensor:
            assert self.physics is not None and batch.noise_std is not None
            x = run(
                self.sampler,
                y,
                self.prior.observed(self.physics),
                self.prior,
                SeededNoise(self.seed, batch.keys[rows], y.device, self.noise_device, sample),
                batch.label[rows] if batch.label is not None else None,
                noise_std=batch.noise_std[rows],
                callback=kept if self.keep_steps and sample == 0 else None,
                should_stop=self.should_stop,
            )
            return self.prior.decode(x)

        if self.num_samples == 1:
            return _Part(to_uint8(restore(0)), kept.strips(len(y)))
        mean, std, samples = spread(restore, self.num_samples)
        pictures = [to_uint8(x) for x in samples] if self.keep_samples else []
        return _Part(to_uint8(mean), kept.strips(len(y)), std.half(), pictures)

    def _metrics(self, images: Tensor, batch: Batch) -> list[dict[str, float | None]]:
        """To 4 decimals; an infinite PSNR is None."""
        assert self.physics is not None and batch.y is not None
        columns = {"misfit": misfit(images.to(batch.y.dtype) / 127.5 - 1, batch.y, self.physics).tolist()}
        rows: list[dict[str, float | None]] = [
            {name: round(values[i], 4) for name, values in columns.items()} for i in range(len(batch.samples))
        ]
        for image, row, sample in zip(images, rows, batch.samples, strict=False):
            if sample.x is not None:
                pair = image[None], to_uint8(sample.x)[None].to(image.device)
                decibels = psnr(*pair).item()
                row["psnr"] = None if decibels == float("inf") else round(decibels, 4)
                row["ssim"] = round(ssim(*pair).item(), 4)
        return rows


@dataclass
class _Part:
    """Rows of a batch restored, on the device: see `Restored`."""

    mean: Tensor
    strips: list[Tensor]
    std: Tensor = field(default_factory=lambda: torch.empty(0))
    samples: list[Tensor] = field(default_factory=list)


class _KeptSteps:
    """Frames of x and x0_hat at evenly spread steps, `count` of them with the last.

    The number of steps is not known beforehand, so twice as many frames as wanted are kept, and every other
    one is dropped whenever they are too many.
    """

    def __init__(self, count: int, decode: Callable[[Tensor], Tensor]) -> None:
        self.count, self.decode = count, decode
        self.frames: list[Tensor] = []
        self.stride = 1
        self.last = torch.empty(0)

    def __call__(self, step: int, x: Tensor, x0_hat: Tensor) -> None:
        """The sampler's callback."""
        self.last = torch.cat([x, x0_hat])  # decoded only where it is kept
        if step % self.stride == 0:
            self.last = self._frame(self.last)
            self.frames.append(self.last)
            if len(self.frames) > 2 * self.count:
                self.frames = self.frames[1::2]
                self.stride *= 2

    def _frame(self, pair: Tensor) -> Tensor:
        """x above, x0_hat below, uint8 (B, C, 2H, W)."""
        return to_uint8(torch.cat([self.decode(x) for x in pair.chunk(2)], dim=-2))

    def strips(self, n: int) -> list[Tensor]:
        """The strips of the first n images, uint8 (C, 2H, count * W)."""
        if not self.frames:
            return []
        last = self.last if self.last.dtype == torch.uint8 else self._frame(self.last)
        frames = self.frames if self.frames[-1] is last else [*self.frames, last]
        count = min(self.count, len(frames))
        places = [round((i + 1) * len(frames) / count) - 1 for i in range(count)]
        strip = torch.cat([frames[place] for place in places], dim=-1)
        return list(strip[:n].cpu())
