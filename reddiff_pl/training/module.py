"""Training of a UNet that predicts noise, or a flow's velocity, on crops of photos, as a LightningModule."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DModel
from lightning.pytorch import LightningModule
from torch import Tensor

from reddiff_pl import stop
from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.base import linear_abar, per_image
from reddiff_pl.seeding import stream_seed
from reddiff_pl.training import files
from reddiff_pl.training.averages import Averages
from reddiff_pl.training.budget import Budget
from reddiff_pl.training.networks import make_network
from reddiff_pl.training.state import load, save
from reddiff_pl.training.validation import validate

log = logging.getLogger(__name__)

AGREE_EVERY = 10  # steps between two agreements of several processes; each waits for the device once


class PriorTraining(LightningModule):
    """Minimises |eps(x_t, t) - z|^2 over x_t = alpha_t x0 + sigma_t z, with t uniform in 0..T-1.

    With objective flow it is |v(x, T t) - (z - x0)|^2 over x = (1 - t) x0 + t z, with t uniform in [0, 1]. The times of
    a batch are stratified: one in each of B equal parts of their range, which leaves each of them uniform.
    All random numbers of a step are named by (seed, process, step), so a resumed run equals an uninterrupted one.
    A step whose gradients are not finite is skipped.

    Args:
        network: the network, by its constructor's arguments; None: as `init_from` describes it.
        init_from: a diffusers folder of the same network to begin with its weights. Default: random weights.
        objective: what the network learns to predict: epsilon, the noise; the folder is one for
            `reddiff_pl.priors.UNet`; flow, the velocity: it is one for `reddiff_pl.priors.Flow`. The held-out error
            is that of the noise, at the same levels, either way.
        lr: largest step size of AdamW.
        betas: AdamW's betas.
        weight_decay: AdamW's.
        warmup_steps: steps over which the step size grows from 0.
        decay: how it then falls to 0 over the budget: cosine, linear, or constant.
        max_steps: budget in steps; None: no limit.
        max_minutes: budget in minutes since the command began, imports and compilation included, all runs of a resumed
            training together; the last validation, some seconds, comes on top. None: no limit. With both budgets the
            one that is further used up counts.
        clip: largest norm of the gradient.
        ema_decays: of the averages of the weights; all are evaluated, the best is exported.
        export: best: the average with the lowest held-out error so far; last: the first average as it is at the end.
        t_weighting: exponent p of the loss's weight (sigma_t / alpha_t)^p, scaled to mean 1 over t. 0 is the plain
            loss, in which small t dominate; 2 is the loss of x0. Must be 0 for a flow.
        compile: compile the network with torch.compile.
        validate_every: steps between two validations, each of which also leaves the prior and the state.
        validate_t: timesteps at which the held-out error is taken.
        sample_images: samples in the picture of each validation; 0: no picture.
        sample_steps: network evaluations of the sampler (DDIM).
        beta_start: first beta of the linear schedule.
        beta_end: last beta of that schedule; its length is the network's num_train_timesteps (default 1000).
        out: output directory. Filled in from --out.
        seed: the run's seed. Filled in from --seed.

    Raises:
        ConfigError: a value is out of its range, or the weights are not the network's.
    """

    abar: Tensor
    alpha: Tensor
    sigma: Tensor
    weight: Tensor

    def __init__(
        self,
        network: UNet2DModel | None = None,
        init_from: str | None = None,
        objective: Literal["epsilon", "flow"] = "epsilon",
        lr: float = 4e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        warmup_steps: int = 500,
        decay: Literal["cosine", "linear", "constant"] = "cosine",
        max_steps: int | None = None,
        max_minutes: float | None = None,
        clip: float = 1.0,
        ema_decays: list[float] | None = None,
        export: Literal["best", "last"] = "best",
        t_weighting: float = 0.0,
        compile: bool = True,
        validate_every: int = 1000,
        validate_t: list[int] | None = None,
        sample_images: int = 36,
        sample_steps: int = 50,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        out: str = "out",
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {"lr": lr, "clip": clip, "validate_every": validate_every}.items():
            if value <= 0:
                raise ConfigError(f"--model.{name}: must be above 0, got {value}")
        if objective == "flow" and t_weighting:
            raise ConfigError(f"--model.t_weighting: must be 0 for a flow, got {t_weighting}")
        decays = [0.9995] if ema_decays is None else ema_decays
        if not decays or not all(0 <= d < 1 for d in decays) or len(set(decays)) < len(decays):
            raise ConfigError(f"--model.ema_decays: must be different numbers in [0, 1), got {decays}")
        self.network: Any = make_network(network, init_from)
        config = self.network.config
        T = config.num_train_timesteps or 1000
        validate_t = [10, 50, 100, 200, 400, 600, 800] if validate_t is None else validate_t
        if not validate_t or not all(0 <= t < T for t in validate_t):
            raise ConfigError(f"--model.validate_t: must be timesteps in 0..{T - 1}, got {validate_t}")
        size = config.sample_size
        if not isinstance(size, int) or config.in_channels < 1 or config.out_channels != config.in_channels:
            raise ConfigError(
                "--model.network: must have one number as sample_size, and as many channels in as out"
            )
        self.shape = (config.in_channels, size, size)
        self.lr, self.betas, self.weight_decay = lr, betas, weight_decay
        self.clip, self.budget = clip, Budget(max_steps, max_minutes, warmup_steps, decay)
        self.ema_decays, self.export = decays, export
        self.compiled, self.validate_every, self.validate_t = compile, validate_every, validate_t
        self.sample_images, self.sample_steps = sample_images, sample_steps
        self.seed, self.files = seed, files.Training(Path(out))

        abar = linear_abar(T, beta_start, beta_end)
        self.objective = objective
        self.schedule = files.schedule(objective, T, beta_start, beta_end)
        self.register_buffer("abar", abar, persistent=False)
        self.register_buffer("alpha", abar.sqrt().float(), persistent=False)
        self.register_buffer("sigma", (1 - abar).sqrt().float(), persistent=False)
        weight = ((1 - abar) / abar) ** (t_weighting / 2)
        self.register_buffer("weight", (weight / weight.mean()).float(), persistent=False)

        self.step = 0
        self.earlier = 0.0  # minutes of earlier runs
        self.best = math.inf

    # Lightning's hooks, in the order in which they come

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.adam = torch.optim.AdamW(
            self.network.parameters(), self.lr, self.betas, weight_decay=self.weight_decay, fused=True
        )
        return self.adam

    def on_fit_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.batch_size = data.batch_size
        self.pyramid, self.heldout = data.pyramid.to(self.device), data.heldout.to(self.device)
        self.augment = data.augmentation
        self.generator = torch.Generator(self.device)
        self.averages = Averages(self.network, self.ema_decays)
        self.loss_sum, self.loss_steps = torch.zeros((), device=self.device), 0
        self.skipped = torch.zeros((), device=self.device)
        if (state := files.read_state(self.files.state, self.device)) is not None:
            load(self, state)
        self.dropout = any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in self.network.modules())
        # not a module of this one: its weights would be there twice
        self.forward_compiled = [self.network]
        if self.compiled:
            # one graph: gradients are averaged when it is through, 0.1 ms for a network of this size
            torch._dynamo.config.optimize_ddp = False
            self.forward_compiled = [torch.compile(self.network, dynamic=False)]
        self.first_step, self.interval = self.step, (self.step, time.monotonic())

    def on_train_start(self) -> None:
        self.network.train()
        self._agree()
        if self.is_over():
            log.info("nothing left to do: %d steps, %.1f minutes are done", self.step, self.budget.minutes)
            if self.loss_steps and self.trainer.is_global_zero:  # stopped since the last validation
                validate(self)
                save(self)
            self.trainer.should_stop = True
        elif self.step == 0 and self.trainer.is_global_zero:
            validate(self)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        if self.trainer.should_stop:
            return -1
        for group in self.adam.param_groups:
            group["lr"] = self.lr * self.budget.factor(self.step)
        return None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch of crops, drawn here."""
        B, T = self.batch_size, len(self.abar)
        seed = stream_seed(self.seed, f"process {self.global_rank}", "crops", self.step)
        self.generator.manual_seed(seed)
        if self.dropout:
            torch.manual_seed(seed)
        with torch.no_grad():
            x = self.augment(self.pyramid.draw(B, self.shape[-1], self.generator), self.generator)
            u = torch.rand(B, generator=self.generator, device=self.device)
            t = (torch.arange(B, device=self.device) + u) * (T / B)
            noise = (B, *self.shape[1:], self.shape[0])  # channels last in memory, as the crops are
            z = torch.randn(noise, generator=self.generator, device=self.device).permute(0, 3, 1, 2)
            if self.objective == "flow":
                share = per_image(t / T, x)
                x_t, target, weight = (1 - share) * x + share * z, z - x, torch.ones_like(t)
            else:
                t = t.long().clamp_(max=T - 1)
                x_t = per_image(self.alpha[t], x) * x + per_image(self.sigma[t], x) * z
                target, weight = z, self.weight[t]
        output = self.forward_compiled[0](x_t, t, return_dict=False)[0]
        errors = (output.float() - target).square().mean((1, 2, 3))
        self.loss_sum += errors.detach().mean()
        return (weight * errors).mean()

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Scale and, where something is not finite, skip; inside the fused optimiser, so that nothing waits."""
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        bad = (~norm.isfinite()).float()
        self.adam.found_inf, self.adam.grad_scale = bad, (norm / self.clip).clamp(min=1).float()  # type: ignore[attr-defined]
        self.skipped += bad

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.step += 1
        self.loss_steps += 1
        self.averages.update(self.step)
        signal = 0
        if self.trainer.world_size == 1 or self.step % AGREE_EVERY == 0 or self.step == self.first_step + 1:
            if self.step == self.first_step + 1:
                self.synchronize()
            signal = self._agree()
        if self.budget.begun is None:
            self.budget.begun = self.budget.minutes
        if self.step == self.first_step + 1:
            log.info("first step after %.0f s", 60 * (self.budget.minutes - self.earlier))
            # compilation is not part of the speed
            self.interval = (self.step, time.monotonic())
        over = self.is_over()
        if self.trainer.is_global_zero:
            if over or self.step % self.validate_every == 0:
                validate(self)
            if over or signal or self.step % self.validate_every == 0:
                save(self)
        if over or signal:
            self.trainer.should_stop = True
        if signal and not stop.requested():  # another process got it
            stop.receive(signal)

    def on_fit_end(self) -> None:
        self.trainer.strategy.barrier()  # none leaves before the files are written

    # budget

    def _agree(self) -> int:
        """Let all processes know the time and the signals of all; the first signal's number, or 0."""
        minutes = self.earlier + stop.running() / 60
        signal = stop.first() if stop.requested() else 0
        if self.trainer.world_size > 1:
            shared = torch.tensor(
                [signal, minutes if self.trainer.is_global_zero else -1.0],
                dtype=torch.float64,
                device=self.device,
            )
            torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
            signal, minutes = int(shared[0].item()), shared[1].item()
        self.budget.minutes = minutes
        return signal

    def is_over(self) -> bool:
        """Whether the budget is used up."""
        return self.budget.is_over(self.step)

    def synchronize(self) -> None:
        """Wait for the device, so that a clock tells what was done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
