"""A plan: an experiment's points, and the trials that they need, each once, with a digest that names its folder.

A point is one value of the sweep (one cell of a grid, one arm); it has a trial per seed. Points share trials where
their configurations come out identical, as baselines do.
"""

import copy
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from tdbench.config import HardwareConfig, RunConfig, build_config, flatten, known_keys
from tdbench.config.contents import Contents, as_far_as_known, changes, shortened
from tdbench.config.loading import refuse_unused
from tdbench.config.settings import settings_of
from tdbench.config.tree import foreign_method, named_as_here
from tdbench.errors import ConfigError, FolderError, TdbenchError, UnknownKey, unknown
from tdbench.knobs import about
from tdbench.store.folders import CONFIG, SWEEP, TRIALS, SweepFolder
from tdbench.store.rows import TEST_ERROR, Value
from tdbench.sweep import lab
from tdbench.sweep.experiment import Experiment
from tdbench.sweep.keys import ARM, METHOD, column, default_sweep, resolve_param, shown
from tdbench.sweep.values import MOST_TRIALS

MOST_COMPLAINTS = 10
NO_REGULARIZER = {"rescale": "no regularizer"}  # where `none` is a value of the key itself


@dataclass(frozen=True, eq=False)
class Point:
    """One value of a sweep.

    Attributes:
        values: Swept key to value, as tables show them.
        trials: Seed to the digest of its trial.
        baseline: The point that this one is compared with, None for a baseline and where there is none.
    """

    values: dict[str, Value]
    trials: dict[int, str]
    baseline: "Point | None" = None


@dataclass(frozen=True)
class Plan:
    """All points, the baselines first, and all trials in the order in which they run: seed by seed."""

    experiment: Experiment
    base: RunConfig
    keys: tuple[str, ...]
    points: tuple[Point, ...]
    trials: dict[str, RunConfig]

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that sweeps share which differ by their values, seeds or baseline only."""
        settings = shared_settings(self.experiment, self.base)
        del settings["smallest"]
        for name, value in {"metric": TEST_ERROR, "design": "fixed"}.items():
            if settings[name] == value:  # as sweeps are named that know of no other
                del settings[name]
        if "design" in settings:  # another one is refused in the same folder, not made room for in a new one
            settings["design"] = "sequential"
        contents = shared_contents(self.experiment, self.base)
        text = json.dumps([settings, contents, self.experiment.arms], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def with_threads(self, threads: int | None) -> "Plan":
        """Return the same plan, its trials with so many CPU threads each; None: as they are."""
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

    def tree(self) -> dict[str, Any]:
        """Return what `sweep.yaml` holds: the experiment, which `tdbench ablate sweep.yaml` repeats."""
        tree = {key: value for key, value in self.experiment.model_dump(mode="json").items() if value}
        if self.experiment.first_look is not None and self.experiment.seeds == tuple(range(len(self.experiment.seeds))):
            tree["seeds"] = self.experiment.design
            del tree["first_look"]
        return tree


def make_plan(experiment: Experiment) -> Plan:
    """Return the plan of an experiment; every point is checked.

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
    refuse_unused(configs)
    points = [Point(values, add_trials(config, experiment.seeds, trials)) for values, config in distinct.values()]
    points = compared(experiment, base, points, configs, trials)
    if experiment.first_look is not None and not any(point.baseline for point in points):  # there is nothing to decide
        few = {"seeds": experiment.seeds[: experiment.first_look], "first_look": None}
        return make_plan(experiment.model_copy(update=few))
    in_order = [point.trials[seed] for seed in experiment.seeds for point in points]
    return Plan(experiment, base, keys, tuple(points), {digest: trials[digest] for digest in in_order})


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
    declared = {name: getattr(experiment, name) for name in ("metric", "design", "smallest")}
    if experiment.first_look is not None and experiment.seeds[0] != 0:
        declared["seeds"] = list(experiment.seeds)
    return {"sweeps": ", ".join(map(column, swept)) or "arms"} | declared | shared | knobs


def shared_contents(experiment: Experiment, base: RunConfig) -> Contents:
    """Return what the settings mean that all trials share: data, and the user's own code."""
    swept = [resolve_param(key, base) for key in experiment.sweep]
    return {source: parts for source, parts in base.contents().items() if source not in swept}


def grid(experiment: Experiment, base: RunConfig) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the shown values and the overrides of each cell of the grid."""
    axes = {resolve_param(key, base): values for key, values in experiment.sweep.items()}
    if len(axes) < len(experiment.sweep):
        raise ConfigError(f"--param must name each parameter once, got {', '.join(experiment.sweep)}")
    if "seed" in axes:
        raise ConfigError("--param seed: every value runs with every seed anyway; --seeds says which")
    fields = known_keys(type(base.regularizer))
    for key in axes:
        if not about(fields[key]).get("identity", True):
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
        named = {",".join(str(value) for value in point.values.values()): point for point in points}
        if experiment.baseline not in named:
            raise ConfigError(f"{unknown('baseline', experiment.baseline, ['none', 'off', *named])}")
        baseline = named[experiment.baseline]
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


def same_sweep(plan: Plan, folder: SweepFolder) -> Plan:
    """Return the plan with what a folder adds to it: new seeds of a fixed design are another look, and are told.

    The folder is new, or has this sweep with these or other values and fixed seeds.

    Raises:
        FolderError: It holds another sweep, or something else.
    """
    tree = folder.read_sweep()
    if tree is None:
        if (folder / CONFIG).exists():
            raise FolderError(f"{folder.path} holds a run, no sweep; take another --out")
        above = folder.path.resolve().parents
        if len(above) > 1 and above[0].name == TRIALS and (above[1] / SWEEP).exists():
            raise FolderError(f"{folder.path} lies among the trials of the sweep {above[1]}; take another --out")
        return plan
    try:
        held = Experiment.model_validate(tree)
        base_there = named_as_here(held.base, plan.base)
        if foreign := foreign_method(base_there, plan.base):
            raise FolderError(f"{folder.path} holds another sweep: {foreign}; take another --out")
        there = shared_settings(held, build_config(base_there))
    except FolderError:
        raise
    except (ValueError, TdbenchError) as error:
        raise FolderError(f"{folder / SWEEP} is damaged, or of another release; take another --out") from error
    here = shared_settings(plan.experiment, plan.base)
    for name in held.arms.keys() & plan.experiment.arms.keys():
        here[f"arm {name}"], there[f"arm {name}"] = plan.experiment.arms[name], held.arms[name]
    different = [
        f"{key} is {there.get(key)} there and {here.get(key)} here"
        for key in here | there
        if here.get(key) != there.get(key)
    ]
    if different:
        raise FolderError(f"{folder.path} holds another sweep: {shortened(different)}; take another --out")
    before = folder.read_contents()
    now = as_far_as_known(shared_contents(plan.experiment, plan.base), before)
    if before is not None and folder.has_trained() and (changed := changes(before, now)):
        raise FolderError(
            f"{folder.path} holds a sweep on other data or of other code: {shortened(changed)}; take another --out"
        )
    looks, seen, seeds = held.looks, folder.most_seeds_seen(), plan.experiment.seeds
    is_other = plan.experiment.first_look is None and set(held.seeds) != set(seeds)
    if is_other and seen > 1 and seen not in (*looks, len(seeds)):
        looks = (*looks, seen)
    return replace(plan, experiment=plan.experiment.model_copy(update={"looks": looks}))
