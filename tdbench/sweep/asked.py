"""What a sweep is asked for, in a file, in flags or from Python, and the plan that follows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tdbench.config.contents import look_anew
from tdbench.config.loading import Given, file_given, nested, resolve_key, tree_of
from tdbench.errors import ConfigError
from tdbench.regularizers.registry import find_method
from tdbench.sweep import lab
from tdbench.sweep.experiment import Experiment, from_flags, read_experiment, with_settings
from tdbench.sweep.keys import METHOD
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
    if callable(config) or own or is_own(config):
        return plan_of_own(config, param, values, seeds, baseline, settings, metric, smallest, own or {})
    given = dict(settings)
    if "seed" in given:
        raise ConfigError(f"seed must be left out: --seeds says which seeds run, got {given['seed']}")
    look_anew()
    experiment = read_experiment(config)
    base = experiment.base if experiment is not None else tree_of(config)
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


def is_own(config: Given) -> bool:
    """Return whether a file or a tree is an experiment with a script of the user's."""
    experiment = read_experiment(config) if config is not None else None
    return experiment is not None and experiment.is_own


def plan_of_own(
    config: Given | Function,
    param: Params,
    values: str | Sequence[str],
    seeds: int | Sequence[int] | str | None,
    baseline: str | None,
    settings: Mapping[str, Any],
    metric: str | None,
    smallest: float | None,
    own: Mapping[str, Any],
) -> Plan:
    """Return the plan of a sweep of the user's own script or function; the arguments are those of `plan_sweep`.

    Raises:
        ConfigError: Something of it does not fit together.
    """
    if settings:
        raise ConfigError(f"{', '.join(settings)} must go into your own script, which is what runs here")
    look_anew()
    function = config if callable(config) else None
    experiment = None if callable(config) else read_experiment(config)
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
