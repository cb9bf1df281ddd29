"""The plan of a sweep of the user's own script or function: its points, and a trial for each seed."""

import itertools
import math
import os
import shutil
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tdbench.config import HardwareConfig
from tdbench.config.contents import Contents, digest_of
from tdbench.errors import ConfigError, DataError, FolderError, unknown
from tdbench.store.rows import Value
from tdbench.sweep import lab
from tdbench.sweep.execution import Execution
from tdbench.sweep.experiment import Experiment
from tdbench.sweep.keys import ARM, shown
from tdbench.sweep.own.code import Function, code_digest, modules_in, source_digest
from tdbench.sweep.own.script import OUT, SEED, Read, check_places, filled, places_in, read_of, words_of
from tdbench.sweep.points import Plan, Point, baseline_names, declared, found_baseline, seed_by_seed
from tdbench.sweep.slots import Slots, plan_slots
from tdbench.sweep.values import MOST_TRIALS

REVISION = 1  # of what a digest says


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep share.

    Attributes:
        name: The command, or the function's name.
        words: The command's words, with places to fill in; none of a function.
        reads: Where the script leaves its figures.
        folder: Where the command runs.
        contents: The digests of the user's own files that it names.
        metric: The figure that the verdicts are about.
        function: The function, as cloudpickle has it.
        threads: For OpenMP, where the user has not set it.
    """

    name: str
    words: tuple[str, ...]
    reads: tuple[Read, ...]
    folder: str
    contents: Contents
    metric: str
    function: bytes | None = None
    threads: int | None = None


@dataclass(frozen=True)
class OwnTrial:
    """A run of the user's own.

    Attributes:
        job: What it shares with the others.
        values: What is filled in, by name.
        seed: The seed.
        files: The digests of the user's files that the values name.
    """

    job: Job
    values: Mapping[str, Any]
    seed: int
    files: Mapping[str, str] = field(default_factory=dict)
    _digest: list[str] = field(default_factory=list, compare=False)

    def digest(self) -> str:
        """Return what names the trial: the command, what is filled in, and what the files hold that it names."""
        if not self._digest:
            job = self.job
            told = [REVISION, job.name, [one.text for one in job.reads], dict(self.values), self.seed]
            held = {name: dict(parts) for name, parts in job.contents.items()} | {"values": dict(self.files)}
            self._digest.append(digest_of([*told, held]))
        return self._digest[0]

    def dump(self) -> dict[str, Any]:
        """Return it as it travels to its process."""
        return {"job": self.job, "values": dict(self.values), "seed": self.seed, "files": dict(self.files)}

    def changed(self) -> list[str]:
        """Return the user's files that are no longer as they were when the trial was planned."""
        watched = {**self.job.contents.get("command", {}), **self.files}
        return [name for name, digest in watched.items() if code_digest(Path(self.job.folder, name)) != digest]


@dataclass(frozen=True)
class OwnPlan(Plan):
    """A sweep of the user's own script or function."""

    job: Job

    @property
    def target(self) -> str:
        return lab.OWN

    def settings(self) -> dict[str, Any]:
        return settings_of(self.experiment)

    def settings_there(self, held: Experiment) -> dict[str, Any]:
        if not held.is_own:
            raise FolderError("it is one of tdbench's own training")
        return settings_of(held)

    def contents(self) -> Contents:
        return self.job.contents

    def names(self) -> tuple[str, ...]:
        if not self.job.words:
            return (self.job.name,)
        scripts = [Path(word).stem for word in self.job.words if word.endswith((".py", ".sh"))]
        return ((scripts or [Path(self.job.words[0]).stem])[0],)

    def subject(self) -> str:
        return ", ".join(part for part in (self.experiment.title, self.job.name) if part)

    def slots(self, execution: Execution) -> Slots:
        if execution.gpus is None and execution.per_gpu != 1:
            raise ConfigError(
                f"--per-gpu goes with --gpus, where the trials are a script of yours; got {execution.per_gpu}"
            )
        lab.without_torch()
        lab.start()
        if execution.executor == "slurm":
            return execution.slots(HardwareConfig(device="cpu"))
        if execution.gpus is not None:
            places = [{"CUDA_VISIBLE_DEVICES": gpu} for _ in range(execution.per_gpu) for gpu in execution.gpus]
            share = plan_slots(HardwareConfig(device="cpu"), len(places), None, 1)
            return Slots(places, share.threads, 1 / execution.per_gpu)
        return plan_slots(HardwareConfig(device="cpu"), execution.jobs or 1, None, 1)  # it may need the whole machine

    def with_threads(self, threads: int | None) -> "OwnPlan":
        job = replace(self.job, threads=threads)
        trials = {digest: replace(trial, job=job) for digest, trial in self.trials.items()}
        return replace(self, job=job, trials=trials)

    def check(self, waiting: Iterable[OwnTrial], slots: Slots, finished: Iterable[OwnTrial] = ()) -> None:
        if self.job.words and not places_in(self.job.words[:1]):
            program = self.job.words[0]
            path = os.path.join(self.job.folder, program) if os.sep in program else program
            if shutil.which(path) is None:
                raise ConfigError(f"--command: there is no program {program!r} that can be run")

    def times_left_s(
        self,
        waiting: tuple[Sequence[OwnTrial], Sequence[OwnTrial]],
        finished: Sequence[tuple[OwnTrial, float]],
        slots: Slots,
    ) -> tuple[float, float]:
        if not finished:
            raise DataError("no trial has run yet that would tell how long one takes")
        takes_s = statistics.median(wall_s for _, wall_s in finished) / len(slots.environments)
        least, most = (takes_s * len(trials) for trials in waiting)
        return least, most

    def check_out(self, path: Path) -> None:
        pass


def settings_of(experiment: Experiment) -> dict[str, Any]:
    """Return what makes a sweep of the user's own this one, whatever its values, fixed seeds and baseline."""
    own = {
        "command": experiment.command,
        "function": experiment.function,
        "read": list(experiment.read),
        "higher_is_better": experiment.more_is_better,
    }
    return {"sweeps": ", ".join(experiment.sweep) or "arms"} | declared(experiment) | own


def plan_own(experiment: Experiment, function: Function | None = None) -> OwnPlan:
    """Return the plan of an experiment whose trials are a script, or a function.

    Raises:
        ConfigError: The command, what is to be filled in or what is to be read does not fit together.
    """
    keys = tuple(experiment.sweep) if experiment.sweep else (ARM,)
    if experiment.base or experiment.settings:
        names = ", ".join([*experiment.base, *experiment.settings])
        raise ConfigError(f"settings of a run go into the command, where the trials are a script of yours; got {names}")
    settings = list(cells_of(experiment))
    job = job_of(experiment, function)
    for _, values in settings:
        if job.words:
            check_places(job.words, list(values))
    named = [SEED, OUT] if job.words else []
    if taken := [key for key in experiment.sweep if key in named]:
        raise ConfigError(f"--param {taken[0]}: {{{taken[0]}}} is filled in anyway; take another name")
    trials: dict[str, OwnTrial] = {}
    points = []
    for values, fill in settings:
        files = files_in(job, fill)
        own = {seed: OwnTrial(job, fill, seed, files) for seed in experiment.seeds}
        points.append(Point(values, {seed: trial.digest() for seed, trial in own.items()}))
        trials |= {trial.digest(): trial for trial in own.values()}
    points = compared(experiment, points)
    return OwnPlan(experiment, keys, tuple(points), seed_by_seed(experiment, points, trials), job)


def cells_of(experiment: Experiment) -> Iterator[tuple[dict[str, Value], dict[str, Any]]]:
    """Yield the shown values of each point, and what is filled in."""
    if experiment.arms:
        for name, fill in experiment.arms.items():
            yield {ARM: name}, dict(fill)
        return
    for key, values in experiment.sweep.items():
        if not values:
            raise ConfigError(f"--param {key} needs --values: which a script of yours takes is not known here")
    for key, values in experiment.sweep.items():
        if odd := [value for value in values if isinstance(value, (Mapping, list, tuple))]:
            raise ConfigError(f"--param {key} must be numbers or text, got {odd[0]!r}")
        if len({number_in(value) for value in values}) < len(set(values)):
            raise ConfigError(f"--param {key}: two of {', '.join(map(str, values))} are one value")
    num_trials = math.prod(map(len, experiment.sweep.values())) * len(experiment.seeds)
    if num_trials > MOST_TRIALS:
        raise ConfigError(f"a sweep must have at most {MOST_TRIALS:,} trials, got {num_trials:,}")
    distinct = {key: list(dict.fromkeys(values)) for key, values in experiment.sweep.items()}
    for cell in itertools.product(*distinct.values()):
        fill = dict(zip(distinct, cell, strict=True))
        yield {key: number_in(value) for key, value in fill.items()}, fill


def files_in(job: Job, fill: Mapping[str, Any]) -> dict[str, str]:
    """Return the files of the user's that a command names once its values are in it, with their digests."""
    words = [
        word for word in job.words if set(places_in([word])) & set(fill) and not {SEED, OUT} & set(places_in([word]))
    ]
    names = filled(words, fill)
    names += [name.partition("=")[2] for name in names]
    return {name: digest for name in names if name and (digest := code_digest(Path(job.folder, name))) is not None}


def number_in(value: Any) -> Value:
    """Return a value as tables show it: text that is a number as that number."""
    if isinstance(value, str):
        for kind in (int, float):
            with suppress(ValueError):
                return kind(value) if math.isfinite(kind(value)) else value
    return shown(value)


def compared(experiment: Experiment, points: list[Point]) -> list[Point]:
    """Return the points, the baseline first.

    Raises:
        ConfigError: None is named, or one that is no point.
    """
    if experiment.baseline == "off":
        return points
    baseline = found_baseline(experiment, points)
    if baseline is None and experiment.baseline == "none":
        first = ",".join(f"{key}={value}" for key, value in points[0].values.items())
        raise ConfigError(f"--baseline must say which value the others are compared with, such as {first}; or off")
    if baseline is None:
        raise ConfigError(unknown("baseline", experiment.baseline, ["off", *baseline_names(points)]))
    return [baseline, *(Point(one.values, one.trials, baseline) for one in points if one is not baseline)]


def job_of(experiment: Experiment, function: Function | None) -> Job:
    """Return what the trials share.

    Raises:
        ConfigError: The command or what is to be read is not what it may be; or the function is missing.
    """
    folder = os.getcwd()
    if experiment.function:
        if function is None:
            raise ConfigError(f"this sweep is of the function {experiment.function}; run it with tdbench.ablate")
        import cloudpickle

        code = {"function": {experiment.function: source_digest(function)}}
        return Job(experiment.function, (), (), folder, code, experiment.metric, cloudpickle.dumps(function))
    words = words_of(experiment.command)
    if not experiment.read:
        raise ConfigError("--read must say where the script leaves its figure: out/result.json:KEY, or stdout:REGEX")
    reads = tuple(read_of(text) for text in experiment.read)
    names = [one.name for one in reads]
    if len(set(names)) < len(names):
        raise ConfigError(f"--read must give figures of different names, got {', '.join(names)}")
    if experiment.metric not in names:
        raise ConfigError(unknown("--metric", experiment.metric, names))
    program = words[:1] if Path(words[0]).suffix else ()  # an interpreter is no code of the user's
    named = [*program, *words[1:], *modules_in(words, Path(folder))]
    files = {word: parts for word in named if (parts := code_digest(Path(folder, word))) is not None}
    return Job(experiment.command, words, reads, folder, {"command": files} if files else {}, experiment.metric)
