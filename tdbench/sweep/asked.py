"""What a sweep is asked for, in a file, in flags or from Python, and the plan that follows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

from tdbench.config import RunConfig, build_config, known_keys
from tdbench.config.contents import look_anew
from tdbench.config.loading import Given, file_given, nested, resolve_key
from tdbench.config.settings import settings_of, without_knobs
from tdbench.errors import ConfigError
from tdbench.regularizers.config import RegularizerConfig
from tdbench.regularizers.registry import find_method
from tdbench.sweep import lab
from tdbench.sweep.experiment import Experiment, experiment_in, from_flags, read_given
from tdbench.sweep.keys import METHOD, default_sweep, resolve_param
from tdbench.sweep.own.plan import Function, plan_own
from tdbench.sweep.plan import make_plan
from tdbench.sweep.points import Plan

# What a sweep runs on that names no data: few images, so that regularization matters, and a verdict within minutes; and
# one that names no method either drops so much that there is something to decide.
QUICK = {"data.train_fraction": 0.2, "training.epochs": 10, "training.batch_size": 32, "training.eval_every": 10}
STRONG = {"regularizer.drop_ratio": 0.5}
Params = str | Sequence[str] | Mapping[str, Sequence[Any] | None]


def plan_sweep(
    config: Given | Function,
    param: Params,
    values: str | Sequence[str],
    seeds: int | Sequence[int] | str | None,
    baseline: str | None,
    settings: Mapping[str, Any],
    metric: str | None = None,
    smallest: float | None = None,
    before_lab: Callable[[], None] = lambda: None,
    own: Mapping[str, Any] | None = None,
) -> Plan:
    """Return the plan of what is asked for; see `ablate`.

    Args:
        config, param, values, seeds, baseline, settings, metric, smallest: See `ablate`.
        before_lab: Called before a user's file is looked at.
        own: Of a sweep of the user's own: `command`, `read`, `higher_is_better`, those that are given.

    Raises:
        ConfigError: Something of it is unknown, out of range, or does not fit together.
    """
    function, tree = (config, {}) if callable(config) else (None, read_given(config))  # once: it may be a pipe
    experiment = experiment_in(tree, file_given(None if callable(config) else config))
    if function is not None or own or (experiment is not None and experiment.is_own):
        if tree and experiment is None:
            raise ConfigError("a run's configuration does nothing where the trials are a script of yours")
        flags = (param, values, seeds, baseline, settings, metric, smallest, own or {})
        return plan_of_own(experiment, function, *flags)
    assert not callable(config)
    given = dict(settings)
    if "seed" in given:
        raise ConfigError(f"seed must be left out: --seeds says which seeds run, got {given['seed']}")
    look_anew()
    base = experiment.base if experiment is not None else tree
    if config is None and not {"data", "data.name"} & {*given, *param_keys(param)}:
        swept = {key_of(key) for key in param_keys(param)}
        is_plain = swept <= {"regularizer.block_size"} and not any("regularizer" in key_of(key) for key in given)
        base = nested(QUICK | STRONG if is_plain else QUICK)
    asked = from_flags(experiment, base, param, values, seeds, baseline, metric, smallest)
    lab.declare_user_methods(methods_named(asked, given), before_lab)
    return make_plan(with_settings(asked, given, file_given(config)))


def own_of(command: str | None, read: str | Sequence[str], higher_is_better: bool | None) -> dict[str, Any]:
    """Return what is given of a sweep of the user's own."""
    given = {"command": command, "read": [read] if isinstance(read, str) else list(read)}
    told = {name: value for name, value in given.items() if value}
    return told if higher_is_better is None else told | {"higher_is_better": higher_is_better}


def plan_of_own(
    experiment: Experiment | None,
    function: Function | None,
    param: Params,
    values: str | Sequence[str],
    seeds: int | Sequence[int] | str | None,
    baseline: str | None,
    settings: Mapping[str, Any],
    metric: str | None,
    smallest: float | None,
    own: Mapping[str, Any],
) -> Plan:
    """Return the plan of a sweep of the user's own script or function; the other arguments are those of `plan_sweep`.

    Raises:
        ConfigError: Something of it does not fit together.
    """
    if settings:
        raise ConfigError(f"{', '.join(settings)} must go into your own script, which is what runs here")
    look_anew()
    told = dict(own)
    if function is not None:
        inner = getattr(function, "func", function)  # of a partial
        module, name = getattr(inner, "__module__", ""), getattr(inner, "__qualname__", type(inner).__name__)
        told["function"] = name if module in ("__main__", None) else f"{module}.{name}"
    asked = from_flags(experiment, {}, param, values, seeds, baseline, metric, smallest, told)
    return plan_own(asked, function)


def key_of(name: str) -> str:
    """Return the dotted key that a name means, of TargetDrop's; what is none is told later."""
    with suppress(ConfigError):
        return resolve_key(name, find_method("targetdrop"))
    return name


def param_keys(param: Params) -> set[str]:
    """Return the keys that are varied."""
    return {one.partition("=")[0] for one in ([param] if isinstance(param, str) else param)}


def methods_named(asked: Experiment, given: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the methods that an experiment and settings name, before any of it is checked."""
    for settings in (given, asked.base, *asked.arms.values()):
        section = settings.get("regularizer")
        yield section.get("name") if isinstance(section, Mapping) else section
        yield settings.get(METHOD)
    for key in ("regularizer", METHOD):
        yield from asked.sweep.get(key, ())


def methods_of(experiment: Experiment, base: RunConfig) -> list[str]:
    """Return the methods of a sweep's values, each once: those that are swept, those of its arms, or the base's own."""
    own = base.regularizer.name
    for key, values in experiment.sweep.items():
        if resolve_param(key, base) == METHOD:
            return list(dict.fromkeys(map(str, values or default_sweep(METHOD, base))))
    named = [
        str(next((arm[key] for key in ("regularizer", METHOD) if key in arm), own)) for arm in experiment.arms.values()
    ]
    return list(dict.fromkeys(named or [own]))


def with_settings(experiment: Experiment, given: dict[str, Any], path: str | Path | None) -> Experiment:
    """Return an experiment with settings of the command line on top of its base.

    The base keeps only what was set, so that defaults stay a method's. Where the values of the sweep differ in their
    method, a knob goes to every method that has it.

    Args:
        experiment: What is swept.
        given: Keys as flags and `--set` take them, each with a value.
        path: The file that the base stood in, for messages.

    Raises:
        ConfigError: A key or value is unknown, of the wrong type or out of range.
    """
    own = {key: value for key, value in given.items() if key in ("regularizer", METHOD)}
    base = build_config(deepcopy(experiment.base), own, path)
    methods = methods_of(experiment, base)
    if methods == [base.regularizer.name]:
        tree, knobs = deepcopy(experiment.base), {}
        rest = {**experiment.settings, **given}
    else:
        tree, unnamed = without_knobs(experiment.base)
        knobs = unnamed | experiment.settings
        rest = dict(own)
        for key, value in given.items():
            if key in own:
                continue
            resolved = {name for settings in settings_of(methods, {key: value}).values() for name in settings}
            own = known_keys(RegularizerConfig)
            shared = all(name in own or not name.startswith("regularizer.") for name in resolved)
            (rest if shared else knobs)[key] = value
        settings_of(methods, knobs)
    tree = build_config(tree, rest, path).model_dump(mode="json", exclude_unset=True)
    return experiment.model_copy(update={"base": tree, "settings": knobs})
