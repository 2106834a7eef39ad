"""The restoration of a batch, as a LightningModule."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from deepinv.physics import Physics
from deepinv.physics.generator import PhysicsGenerator
from lightning.pytorch import LightningModule
from torch import Tensor

from reddiff_pl.devices.copies import Download, Pace, upload
from reddiff_pl.errors import ConfigError, Stopped, TooLittleMemory
from reddiff_pl.physics import MeasurementNoise, bind
from reddiff_pl.priors import Prior, Tiled
from reddiff_pl.priors.tiled import windowed
from reddiff_pl.priors.trial import try_out
from reddiff_pl.restoring import written
from reddiff_pl.restoring.batch import Batch, Group
from reddiff_pl.restoring.divergence import Divergence
from reddiff_pl.restoring.evolution import KeptSteps
from reddiff_pl.restoring.lockstep import together
from reddiff_pl.restoring.restored import Part, Restored, best, judged
from reddiff_pl.restoring.written import Form, as_written
from reddiff_pl.samplers import Sampler, SeededNoise, run
from reddiff_pl.samplers.spread import spread
from reddiff_pl.shards.metadata import texts_of

log = logging.getLogger(__name__)


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
        generator: draws the operator's parameters for clean images, one draw an image, in place of what the operator
            itself draws: any deepinv.physics.generator.PhysicsGenerator.
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
        generator: PhysicsGenerator | None = None,
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
        self.prior, self.physics, self.noise, self.generator = prior, physics, noise, generator
        self.sampler = sampler if evaluations is None else sampler.with_evaluations(evaluations)
        self.keep_steps, self.keep_start = keep_steps, keep_start
        self.noise_device, self.seed = noise_device, seed
        self.should_stop: Callable[[], bool] = lambda: False
        self.seen = windowed(prior)  # what the sampler asks: a prior on images of any size
        self._pace: Pace | None = None
        self._copies: list[Physics] = []  # of the operator, for groups beside the first
        self._rows = 0  # images restored at a time, once memory has run out; 0: the whole batch
        self._windows_said = False

    def check(self, shape: tuple[int, int, int]) -> None:
        """Try networks of unknown classes, and start the sampler on an empty image: what fails stops before any work.

        Args:
            shape: (C, H, W) of the images; where it is not the prior's own, the prior is tried too.

        Raises:
            ConfigError: which option.
        """
        try_out(self.prior)
        empty = torch.zeros(1, *shape)
        if shape != self.prior.shape and not isinstance(self.seen, Tiled):  # windows take any size
            try:
                t = label = torch.zeros(1, dtype=torch.long)
                self.seen.eps(self.prior.encode(empty), t, label)
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
        if not batch.groups:
            return None
        for module in self.seen.modules():
            if isinstance(module, Tiled):
                module.usual = batch.size
        if self.prior.words:
            labels = self.prior.condition([texts_of(sample.meta) for sample in batch.samples])
            for group in batch.groups:
                group.label = upload(labels[group.places], group.y.device)
        refused: dict[int, str] = {}
        groups = []
        for group in batch.groups:
            if reason := self.prior.refuses(group.shape):
                refused |= dict.fromkeys(group.places, reason)
            else:
                groups.append(group)
        self._say_windows(groups)
        forms = [Form.of(sample, self.prior.shape[0], self.output) for sample in batch.samples]
        largest = max((len(group.keys) for group in groups), default=1)
        before = self._rows
        while True:
            rows = 0
            try:
                parts = [part for some in self._at_once(groups) for part in self._restore(some, forms)]
                break
            except torch.OutOfMemoryError as error:
                rows = min(self._rows or largest, largest)
                if self._rows or len(groups) == 1:
                    rows //= 2
                failure: Exception = error.with_traceback(None)  # which keeps the failed step's tensors alive
            except (Stopped, StopIteration, ConfigError, OSError, torch.AcceleratorError):
                raise
            except Exception as error:
                failure = error
            torch.cuda.empty_cache()  # outside the handler, which keeps those tensors too
            if not rows:
                parts, broken = self._one_by_one(groups, forms, failure)
                refused |= broken
                break
            self._rows = rows
        if self._rows != before:
            log.warning(
                "out of memory: from here on %d images at a time, in batches of %d", self._rows, batch.size
            )
        return Restored(parts, [sample.x is not None for sample in batch.samples], forms, refused)

    def _one_by_one(
        self, groups: list[Group], forms: Sequence[Form], error: Exception
    ) -> tuple[list[Part], dict[int, str]]:
        """Each sample alone, after the batch failed: what one of them makes an operator raise is that one's failure.

        Raises:
            Exception: `error`, where all of several fail: it is not a sample's.
            TooLittleMemory: likewise, and it is the memory that ends.
        """
        parts, refused = [], {}
        alone = [group.rows(i, i + 1) for group in groups for i in range(len(group.keys))]
        for group in alone:
            try:
                parts += self._restore([group], forms)
            except (Stopped, ConfigError, OSError, torch.AcceleratorError):
                raise
            except torch.OutOfMemoryError as own:
                refused[group.places[0]] = _too_large(group, self.device, own)
            except Exception as own:
                what = " ".join(str(own).split())[:300]
                refused[group.places[0]] = f"cannot be restored ({type(own).__name__}: {what})"
        if len(refused) == len(alone) > 1:
            if isinstance(error, torch.OutOfMemoryError):
                raise TooLittleMemory(_too_large(alone[0], self.device, error))
            raise error
        log.warning(
            "a batch failed (%s: %s), and its images were restored one by one",
            *(type(error).__name__, " ".join(str(error).split())[:300]),
        )
        return parts, refused

    def _at_once(self, groups: list[Group]) -> list[list[Group]]:
        """What is restored together: all groups of a batch, unless memory has run out."""
        if not self._rows:
            return [groups] if groups else []
        return [
            [group.rows(i, i + self._rows)] for group in groups for i in range(0, len(group.keys), self._rows)
        ]

    def _say_windows(self, groups: list[Group]) -> None:
        other = next((group.shape for group in groups if group.shape != self.prior.shape), None)
        if other is None or self._windows_said or not isinstance(self.seen, Tiled):
            return
        self._windows_said = True
        (_, height, width), (_, rows, columns) = other, self.prior.shape
        log.info("images of %dx%d are seen in windows of %dx%d", width, height, columns, rows)

    def _restore(self, groups: list[Group], forms: Sequence[Form]) -> list[Part]:
        """Groups of a batch restored and judged, step by step together."""
        assert self.physics is not None
        while len(self._copies) < len(groups) - 1:
            self._copies.append(copy.deepcopy(self.physics))
        operators = [self.physics, *self._copies]
        jobs = [
            functools.partial(
                self._restore_group,
                *(group, [forms[place] for place in group.places], operators[i]),
                self._asked_to_stop if i == 0 else self.should_stop,
            )
            for i, group in enumerate(groups)
        ]
        return together(self.seen, jobs)

    def _restore_group(
        self,
        group: Group,
        forms: Sequence[Form],
        physics: Physics,
        should_stop: Callable[[], bool],
        prior: Prior,
    ) -> Part:
        """One group. Nothing here waits for the device but `Pace`."""
        bind(physics, group.params, group.shape)

        def decode(x: Tensor) -> Tensor:
            return prior.decode(x)[..., : group.shape[1], : group.shape[2]]  # latents stand for padded images

        kept = KeptSteps(self.keep_steps, decode)
        divergence = Divergence(len(group.y), group.y.device)
        if self._pace is None:
            self._pace = Pace(group.y.device)

        def restore(sample: int) -> Tensor:
            def look(step: int, x: Tensor, x0_hat: Tensor) -> None:
                divergence(step, x, x0_hat)
                if self.keep_steps and sample == 0:
                    kept(step, x, x0_hat)

            x = run(
                self.sampler,
                group.y,
                prior.observed(physics),
                prior,
                SeededNoise(self.seed, group.keys, group.y.device, self.noise_device, sample),
                group.label,
                noise_std=group.noise_std,
                callback=look,
                should_stop=should_stop,
            )
            return divergence.result(decode(x))

        images, extras = {}, {}
        if self.num_samples == 1:
            images[""] = as_written(restore(0), forms)
        else:
            mean, std, samples = spread(restore, self.num_samples)
            each = [as_written(x, forms) for x in samples]
            images[""] = as_written(mean, forms) if self.samples == "mean" else best(each, group.y, physics)
            extras["std.npy"] = std.half()
            images |= {f"sample{i}": x for i, x in enumerate(each) if self.keep_samples}
        if self.keep_start:
            images["start"] = as_written(divergence.result(physics.A_dagger(group.y)), forms)
        if (strips := kept.strips()) is not None:
            extras["steps.png"] = strips
        metrics = judged(images[""], group.y, group.references, physics)
        downloads = (Download(found) for found in (images, extras, metrics, divergence.found()))
        return Part(group.places, *downloads)

    def _asked_to_stop(self) -> bool:
        """Looked at before each step."""
        assert self._pace is not None
        self._pace.step()
        return self.should_stop()


def _too_large(group: Group, device: torch.device, error: Exception) -> str:
    """Why one image alone was not restored."""
    _, height, width = group.shape
    return (
        f"out of memory: {device} has too little for an image of {width}x{height} alone; free it of other work, or "
        f"take one with more ({' '.join(str(error).split())[:120]})"
    )
