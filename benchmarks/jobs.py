"""Which restorations the quality table is made of, and what came out of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import methods as m

CONFIGS = Path(__file__).parent.parent / "configs"


@dataclass(frozen=True)
class Job:
    """One restoration of all photos: what a class with settings makes of a task."""

    stage: str
    task: str
    class_name: str
    settings: str
    cost: float

    def path(self, out: Path) -> Path:
        """The same for settings that mean the same, whether they name every option or not."""
        from reddiff_pl import samplers

        meaning: Any = self.settings
        if cls := getattr(samplers, self.class_name, None):
            meaning = sorted(vars(cls(**json.loads(self.settings))).items(), key=str)
        digest = hashlib.sha256(repr(meaning).encode()).hexdigest()[:12]
        return out / self.stage / self.task / f"{self.class_name}-{digest}.json"

    def result(self, out: Path) -> dict[str, Any] | None:
        """What came out; None where it is not done, or was refused."""
        path = self.path(out)
        record = json.loads(path.read_text()) if path.exists() else {}
        return record if "psnr" in record else None


def job(stage: str, task: str, class_name: str, settings: m.Settings) -> Job:
    backward = {"DPS": 3.0, "PiGDM": 3.0}.get(class_name, 1.0)
    evaluations = settings.get("steps", 20) * (2 if settings.get("antithetic") else 1)
    for name in ("draws", "ode_steps", "denoise_steps", "travel_repeats"):
        evaluations *= settings.get(name, 1)
    return Job(stage, task, class_name, json.dumps(settings, sort_keys=True), backward * evaluations)


def candidates(task: str, method: str) -> list[Job]:
    """The tuning runs of a method on a task."""
    class_name, choices = m.METHODS[method]
    return [job("tune", task, class_name, settings) for settings in choices]


def tuning_jobs() -> Iterable[Job]:
    for task in m.TASKS:
        for method in m.METHODS:
            yield from candidates(task, method)


def mean(record: dict[str, Any] | None, metric: str = "psnr") -> float:
    return sum(record[metric]) / len(record[metric]) if record else float("-inf")


def best(out: Path, task: str, method: str) -> Job | None:
    """The tuning run with the highest mean PSNR."""
    done = [one for one in candidates(task, method) if one.result(out)]
    return max(done, key=lambda one: mean(one.result(out)), default=None)


def best_of_all(out: Path, method: str, count: int) -> list[m.Settings]:
    """The settings of a method that lose least against each task's own, on average over the tasks; `count` of them."""
    class_name, choices = m.METHODS[method]

    def loss(settings: m.Settings) -> float:
        losses = []
        for task in m.TASKS:
            own = mean(top.result(out) if (top := best(out, task, method)) else None)
            mine = mean(job("tune", task, class_name, settings).result(out))
            losses.append(min(own - mine, 3.0) if own > float("-inf") else 0.0)
        return sum(losses) / len(losses)

    return sorted(choices, key=loss)[:count]


def shipped(task: str) -> tuple[str, m.Settings]:
    """Class and settings of the sampler that a run of the task uses when nothing else is said."""
    import yaml

    sampler = yaml.safe_load((CONFIGS / "samplers" / "reddiff.yaml").read_text())["model"]["sampler"]
    own = yaml.safe_load((CONFIGS / "tasks" / f"{m.TASKS[task][0]}.yaml").read_text())["model"].get(
        "sampler", {}
    )
    if own.get("class_path", sampler["class_path"]) != sampler["class_path"]:
        sampler = {"init_args": {}}
    settings = {**sampler["init_args"], **own.get("init_args", {})}
    return (own.get("class_path") or sampler["class_path"]).rpartition(".")[2], settings


def with_evaluations(class_name: str, settings: m.Settings, evaluations: int) -> m.Settings:
    """The settings that the sampler itself makes of a number of evaluations."""
    from reddiff_pl import samplers

    made = vars(getattr(samplers, class_name)(**settings).with_evaluations(evaluations))
    return {**settings, **{name: made[name] for name in ("steps", "draws") if name in made}}


def table_jobs(out: Path) -> Iterable[Job]:
    """Every method as tuned, and as shipped; RED-diff also with the settings that suit all tasks best."""
    general = {method: best_of_all(out, method, 3) for method in ("REDDiff", "ProximalREDDiff")}
    for task in m.TASKS:
        yield job("table", task, "A_dagger", {})
        for method in m.METHODS:
            if tuned := best(out, task, method):
                yield replace(tuned, stage="table")
        for method, choices in general.items():
            yield from (job("table", task, method, settings) for settings in choices)
        yield job("table", task, *shipped(task))
        if task in m.LONG_TASKS:
            yield job("table", task, *m.LONG_PAPER)
    for task in m.CURVES:
        curves = [("REDDiff", m.PAPER), shipped(task)]
        curves += [
            (t.class_name, json.loads(t.settings))
            for t in (best(out, task, method) for method in general)
            if t
        ]
        curves += [(method, choices[0]) for method, choices in general.items()]
        for class_name, settings in curves:
            for evaluations in m.EVALUATIONS:
                yield job("table", task, class_name, with_evaluations(class_name, settings, evaluations))
