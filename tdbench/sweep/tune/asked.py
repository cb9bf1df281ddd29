"""What a search is asked to do: `tune.yaml`, and what follows from it."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator

from tdbench.config import RunConfig, build_config
from tdbench.config.contents import Contents
from tdbench.config.loading import explain, own_knobs
from tdbench.errors import ConfigError, OutOfRange
from tdbench.knobs import Section, about, knob
from tdbench.sweep import lab
from tdbench.sweep.tune.ranges import Range, parse_ranges
from tdbench.sweep.tune.study import SAMPLERS
from tdbench.sweep.values import parse_design
from tdbench.user_code import short_name

HELD_OUT = 0.2  # of the training images, where nothing else is said
NONE = "none"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Asked(Section):
    """A search, as it was asked for."""

    base: dict[str, Any] = knob({}, "configuration that all runs share: a tree of keys, complete or partial")
    param: dict[str, Any] = knob({}, "key -> LOW..HIGH, LOW..HIGH:log, or a list of values; null: as the knob declares")
    tune_baseline: dict[str, Any] = knob({}, "the same for the baseline, which then gets as many candidates of its own")
    trials: int = knob(40, "candidates, all calls together, the default among them", ge=1, le=10_000)
    search_seeds: int = knob(2, "runs of each candidate, paired with the baseline's", ge=1, le=100)
    sampler: str = knob("tpe", "how candidates are chosen", rule=" | ".join(SAMPLERS))
    sampler_seed: int = knob(0, "of the choice of candidates", ge=0, lt=2**31)
    budget: str | None = knob(None, "time for the search, all calls together, such as 4h or 30m; null: no limit")
    confirm: int = knob(1, "candidates, the best ones, that are confirmed beside the default; 0: none is", ge=0, le=20)
    confirm_seeds: str = knob("5..20", "design of the confirmation, with seeds that the search has not seen")

    @field_validator("sampler")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in SAMPLERS:
            raise OutOfRange(" | ".join(SAMPLERS), value, known=SAMPLERS)
        return value

    @field_validator("budget")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        seconds_of(value)
        return value

    @field_validator("confirm_seeds")
    @classmethod
    def _is_a_design(cls, value: str) -> str:
        try:
            parse_design(value)
        except OutOfRange as error:
            raise OutOfRange(error.rule.partition(", or how many")[0], value) from None
        return value


def seconds_of(budget: str | None) -> float | None:
    """Return a time such as `4h`, `30m` or `1h30m` in seconds.

    Raises:
        OutOfRange: It is none.
    """
    if budget is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", budget)
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != budget.strip() or not total:
        raise OutOfRange("a time such as 4h, 30m or 1h30m", budget)
    return total


def asked_of(tree: Mapping[str, Any]) -> Asked:
    """Return what a tree asks for.

    Raises:
        ConfigError: A key is unknown, or a value unsuitable.
    """
    try:
        return Asked.model_validate(tree)
    except ValidationError as error:
        lines = [explain(one, Asked.model_fields, lambda key: None) for one in error.errors()]
        raise ConfigError("\n".join(as_flag(line) for line in lines)) from error


def as_flag(line: str) -> str:
    """Return a message that begins with a field's name as one about the flag of that name."""
    name, space, rest = line.partition(" ")
    return f"--{name.replace('_', '-')}{space}{rest}" if name in Asked.model_fields else line


@dataclass(frozen=True)
class Subject:
    """Whose knobs are searched: the method's, or the baseline's own.

    Attributes:
        method: The name of the regularizer.
        ranges: What is searched.
        default: Dotted key to the default of each of the searched knobs.
    """

    method: str
    ranges: tuple[Range, ...]
    default: dict[str, Any]

    @property
    def size(self) -> float:
        """How many different candidates there are."""
        size = 1.0
        for one in self.ranges:
            size *= one.size
        return size


@dataclass(frozen=True)
class TunePlan:
    """A search that was checked.

    Attributes:
        asked: As it was asked for.
        base: The run of the method with what all candidates share; it does not read the test images.
        baseline: The same without a regularizer.
        subjects: Whose knobs are searched: first the method's.
    """

    asked: Asked
    base: RunConfig
    baseline: RunConfig
    subjects: tuple[Subject, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the search; the confirmation has those that follow."""
        return tuple(range(self.asked.search_seeds))

    @property
    def budget_s(self) -> float | None:
        """Seconds for the search."""
        return seconds_of(self.asked.budget)

    @cached_property
    def contents(self) -> Contents:
        """What the settings mean: the data, and the user's own code."""
        return self.base.contents()

    def settings(self) -> dict[str, Any]:
        """Return what makes a search this one, however many candidates it has and whatever is confirmed."""
        shared = {key: value for key, value in self.base.settings().items() if key != "seed"}
        asked = {name: getattr(self.asked, name) for name in ("search_seeds", "sampler", "sampler_seed")}
        searched = {f"searched {one.method}": [str(part) for part in one.ranges] for one in self.subjects}
        return shared | asked | searched

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the settings and of what they mean."""
        text = json.dumps([self.settings(), self.contents], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def default_folder(self) -> Path:
        """Return a folder of its own for each search."""
        bases = (self.base.data.name, self.base.model.name, self.base.regularizer.name)
        return Path("runs") / re.sub(r"[^\w.-]+", "-", "-".join(("tune", *map(short_name, bases), self.digest)))

    def config(self, subject: Subject, values: Mapping[str, Any]) -> RunConfig:
        """Return the run of a candidate, of the first seed.

        Raises:
            ConfigError: A knob refuses its value, or its values do not go together.
        """
        (config,) = self.configs(subject, [values])
        if isinstance(config, ConfigError):
            raise config
        return config

    def configs(self, subject: Subject, every: Iterable[Mapping[str, Any]]) -> list[RunConfig | ConfigError]:
        """Return the runs of candidates, or why there are none."""
        found: list[RunConfig | ConfigError] = []
        for values in every:
            try:
                found.append(build_config(self.default_of(subject).model_dump(mode="json", exclude_unset=True), values))
            except ConfigError as error:
                found.append(error)
        read = iter(lab.understood([one for one in found if isinstance(one, RunConfig)]))
        return [next(read) if isinstance(one, RunConfig) else one for one in found]

    def default_of(self, subject: Subject) -> RunConfig:
        """Return the run with the defaults of a subject's knobs, on top of which a candidate's values lie."""
        return self.base if subject is self.subjects[0] else self.baseline


def plan_tune(asked: Asked) -> TunePlan:
    """Return the plan of a search; every end of every range is checked.

    Raises:
        ConfigError: A key is unknown, or a knob refuses what it is to be searched in.
    """
    tree = deepcopy(asked.base)
    data = tree.setdefault("data", {}) if isinstance(tree.get("data", {}), dict) else {}
    data.setdefault("valid_fraction", HELD_OUT)
    if data["valid_fraction"] == 0:
        raise ConfigError("data.valid_fraction must be above 0: a search chooses on images that are held out")
    if data.get("resample"):
        raise ConfigError(
            "data.resample must be false: test images that are drawn anew would be chosen on in the search"
        )
    base = build_config(tree, {"data.test": False})
    if base.regularizer.name == NONE and not asked.tune_baseline:
        raise ConfigError("--regularizer must be a method to search, got none (--tune-baseline searches its own knobs)")
    baseline = build_config(base.model_dump(mode="json", exclude_unset=True) | {"regularizer": {"name": NONE}})
    subjects = [subject_of(asked.param or default_params(base), base)]
    if asked.tune_baseline:
        subjects.append(subject_of(asked.tune_baseline, baseline))
    base, baseline = understood(base, baseline)
    plan = TunePlan(asked, base, baseline, tuple(subjects))
    for subject in subjects:
        check_ends(plan, subject)
    return plan


def understood(*configs: RunConfig) -> list[RunConfig]:
    """Return configurations as the user's method reads them.

    Raises:
        ConfigError: It refuses one.
    """
    read = []
    for one in lab.understood(configs):
        if isinstance(one, ConfigError):
            raise one
        read.append(one)
    return read


def default_params(base: RunConfig) -> dict[str, Any]:
    """Return what is searched where nothing is named: the method's own knobs that declare a sweep.

    Raises:
        ConfigError: It has none.
    """
    method, solved = base.regularizer.name, base.regularizer.strength_knob if base.regularizer.match else None
    own = [name for name, field in own_knobs(method).items() if about(field).get("sweep") and name != solved]
    if not own:
        raise ConfigError(f"--param must name what to search: {method} declares no ranges of its own")
    return dict.fromkeys(own)


def subject_of(given: str | Sequence[str] | Mapping[str, Any], base: RunConfig) -> Subject:
    """Return whose knobs are searched.

    Raises:
        ConfigError: A key is unknown, or its values are no range.
    """
    ranges = parse_ranges(given, base)
    settings = base.settings()
    if solved := [one.name for one in ranges if one.key not in settings]:
        raise ConfigError(
            f"--param {solved[0]} must be left out: --match solves it for the share that is to be dropped"
        )
    return Subject(base.regularizer.name, ranges, {one.key: settings[one.key] for one in ranges})


def check_ends(plan: TunePlan, subject: Subject) -> None:
    """Check that each knob takes both ends of its range, and each of its choices.

    Raises:
        ConfigError: One refuses.
    """
    for one in subject.ranges:
        values = [{one.key: value} for value in one.telling()]
        refused = [str(config) for config in plan.configs(subject, values) if isinstance(config, ConfigError)]
        if refused:
            raise ConfigError(f"--param {one}: {refused[0].splitlines()[0]}; give a range, or values, that it takes")
