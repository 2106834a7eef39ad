"""What is timed in one process: a row each, for one batch size."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
import yaml
from torch import Tensor

from reddiff_pl.bench import machine
from reddiff_pl.bench.network import flop, network_config, zeros
from reddiff_pl.bench.plain import PlainPrior, plain_reddiff
from reddiff_pl.options.shipped import shipped
from reddiff_pl.physics import Inpainting, bind
from reddiff_pl.priors import Prior, UNet
from reddiff_pl.samplers import DPS, ProximalREDDiff, REDDiff, Sampler, SeededNoise, run
from reddiff_pl.samplers.timesteps import time_grid

WARM_UP = 3  # network evaluations


class Case:
    """Random measurements of one batch: half of the pixels of random images, for a prior.

    Args:
        prior: the network, on the device.
        batch_size: B.
        device: where.
        job: what `worker.py` was asked; its steps, repeats and seconds count.
    """

    def __init__(self, prior: Prior, batch_size: int, device: torch.device, job: dict[str, Any]) -> None:
        self.prior, self.batch_size, self.device, self.job = prior, batch_size, device, job
        generator = torch.Generator().manual_seed(batch_size)
        shape = (batch_size, *prior.shape)
        images = (torch.rand(shape, generator=generator) * 2 - 1).to(device)
        mask = (torch.rand((batch_size, 1, *shape[2:]), generator=generator) < 0.5).float().to(device)
        self.physics = Inpainting().to(device)
        bind(self.physics, {"mask": mask})
        self.y = self.physics.A(images)
        self.x_t = torch.randn(shape, generator=generator).to(device)
        self.t = torch.randint(len(prior.abar), (batch_size,), generator=generator).to(device)
        self.label = torch.zeros(batch_size, dtype=torch.long, device=device) if prior.classes else None

    def forward(self) -> dict[str, Any]:
        """The network alone, as the samplers call it."""

        def work() -> Tensor:
            with torch.no_grad():
                return self.prior.eps(self.x_t, self.t, self.label)

        return self._row(work, work, 1, least=0.2)

    def loop(self) -> dict[str, Any]:
        """RED-diff by Adam, one evaluation a step."""
        return self._sampler(lambda steps: REDDiff(steps, grid="geometric"), self.job["steps"], 1)

    def proximal(self) -> dict[str, Any]:
        """The shipped sampler with its shipped settings, but for the number of steps."""
        with open(shipped("samplers/reddiff.yaml")) as file:
            options = yaml.safe_load(file)["model"]["sampler"]["init_args"]
        each = 2 if options["antithetic"] else 1
        steps = max(self.job["steps"] // each, 1)
        return self._sampler(lambda n: ProximalREDDiff(**{**options, "steps": n}), steps, each)

    def dps(self) -> dict[str, Any]:
        """Posterior sampling through the network's gradient, in a tenth of the steps."""
        return self._sampler(lambda steps: DPS(steps), max(self.job["steps"] // 10, 2), 1, False)

    def reference(self) -> dict[str, Any]:
        """The plain loop, in a fifth of the steps, for its cost."""
        steps = max(self.job["steps"] // 5, 2)
        start = self.physics.A_dagger(self.y)

        def work(steps: int) -> Tensor:
            times = time_grid("geometric", self.prior.abar, steps, None, None)
            return plain_reddiff(self.prior, self.y, self.physics.A, start, times, self.label)

        return self._row(lambda: work(min(WARM_UP, steps)), lambda: work(steps), steps)

    def _sampler(
        self, make: Callable[[int], Sampler], steps: int, each: int, forward: bool = True
    ) -> dict[str, Any]:
        """A whole loop of `steps` steps with `each` evaluations."""
        keys = [f"{i:06d}" for i in range(self.batch_size)]

        def work(steps: int) -> Tensor:
            noise = SeededNoise(0, keys, self.device, None, 0)
            return run(make(steps), self.y, self.physics, self.prior, noise, self.label)

        warm = min(WARM_UP, steps)
        return self._row(lambda: work(warm), lambda: work(steps), steps * each, forward=forward)

    def _row(
        self,
        warm_up: Callable[[], Tensor],
        work: Callable[[], Any],
        evaluations: int,
        least: float = 0.0,
        forward: bool = True,
    ) -> dict[str, Any]:
        """Time `work`, which evaluates the network so many times on the whole batch."""
        forward_pass = getattr(self.prior, "forward_pass", None)
        before = Counter(forward_pass.evaluations) if forward_pass else Counter()
        began = time.perf_counter()
        finite = bool(warm_up().isfinite().all())
        first = time.perf_counter() - began
        if least:  # the first call may compile; a second one may still choose kernels
            machine.timed(warm_up, self.device)
        seconds = machine.repeated(work, self.device, self.job["repeats"], self.job["seconds"], least)
        per = [s * 1000 / evaluations / self.batch_size for s in seconds]
        ms = statistics.median(per)
        row: dict[str, Any] = {
            "ms": ms,
            "ms_repeats": per,
            "evaluations": evaluations,
            "images_per_s": 10 / ms,
            "first_seconds": first,
            "finite": finite,
            **machine.memory(self.device),
        }
        if forward_pass and (done := forward_pass.evaluations - before):
            row["precisions"] = {name: count / done.total() for name, count in done.items()}
        if forward:  # the products of a backward pass are not counted
            row["tflops"] = self.job["flop"] / ms / 1e9
            row["peak_tflops"] = self.job["peak"]["tflops"]  # measured in this process
            row["share_of_peak"] = row["tflops"] / row["peak_tflops"]
        return row


def about(job: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The machine and the network: names, peak, FLOP, size, and whether its activations are alive."""
    known: dict[str, Any] = {"machine": machine.describe(device), "peak": machine.peak(device)}
    machine.forget(device)
    prior = PlainPrior(job["network"], "32").requires_grad_(False).to(device)
    case = Case(prior, 1, device, job)
    size = sum(value.numel() for value in prior.network.parameters())
    return {
        **known,
        "device_type": device.type,
        "network": {
            "parameters": size,
            "shape": list(prior.shape),
            "classes": prior.classes,
            "flop": flop(prior.network, prior.shape, prior.classes),
            "config": network_config(prior.network),
            "zeros": zeros(prior.network, case.x_t, case.t, case.label),
        },
    }


def measure(job: dict[str, Any], device: torch.device) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """The rows of a job in order, by name; each is measured when it is called.

    Args:
        job: kind: "shipped" (rows forward, loop, proximal: the package's prior) or "eager" (rows "reference PRECISION",
            "dps PRECISION" and "dps shipped"); rows, network, prior (its further arguments), batch_size, steps,
            repeats, seconds, flop.
        device: where.
    """
    job["peak"] = machine.peak(device)
    machine.forget(device)
    if job["kind"] == "shipped":
        # one account of memory for all rows: a captured graph keeps what its capture took
        prior = _shipped(job, device)
        machine.forget(device)  # what loading took is not the loop's
        case = Case(prior, job["batch_size"], device, job)
        for name in job["rows"]:
            yield name, getattr(case, name)
        return
    for name in job["rows"]:
        what, precision = name.split()

        def work(what: str = what, precision: str = precision) -> dict[str, Any]:
            machine.forget(device)
            prior = _shipped(job, device) if precision == "shipped" else _plain(job, precision, device)
            machine.forget(device)
            case = Case(prior, job["batch_size"], device, job)
            return case.reference() if what == "reference" else case.dps()

        yield name, work


def _shipped(job: dict[str, Any], device: torch.device) -> Prior:
    return UNet(job["network"], **job["prior"]).to(device)


def _plain(job: dict[str, Any], precision: str, device: torch.device) -> Prior:
    # torch's own defaults, whatever was set before
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = False
    return PlainPrior(job["network"], precision).to(device)
