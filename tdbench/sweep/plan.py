"""The plan of a sweep of tdbench's own runs: its points, and the trials that they need, each once.

A point is one value of the sweep (one cell of a grid, one arm); it has a trial per seed. Points share trials where
their configurations come out identical, as baselines do.
"""

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tdbench.config import HardwareConfig, RunConfig, build_config, flatten
from tdbench.config.contents import Contents
from tdbench.config.loading import refuse_unused
from tdbench.config.settings import settings_of
from tdbench.config.tree import field_of, foreign_method, named_as_here
from tdbench.errors import ConfigError, FolderError, UnknownKey, unknown
from tdbench.knobs import about
from tdbench.regularizers.config import RegularizerConfig
from tdbench.store.files import as_text
from tdbench.store.rows import TEST_ERROR_EMA, Value
from tdbench.sweep import lab
from tdbench.sweep.execution import Execution
from tdbench.sweep.experiment import Experiment
from tdbench.sweep.keys import ARM, METHOD, column, default_sweep, resolve_param, shown
from tdbench.sweep.points import Plan, Point, baseline_names, declared, found_baseline, seed_by_seed
from tdbench.sweep.preflight import check_trials, times_left_s
from tdbench.sweep.slots import Slots
from tdbench.sweep.values import MOST_TRIALS
from tdbench.user_code import short_name

MOST_COMPLAINTS = 10
NO_REGULARIZER = {"rescale": "no regularizer"}  # where `none` is a value of the key itself


@dataclass(frozen=True)
class TrainingPlan(Plan):
    """A sweep of tdbench's own runs.

    Attributes:
        base: What they share.
    """

    base: RunConfig

    def settings(self) -> dict[str, Any]:
        return shared_settings(self.experiment, self.base)

    def settings_there(self, held: Experiment) -> dict[str, Any]:
        if held.command or held.function:
            raise FolderError("it is a sweep of a script of yours")
        base_there = named_as_here(held.base, self.base)
        if foreign := foreign_method(base_there, self.base):
            raise FolderError(foreign)
        return shared_settings(held, build_config(base_there))

    def contents(self) -> Contents:
        swept = [resolve_param(key, self.base) for key in self.experiment.sweep]
        return {source: parts for source, parts in self.base.contents().items() if source not in swept}

    def names(self) -> tuple[str, ...]:
        return short_name(self.base.data.name), short_name(self.base.model.name)

    def subject(self) -> str:
        base, keys = self.base, set(self.keys)
        method = "" if {"regularizer", "arm"} & keys else method_of(base.regularizer, keys)
        network = "" if "model" in keys else short_name(base.model.name)
        share = base.data.train_fraction
        part = "" if share == 1 or "train_fraction" in keys else f"{100 * share:g} % of "
        data = "" if "data" in keys else f"on {part}{short_name(base.data.name)}"
        steps = base.training.max_steps
        length = f"{base.training.epochs} epochs" if steps is None else f"at most {steps} steps"
        matched = None if base.regularizer.match is None else f"matched to {base.regularizer.match:g} % dropped"
        parts = (self.experiment.title, method, f"{network} {data}".strip(), length, matched)
        return ", ".join(part for part in parts if part)

    def slots(self, execution: Execution) -> Slots:
        lab.start()
        return execution.slots(self.base.hardware)

    def with_threads(self, threads: int | None) -> "TrainingPlan":
        if threads is None:
            return self
        shared: dict[int, HardwareConfig] = {}  # trials share their sections, thousands of them
        for trial in self.trials.values():
            if id(trial.hardware) not in shared:
                shared[id(trial.hardware)] = trial.hardware.model_copy(update={"threads": threads})
        trials = {
            digest: trial.model_copy(update={"hardware": shared[id(trial.hardware)]})
            for digest, trial in self.trials.items()
        }
        return replace(self, trials=trials)

    def check(self, waiting: Iterable[RunConfig], slots: Slots, finished: Iterable[RunConfig] = ()) -> None:
        check_trials(waiting, slots, finished)

    def times_left_s(
        self,
        waiting: tuple[Sequence[RunConfig], Sequence[RunConfig]],
        finished: Sequence[tuple[RunConfig, float]],
        slots: Slots,
    ) -> tuple[float, float]:
        return times_left_s(waiting, finished, slots)

    def check_out(self, path: Path) -> None:
        self.base.check_out(path)

    def target_pct(self, point: Point) -> float | None:
        return self.trials[next(iter(point.trials.values()))].regularizer.match  # of `none` there is none

    @property
    def has_test_images(self) -> bool:
        return not any(trial.data.resample for trial in self.trials.values())


def method_of(regularizer: RegularizerConfig, keys: Set[str]) -> str:
    """Return the method that all trials have, with those of its knobs that are neither swept nor its defaults."""
    defaults = {name: one.default for name, one in type(regularizer).model_fields.items()}
    knobs = {name: value for name, value in regularizer.knobs().items() if name not in keys}
    told = [f"{name} {as_text(value)}" for name, value in knobs.items() if value != defaults.get(name, value)]
    return " ".join([short_name(regularizer.name), *([f"with {', '.join(told)}"] if told else [])])


def make_plan(experiment: Experiment) -> TrainingPlan:
    """Return the plan of an experiment of tdbench's own runs; every point is checked.

    Raises:
        ConfigError: A key is unknown, or the values of some points are; every one of them is named.
    """
    base = build_config(copy.deepcopy(experiment.base))
    settings = list(arms(experiment) if experiment.arms else grid(experiment, base))
    keys = tuple(settings[0][0])
    configs, complaints = [], []
    for (values, _), config in zip(settings, point_configs(experiment, base, settings), strict=True):
        if isinstance(config, ConfigError):
            where = ", ".join(f"{key} {value}" for key, value in values.items())
            complaints += [f"{where}: {line}" for line in str(config).splitlines()]
        else:
            configs.append(config)
    if complaints:
        more = len(complaints) - MOST_COMPLAINTS
        raise ConfigError("\n".join(complaints[:MOST_COMPLAINTS] + [f"... and {more} more"] * (more > 0)))
    trials: dict[str, RunConfig] = {}
    distinct: dict[tuple[Any, ...], tuple[dict[str, Any], RunConfig]] = {}
    for (values, overrides), config in zip(settings, configs, strict=True):
        if not experiment.arms:  # as it was understood: 1e-1 is 0.1
            values = dict(zip(values, resolved(config, overrides), strict=True))
        distinct.setdefault(tuple(values.values()), (values, config))
    configs = [config for _, config in distinct.values()]
    if experiment.metric == "valid_error_pct" and any(config.data.valid_fraction == 0 for config in configs):
        raise ConfigError("--metric valid_error_pct needs images that are held out: --set data.valid_fraction=0.2")
    if experiment.metric == TEST_ERROR_EMA and any(config.optimizer.ema_decay is None for config in configs):
        raise ConfigError(f"--metric {TEST_ERROR_EMA} needs an average of the weights: --set optimizer.ema_decay=0.999")
    refuse_unused(configs)
    points = [Point(values, add_trials(config, experiment.seeds, trials)) for values, config in distinct.values()]
    points = compared(experiment, base, points, configs, trials)
    if experiment.first_look is not None and not any(point.baseline for point in points):  # there is nothing to decide
        few = {"seeds": experiment.seeds[: experiment.first_look], "first_look": None}
        return make_plan(experiment.model_copy(update=few))
    return TrainingPlan(experiment, keys, tuple(points), seed_by_seed(experiment, points, trials), base)


def point_configs(
    experiment: Experiment, base: RunConfig, settings: Sequence[tuple[dict[str, Any], dict[str, Any]]]
) -> list[RunConfig | ConfigError]:
    """Return the configuration of each point, or why it has none.

    Raises:
        ConfigError: The base is refused already.
    """
    configs: list[RunConfig | ConfigError] = []
    for _, overrides in settings:
        try:
            configs.append(point_config(experiment, base, overrides))
        except ConfigError as error:
            configs.append(error)
    read_base, *read_points = lab.understood([base, *(one for one in configs if isinstance(one, RunConfig))])
    if isinstance(read_base, ConfigError):
        raise read_base
    read = iter(read_points)
    return [next(read) if isinstance(one, RunConfig) else one for one in configs]


def point_config(experiment: Experiment, base: RunConfig, overrides: dict[str, Any]) -> RunConfig:
    """Return the configuration of one point: the base, the knobs that its method shares with others, its own values."""
    method = str(next((overrides[key] for key in ("regularizer", METHOD) if key in overrides), base.regularizer.name))
    shared: dict[str, Any] = {}
    for key, value in experiment.settings.items():
        with suppress(UnknownKey):
            shared |= settings_of([method], {key: value})[method]
    return build_config(copy.deepcopy(experiment.base), {**shared, **overrides})


def resolved(config: RunConfig, overrides: dict[str, Any]) -> list[Value]:
    """Return the shown values of a point; a number that was written as text is a number."""
    values = flatten(config.dump())
    return [
        shown(values[key] if isinstance(values[key], (int, float)) and isinstance(value, str) else value)
        for key, value in overrides.items()
    ]


def shared_settings(experiment: Experiment, base: RunConfig) -> dict[str, Any]:
    """Return what makes a sweep this one, whatever its values, fixed seeds and baseline: keys, design, and the rest."""
    swept = [resolve_param(key, base) for key in experiment.sweep]
    shared = {key: value for key, value in base.settings().items() if key not in ("seed", *swept)}
    knobs = {f"settings.{key}": value for key, value in experiment.settings.items()}
    return {"sweeps": ", ".join(map(column, swept)) or "arms"} | declared(experiment) | shared | knobs


def grid(experiment: Experiment, base: RunConfig) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the shown values and the overrides of each cell of the grid."""
    axes = {resolve_param(key, base): values for key, values in experiment.sweep.items()}
    if len(axes) < len(experiment.sweep):
        raise ConfigError(f"--param must name each parameter once, got {', '.join(experiment.sweep)}")
    if "seed" in axes:
        raise ConfigError("--param seed: every value runs with every seed anyway; --seeds says which")
    for key in axes:
        if not about(field_of(key, type(base.regularizer))).get("identity", True):
            raise ConfigError(f"--param {column(key)}: it changes where or how fast a run goes, and no result")
    axes = {key: values or default_sweep(key, base) for key, values in axes.items()}
    num_trials = math.prod(map(len, axes.values())) * len(experiment.seeds)
    if num_trials > MOST_TRIALS:
        raise ConfigError(f"a sweep must have at most {MOST_TRIALS:,} trials, got {num_trials:,}")
    for cell in itertools.product(*axes.values()):
        overrides = dict(zip(axes, cell, strict=True))
        yield {column(key): shown(value) for key, value in overrides.items()}, overrides


def arms(experiment: Experiment) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the shown value and the overrides of each arm."""
    for name, overrides in experiment.arms.items():
        yield {ARM: name}, overrides


def add_trials(config: RunConfig, seeds: tuple[int, ...], trials: dict[str, RunConfig]) -> dict[int, str]:
    """Add a configuration's trial for each seed to `trials`, and return seed to digest."""
    digests = {}
    for seed in seeds:
        trial = config.model_copy(update={"seed": seed})
        digests[seed] = trial.digest()
        trials.setdefault(digests[seed], trial)
    return digests


def compared(
    experiment: Experiment, base: RunConfig, points: list[Point], configs: list[RunConfig], trials: dict[str, RunConfig]
) -> list[Point]:
    """Return the points, each with the baseline that it is compared with, and the baselines that were not among them.

    Raises:
        ConfigError: The baseline is no swept value.
    """
    if experiment.baseline == "off":
        return points
    if experiment.baseline != "none" or (experiment.arms and "none" in experiment.arms):
        baseline = found_baseline(experiment, points)
        if baseline is None:
            names = ["none", "off", *baseline_names(points)]
            raise ConfigError(f"{unknown('baseline', experiment.baseline, names)}")
        rest = [Point(point.values, point.trials, baseline) for point in points if point is not baseline]
        return [baseline, *rest]
    known = {tuple(point.trials.values()): point for point in points}
    baselines: dict[tuple[str, ...], Point] = {}
    result = []
    for point, config in zip(points, configs, strict=True):
        digests = add_trials(without_regularizer(config), experiment.seeds, trials)
        name = tuple(digests.values())
        if name not in baselines:
            baselines[name] = known.get(name) or Point(baseline_values(point, base), digests)
        if baselines[name] is not point:
            result.append(Point(point.values, point.trials, baselines[name]))
    return [*baselines.values(), *result]


def without_regularizer(config: RunConfig) -> RunConfig:
    """Return the same configuration with the baseline `none` as its method."""
    tree = config.model_dump(mode="json", exclude_unset=True)
    return build_config(tree | {"regularizer": {"name": "none"}})


def baseline_values(point: Point, base: RunConfig) -> dict[str, Any]:
    """Return the shown values of a point's baseline: `none` for what belongs to the regularizer, else the point's."""
    return {
        key: NO_REGULARIZER.get(key, "none")
        if key == ARM or resolve_param(key, base).startswith("regularizer.")
        else value
        for key, value in point.values.items()
    }
