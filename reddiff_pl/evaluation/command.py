"""`reddiff evaluate OUT`: metrics of a run, by any number of tasks, taken up where it was left."""

from __future__ import annotations

import argparse
import importlib
import logging
from collections.abc import Callable, Sequence

import torch
import yaml
from torch import nn

from reddiff_pl import stop
from reddiff_pl.errors import ConfigError, Stopped
from reddiff_pl.evaluation.judge import Judge
from reddiff_pl.evaluation.measures import MEASURES, check
from reddiff_pl.evaluation.networks import LPIPS, EfficientNetLite0, Inception, name_of
from reddiff_pl.evaluation.pairs import Results
from reddiff_pl.evaluation.patches import PATCHES, Patches
from reddiff_pl.evaluation.summary import merge, render
from reddiff_pl.evaluation.weights import Missing, Weights
from reddiff_pl.logs import log_to, quiet_libraries
from reddiff_pl.options.evaluate import LABELS, METRICS, parse_evaluate
from reddiff_pl.shards.lock import ShardLock, holder
from reddiff_pl.shards.placement import place
from reddiff_pl.shards.plan import assigned

log = logging.getLogger(__name__)

COMPARED: dict[str, Callable[[Weights], nn.Module]] = {"lpips": LPIPS}


def evaluate(argv: list[str]) -> int:
    """Compute the metrics of a run, and add them up.

    Returns:
        0; 1 when the results cannot be written; 85, 143 or 130 after a signal.

    Raises:
        ConfigError: a bad option, no run, or nothing that can be computed.
    """
    options = parse_evaluate(argv)
    rank, world = place(options.rank, options.world)
    results = Results(options.out, options.inputs, options.partial)
    if not results.names:
        raise ConfigError(f"{options.out}: no shard is finished yet; --partial takes what is written so far")
    quiet_libraries()
    log_to(results.run.out / "logs" / f"evaluate-{rank:05d}.log")
    for note in results.notes:
        log.info("%s", note)
    try:
        left_out: dict[str, str] = {}
        if not options.merge:
            judge, left_out = _judge(options, results)
            if busy := _compute(judge, results, rank, world):
                log.info(
                    "%d shards are held by other tasks (%s); the last one to end adds up", len(busy), busy[0]
                )
                return 0
        print(render(merge(results, options.seed, left_out)))
    except Stopped:
        log.warning("stopped by a signal; finished shards are kept: run the same command again to go on")
        return stop.exit_code()
    except OSError as error:
        log.error("%s: %s; mend the cause, run again to go on", error.filename, error.strerror)
        return 1
    return 0


def _judge(options: argparse.Namespace, results: Results) -> tuple[Judge, dict[str, str]]:
    """What is wanted and can be had; and why the rest cannot."""
    wanted = METRICS if options.metrics is None else [name.strip() for name in options.metrics.split(",")]
    if unknown := [name for name in wanted if name not in METRICS]:
        raise ConfigError(f"--metrics: no {unknown[0]}; choose of {', '.join(METRICS)}")
    weights, left_out = Weights(options.weights, options.download), dict[str, str]()
    compared, networks = list[nn.Module](), list[nn.Module]()
    families = []
    for name in wanted:
        try:
            if name in MEASURES:
                check(name)
            if name in COMPARED:
                compared.append(COMPARED[name](weights))
            elif name in MEASURES or name == "misfit":
                families.append(name)
        except Missing as missing:
            left_out[name] = str(missing)
    patches = None
    if PATCHES in wanted:
        try:
            patches = Patches(EfficientNetLite0())
        except Missing as missing:
            left_out[PATCHES] = str(missing)
    if fidelity := [name for name in ("fid", "kid") if name in wanted]:
        try:
            networks.append(Inception(weights))
        except Missing as missing:
            left_out[", ".join(fidelity)] = str(missing)
    if own := [name for name in ("fd", "kd", "top") if name in wanted]:
        for spec in options.network or [None]:
            try:
                networks.append(EfficientNetLite0() if spec is None else _network(spec))
            except Missing as missing:
                left_out[", ".join(own)] = str(missing)
    for name, why in left_out.items():
        log.warning("%s: left out; %s", name, why)
    if not families and not compared and patches is None and not networks:
        raise ConfigError(
            f"--metrics: none of {', '.join(wanted)} can be had: {'; '.join(left_out.values())}"
        )
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check(networks, results)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        labels = LABELS if options.label is None else (options.label,)
        judge = Judge(
            families, compared, networks, patches, labels, device, options.batch_size, options.workers
        )
    except RuntimeError as error:
        raise ConfigError(f"--device: {device}: {' '.join(str(error).split())[:200]}") from error
    return judge, left_out


def _network(spec: str) -> nn.Module:
    """The network that --network names.

    Raises:
        ConfigError: it cannot be made.
        Missing: it has no weights.
    """
    try:
        parsed = yaml.safe_load(spec)
        parsed = parsed if isinstance(parsed, dict) else {"class_path": spec}
        module, _, name = str(parsed["class_path"]).rpartition(".")
        network = getattr(importlib.import_module(module), name)(**(parsed.get("init_args") or {}))
    except Missing:
        raise
    except Exception as error:  # a constructor raises what it likes
        raise ConfigError(
            f"--network: {spec}: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"--network: {spec}: not a torch.nn.Module")
    return network


def _check(networks: Sequence[nn.Module], results: Results) -> None:
    """Try each network on an empty image of the run's size, so that one that does not fit stops before any work."""
    names = [name_of(network) for network in networks]
    for name, network in zip(names, networks, strict=True):
        if names.count(name) > 1 or (name == "inception" and not isinstance(network, Inception)):
            raise ConfigError(
                f"--network: another network is called {name}; give it an attribute `name` of its own"
            )
    pair = next((pair for name in results.names for pair in results.pairs(name, inputs=False)), None)
    if pair is None:
        return
    for name, network in zip(names, networks, strict=True):
        try:
            with torch.no_grad():
                shape = network.eval()(torch.zeros(1, 3, *pair.image.shape[1:], dtype=torch.uint8)).shape
        except Exception as error:  # any network may be named, and raises what it likes
            text = " ".join(str(error).split())[:200]
            raise ConfigError(f"--network: {name} does not take the run's images: {text}") from error
        if len(shape) != 2 or shape[0] != 1:
            raise ConfigError(f"--network: {name} gives features of shape {tuple(shape)}, expected (1, d)")


def _compute(judge: Judge, results: Results, rank: int, world: int) -> list[str]:
    """Evaluate this task's shards, then any other that nobody holds; returns those that are not done."""
    rest = [name for i in range(1, world) for name in assigned(results.names, (rank + i) % world, world)]
    for name in [*assigned(results.names, rank, world), *rest]:
        stop.check()
        if not judge.missing(results, name):
            continue
        path = results.run.evaluation / f"{name}.lock"
        lock = ShardLock(path)
        if not lock.acquire():
            log.info("shard %s: held by %s", name, holder(path))
            continue
        try:
            lock.sign(rank, 0)
            if missing := judge.missing(results, name):
                judge.shard(results, name)
                log.info("shard %s: %s", name, ", ".join(family.removeprefix("net:") for family in missing))
        except BaseException:
            lock.release(remove=False)
            raise
        lock.release(remove=True)
    return [name for name in results.names if judge.missing(results, name)]
