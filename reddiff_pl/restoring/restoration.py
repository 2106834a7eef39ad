"""The restoration of a batch, as a LightningModule."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from deepinv.physics import Physics
from lightning.pytorch import LightningModule
from torch import Tensor

from reddiff_pl.devices.copies import Download, Pace
from reddiff_pl.errors import ConfigError
from reddiff_pl.metrics import misfit, psnr, ssim
from reddiff_pl.physics import MeasurementNoise, bind
from reddiff_pl.priors import Prior
from reddiff_pl.restoring import written
from reddiff_pl.restoring.batch import Batch
from reddiff_pl.restoring.divergence import Divergence, refuse_divergence
from reddiff_pl.restoring.evolution import KeptSteps
from reddiff_pl.restoring.written import Form, as_written
from reddiff_pl.samplers import Sampler, SeededNoise, run
from reddiff_pl.samplers.spread import spread
from reddiff_pl.shards.samples import Sample, unit

log = logging.getLogger(__name__)


@dataclass
class Part:
    """Rows of a batch restored, on their way to the CPU.

    Attributes:
        images: {what stands in a file's name between key and kind: a row of it an image}: the restored ones, by an
            empty name, uint8 or float32 (rows, C, H, W) as `as_written` makes them; and where asked for `start`,
            A_dagger(y), and `sample0`, ..., the restorations of one measurement.
        extras: {what a file is called after the key: a row of it an image}: `std.npy`, the standard deviation of each
            pixel over several restorations on the [0, 1] scale, float16 (rows, C, H, W); `steps.png`, the evolution,
            uint8 (rows, 1 or 3, 2H, kept * W), x above, x0_hat below.
        metrics: misfit, and psnr and ssim where there are references, (rows,).
        divergence: what `Divergence` found, (rows,).
    """

    images: Download
    extras: Download
    metrics: Download
    divergence: Download


@dataclass
class Restored:
    """What became of the samples of a batch, in their order.

    Attributes:
        parts: the batch in parts of equal size, but for the last.
        rows: rows of a part.
        referenced: which samples have a reference.
        forms: how their images are written.
    """

    parts: list[Part]
    rows: int
    referenced: list[bool]
    forms: list[Form]

    def images(self, i: int) -> dict[str, Tensor]:
        """The images of sample i, once they have arrived on the CPU; written in the form `forms[i]`."""
        part, row = divmod(i, self.rows)
        return {name: rows[row] for name, rows in self.parts[part].images.wait().items()}

    def extras(self, i: int) -> dict[str, Tensor]:
        """The other files of sample i, once they have arrived on the CPU."""
        part, row = divmod(i, self.rows)
        return {name: rows[row] for name, rows in self.parts[part].extras.wait().items()}

    def check(self, i: int) -> None:
        """
        Raises:
            SampleError: sample i diverged, or its result is not finite.
        """
        part, row = divmod(i, self.rows)
        found = self.parts[part].divergence.wait()
        refuse_divergence(int(found["first"][row]), bool(found["broken"][row]))

    def metrics(self, i: int) -> dict[str, float | None]:
        """The metrics of sample i, to 4 decimals; None where one is infinite, as the PSNR of equal images is."""
        part, row = divmod(i, self.rows)
        values = {name: column[row].item() for name, column in self.parts[part].metrics.wait().items()}
        return {
            name: None if not math.isfinite(value) else round(value, 4)
            for name, value in values.items()
            if name == "misfit" or self.referenced[i]
        }


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
        samples: of several restorations their `mean` is written, or the `best`, whose misfit is the smallest.
        keep_samples: write each of them, too (`KEY.sample0.png`, ...).
        output: kind of file of the restored images: `png` (8 bit), `png16`, `tiff` (as deep as what came in) or `npy`
            (float32 (C, H, W) on the [0, 1] scale, never clipped). Default: what came in: png, of 16 bits where the
            input has more than 8, npy for floats and for other than 1 or 3 channels. A measurement that is an array
            counts as its reference does, as float without one.
        noise_device: where random numbers are made. Default: on the device that restores; "cpu" gives the same
            ones everywhere.
        seed: the run's seed. Filled in from --seed.
        evaluations: forward passes of the network an image, which the sampler turns into steps of its own; default: as
            its own options say. Filled in from --evaluations.
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
        samples: Literal["mean", "best"] = "mean",
        output: Literal["png", "png16", "tiff", "npy"] | None = None,
        noise_device: str | None = None,
        seed: int = 0,
        evaluations: int | None = None,
    ) -> None:
        super().__init__()
        if keep_steps < 0:
            raise ConfigError(f"--model.keep_steps: must not be negative, got {keep_steps}")
        if num_samples < 1:
            raise ConfigError(f"--model.num_samples: must be at least 1, got {num_samples}")
        if samples not in ("mean", "best"):
            raise ConfigError(f"--model.samples: must be mean or best, got {samples}")
        written.check(output, prior.shape[0])
        self.num_samples, self.keep_samples, self.samples = num_samples, keep_samples, samples
        self.output = output
        self.prior, self.physics, self.noise = prior, physics, noise
        self.sampler = sampler if evaluations is None else sampler.with_evaluations(evaluations)
        self.keep_steps, self.keep_start = keep_steps, keep_start
        self.noise_device, self.seed = noise_device, seed
        self.should_stop: Callable[[], bool] = lambda: False
        self._pace: Pace | None = None
        self._shapes: set[frozenset[tuple[str, torch.Size]]] = set()  # of batches
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
        self._note_shape({"y": batch.y, **batch.params})
        batch_size, n = len(batch.y), len(batch.samples)
        rows = min(self._rows or batch_size, batch_size)
        while True:
            try:
                parts = [self._restore(batch, start, start + rows) for start in range(0, n, rows)]
                break
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise
                rows = rows // 2
            torch.cuda.empty_cache()  # outside the handler, which keeps the failed step's tensors alive
        if rows < batch_size and not self._rows:
            self._rows = rows
            log.warning("out of memory: from here on %d images at a time, in batches of %d", rows, batch_size)
        return Restored(
            parts, rows, [sample.x is not None for sample in batch.samples], self._forms(batch.samples)
        )

    def _forms(self, samples: Sequence[Sample]) -> list[Form]:
        return [Form.of(sample, self.prior.shape[0], self.output) for sample in samples]

    def _note_shape(self, tensors: Mapping[str, Tensor]) -> None:
        """Warn, once, when batches come in ever other shapes; two are usual, as masks of one channel and of three.

        Images have one size in a run. It is the operators' parameters, and measurements with them, that may differ.
        """
        shape = frozenset((name, tensor.shape) for name, tensor in tensors.items())
        if shape not in self._shapes and len(self._shapes) == 2:
            names = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
            log.warning(
                "a third shape of batches (%s): whatever is compiled or captured for a shape is made anew for each; "
                "keep measurements of one size together",
                names,
            )
        self._shapes.add(shape)

    def _restore(self, batch: Batch, start: int, end: int) -> Part:
        """Rows of a batch restored and judged. Nothing here waits for the device but `Pace`."""
        assert self.physics is not None and batch.y is not None and batch.noise_std is not None
        y, rows = batch.y[start:end], slice(start, end)
        bind(self.physics, {name: value[rows] for name, value in batch.params.items()})
        kept = KeptSteps(self.keep_steps, self.prior.decode)
        divergence = Divergence(len(y), y.device)
        if self._pace is None:
            self._pace = Pace(y.device)

        def restore(sample: int) -> Tensor:
            def look(step: int, x: Tensor, x0_hat: Tensor) -> None:
                divergence(step, x, x0_hat)
                if self.keep_steps and sample == 0:
                    kept(step, x, x0_hat)

            assert self.physics is not None and batch.noise_std is not None
            x = run(
                self.sampler,
                y,
                self.prior.observed(self.physics),
                self.prior,
                SeededNoise(self.seed, batch.keys[rows], y.device, self.noise_device, sample),
                batch.label[rows] if batch.label is not None else None,
                noise_std=batch.noise_std[rows],
                callback=look,
                should_stop=self._asked_to_stop,
            )
            return divergence.result(self.prior.decode(x))

        forms = self._forms(
            [batch.samples[i] if i < len(batch.samples) else batch.samples[0] for i in range(start, end)]
        )
        images, extras = {}, {}
        if self.num_samples == 1:
            images[""] = as_written(restore(0), forms)
        else:
            mean, std, samples = spread(restore, self.num_samples)
            each = [as_written(x, forms) for x in samples]
            images[""] = as_written(mean, forms) if self.samples == "mean" else self._best(each, y)
            extras["std.npy"] = std.half()
            images |= {f"sample{i}": x for i, x in enumerate(each) if self.keep_samples}
        if self.keep_start:
            images["start"] = as_written(divergence.result(self.physics.A_dagger(y)), forms)
        if (strips := kept.strips()) is not None:
            extras["steps.png"] = strips
        references = batch.references[rows] if batch.references is not None else None
        metrics = self._metrics(images[""], y, references)
        return Part(Download(images), Download(extras), Download(metrics), Download(divergence.found()))

    def _best(self, images: Sequence[Tensor], y: Tensor) -> Tensor:
        """Of several restorations of each measurement that of the smallest misfit."""
        assert self.physics is not None
        misfits = torch.stack([misfit(2 * unit(x) - 1, y, self.physics) for x in images])
        return torch.stack(list(images))[misfits.argmin(0), torch.arange(len(y), device=y.device)]

    def _asked_to_stop(self) -> bool:
        """Looked at before each step."""
        assert self._pace is not None
        self._pace.step()
        return self.should_stop()

    def _metrics(self, images: Tensor, y: Tensor, references: Tensor | None) -> dict[str, Tensor]:
        """Of the images as they are written, (B,) each; `physics` has their parameters bound."""
        assert self.physics is not None
        x = images.float() / 127.5 - 1 if images.dtype == torch.uint8 else 2 * images - 1
        metrics = {"misfit": misfit(x, y, self.physics)}
        if references is not None:
            # a few images at a time: their maps in float64 need more memory than many a network
            pairs = list(zip(images.split(8), references.split(8), strict=True))
            metrics["psnr"] = torch.cat([psnr(*pair) for pair in pairs])
            metrics["ssim"] = torch.cat([ssim(*pair) for pair in pairs])
        return metrics
