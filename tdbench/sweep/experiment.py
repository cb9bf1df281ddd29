"""An experiment: what a sweep varies, over which seeds, against which baseline; from flags or from a file."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError, field_validator, model_validator

from tdbench.config import FLAGS, RunConfig, Section, about, build_config, knob, known_keys, method_names, parse_yaml
from tdbench.config import resolve_key as find_key
from tdbench.config.loading import read_yaml
from tdbench.errors import ConfigError, nearest, unknown
from tdbench.results.store import label

ARM = "arm"  # the swept key of an experiment whose values are sets of settings
DEFAULT_SEEDS = 3
MOST_TRIALS = 100_000  # more is a slip of the pen


class Experiment(Section):
    """A sweep over values of keys, a grid if there are several, or over arms: named sets of settings."""

    title: str = knob("", "what the experiment asks, in a line")
    base: dict[str, Any] = knob({}, "configuration that the trials share: a tree of keys, complete or partial")
    sweep: dict[str, tuple[Any, ...]] = knob({}, "key -> values; null: the values declared beside the knob")
    arms: dict[str, dict[str, Any]] = knob({}, "name -> settings, in place of a grid")
    seeds: tuple[int, ...] = knob(tuple(range(DEFAULT_SEEDS)), "seeds, or how many of them, from 0")
    baseline: str = knob("none", "none: the same without a regularizer; a swept value or an arm; off")
    published: dict[str, float] = knob({}, "arm or value -> published test error in per cent")
    published_source: str = knob("", "where the published figures stand")

    @field_validator("sweep", mode="before")
    @classmethod
    def _default_values(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: () if values is None else values for key, values in value.items()}
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        return tuple(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) < len(value) or min(value) < 0:
            raise ValueError(f"must be at least one seed, each once and none below 0, got {list(value)}")
        return value

    @field_validator("baseline", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        if value is False:  # what YAML makes of `off`
            return "off"
        return "none" if value is None else str(value) if isinstance(value, (int, float)) else value

    @model_validator(mode="after")
    def _something_varies(self) -> "Experiment":
        if bool(self.sweep) == bool(self.arms):
            raise ValueError("an experiment must have either sweep (key -> values) or arms (name -> settings)")
        return self


def read_experiment(path: Path) -> Experiment | None:
    """Return the experiment in a YAML file, or None where the file is the configuration of one run.

    Raises:
        ConfigError: The file cannot be read, or is an experiment with an unknown or unsuitable key.
    """
    found = packaged(path)
    if not found.exists() and may_be_ready(path):
        ready = sorted({file.name for file in ready_experiments()})
        raise ConfigError(f"config file {path} does not exist{nearest(path.name, ready)} (ready: {', '.join(ready)})")
    tree = read_yaml(found)
    if not {"sweep", "arms"} & set(tree):
        return None
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {complaint(one)}" for one in error.errors())) from error


def packaged(path: Path) -> Path:
    """Return the path of an experiment that comes with tdbench where there is no such file here."""
    if path.exists() or not may_be_ready(path):
        return path
    return next((file for file in ready_experiments() if file.name == path.name), path)


def may_be_ready(path: Path) -> bool:
    """Return whether a path may mean an experiment that comes with tdbench."""
    return path.parent in (Path("ablations"), Path())


def ready_experiments() -> list[Path]:
    """Return the experiments that come with tdbench: in its package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    return sorted([*package.glob("ablations/*.yaml"), *package.parent.glob("ablations/*.yaml")])


def complaint(error: Any) -> str:
    """Return one of pydantic's errors in a line."""
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return unknown("key", key, Experiment.model_fields)
    context = error.get("ctx", {}).get("error")
    return f"{key} {context}".strip() if context else f"{key}: {error['msg']}, got {error.get('input')!r}"


def from_flags(
    experiment: Experiment | None,
    base: dict[str, Any],
    params: list[str],
    values: list[str],
    seeds: str | None,
    baseline: str | None,
) -> Experiment:
    """Return an experiment put together from flags, on top of one from a file if there is one.

    Args:
        experiment: What the file held, or None.
        base: The configuration that the trials share, in place of the file's.
        params: `KEY` or `KEY=VALUES`; none: what the file sweeps.
        values: VALUES of each of `params`, in their order, or none.
        seeds: How many, or which, separated by commas.
        baseline: `none`, a swept value, or `off`.

    Raises:
        ConfigError: The flags do not fit together.
    """
    tree = {} if experiment is None else experiment.model_dump()
    tree["base"] = base
    if values and len(values) != len(params):
        raise ConfigError(f"--values must be given once for each --param, got {len(values)} for {len(params)}")
    if params:
        pairs = [param.partition("=")[::2] for param in params]
        if values and any(text for _, text in pairs):
            raise ConfigError("--param KEY=VALUES has its values already; leave --values out")
        texts = values or [text for _, text in pairs]
        tree["sweep"] = {key: parse_values(text) if text else () for (key, _), text in zip(pairs, texts, strict=True)}
        tree["arms"] = {}
    if seeds is not None:
        numbers = parse_values(seeds)
        if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers):
            raise ConfigError(f"--seeds must be how many, such as 5, or which, such as 0,7,9, got {seeds!r}")
        tree["seeds"] = numbers[0] if len(numbers) == 1 and "," not in seeds else numbers
    if baseline is not None:
        tree["baseline"] = baseline
    if not tree.get("sweep") and not tree.get("arms"):
        tree["sweep"] = {"block_size": ()}
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(complaint(one) for one in error.errors())) from error


def parse_values(text: str) -> tuple[Any, ...]:
    """Return the values of `1,3,5` (YAML scalars), or of `0.05:0.5:0.05` (first, last, step; both ends included).

    Raises:
        ConfigError: It is neither.
    """
    number = r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    if re.fullmatch(rf"{number}:{number}:{number}", text.strip()):
        first, last, step = map(Decimal, text.strip().split(":"))
        if step == 0 or (last - first) / step < 0:
            raise ConfigError(f"--values FIRST:LAST:STEP must lead from FIRST to LAST, got {text!r}")
        if (last - first) / step > MOST_TRIALS:
            raise ConfigError(f"--values {text} would be {int((last - first) / step) + 1:,} values; take a wider step")
        numbers = [first + step * index for index in range(int((last - first) / step) + 1)]
        whole = all("." not in part and "e" not in part.lower() for part in text.split(":"))
        return tuple(int(value) if whole else float(value) for value in numbers)
    try:
        if any(part.strip() == "" for part in text.split(",")):
            raise ValueError("an empty part")
        return tuple(parse_yaml(part) for part in text.split(","))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"--values must be VALUE,VALUE,... or FIRST:LAST:STEP, got {text!r}") from None


def resolve_param(key: str, base: RunConfig) -> str:
    """Return the dotted key of a parameter, as `--set` understands it.

    Raises:
        ConfigError: There is none; the nearest one is named, and all of them with their defaults.
    """
    method = type(base.regularizer)
    try:
        return find_key(key, method)
    except ConfigError as error:
        if "ambiguous" in str(error):
            raise
        known = ", ".join(f"{column(name)}={shown(field.default)}" for name, field in known_keys(method).items())
        reason = str(error).partition(" (`tdbench list`")[0]
        raise ConfigError(f"{reason}\nknown parameters and their defaults: {known}") from None


def default_values(key: str, base: RunConfig) -> tuple[Any, ...]:
    """Return the values of a sweep that names none: those declared beside the knob, or all that it can take.

    Raises:
        ConfigError: The knob declares none.
    """
    if key == "regularizer.name":
        return tuple(name for name in method_names() if name != "none")
    field = known_keys(type(base.regularizer))[key]
    values = about(field).get("sweep") or (False, True) * (field.annotation is bool) or get_args(field.annotation)
    if not values or any(isinstance(value, type) for value in values):
        raise ConfigError(f"--param {column(key)} needs --values: no sweep of it is declared")
    return tuple(values)


def column(key: str) -> str:
    """Return the name of a key in tables: that of its flag, of a method's knob, or the dotted key."""
    flags = {dotted: flag for flag, dotted in FLAGS.items()}
    return flags.get(key) or (key.partition(".")[2] if key.startswith("regularizer.") else key)


def shown(value: Any) -> str | int | float:
    """Return a value as tables show it: a number as it is, anything else as text."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number else label(value)


def resolve_base(base: dict[str, Any], overrides: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """Return the tree that the trials share, with flags on top; only what was set, so that defaults stay a method's.

    Raises:
        ConfigError: A key or value is unknown, of the wrong type or out of range.
    """
    return build_config(dict(base), overrides, path).model_dump(mode="json", exclude_unset=True)
