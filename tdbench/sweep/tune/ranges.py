"""What a search may choose from: a range of numbers, or a few values, for each knob."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from tdbench.config import RunConfig
from tdbench.config.tree import field_of
from tdbench.errors import ConfigError
from tdbench.knobs import about
from tdbench.sweep.keys import METHOD, column, default_sweep, resolve_param
from tdbench.sweep.values import listed, parse_values

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")
FEW = 100  # whole numbers, each of which a knob is asked about
LOG_FROM = 10.0  # a declared sweep that spans so many times its least value is searched by its logarithm


@dataclass(frozen=True)
class Range:
    """What a search chooses one knob from.

    Attributes:
        key: The dotted key.
        low, high: The ends of a range of numbers, both included; None: there are `choices`.
        is_whole: The range is of whole numbers.
        is_log: The range is searched by its logarithm.
        choices: The values, where they are not a range.
    """

    key: str
    low: float | None = None
    high: float | None = None
    is_whole: bool = False
    is_log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """The knob's name in tables."""
        return column(self.key)

    def telling(self) -> tuple[Any, ...]:
        """Return the values that show whether the knob takes all: every one of a few, both ends of many."""
        if self.choices:
            return self.choices
        if self.is_whole and self.size <= FEW:
            return tuple(range(int(self.low or 0), int(self.high or 0) + 1))
        return (self.low, self.high)

    @property
    def size(self) -> float:
        """How many values there are; infinite for a range that is not of whole numbers."""
        if self.choices:
            return len(self.choices)
        return self.high - self.low + 1 if self.is_whole else math.inf  # type: ignore[operator]

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name}={','.join(map(str, self.choices))}"
        return f"{self.name}={self.low:g}..{self.high:g}{':log' * self.is_log}"


def parse_ranges(given: str | Sequence[str] | Mapping[str, Any], base: RunConfig) -> tuple[Range, ...]:
    """Return what is to be searched.

    Args:
        given: `KEY`, `KEY=LOW..HIGH`, `KEY=LOW..HIGH:log` or `KEY=A,B,C`, one or several; or key to such a text, to
            a list of values, or to None for what the knob declares.
        base: The run on top of which a candidate lies.

    Raises:
        ConfigError: A key is unknown or stands there twice, or its values are none of these.
    """
    if isinstance(given, Mapping):
        pairs = list(given.items())
    else:
        texts = [given] if isinstance(given, str) else given
        pairs = [(key, text if equals else None) for key, equals, text in (one.partition("=") for one in texts)]
    ranges = [range_of(key.strip(), values, base) for key, values in pairs]
    keys = [one.key for one in ranges]
    if len(set(keys)) < len(keys):
        raise ConfigError(f"--param must name each parameter once, got {', '.join(map(str, ranges))}")
    return tuple(ranges)


def range_of(name: str, values: Any, base: RunConfig) -> Range:
    """Return what one knob may be.

    Raises:
        ConfigError: There is no such knob, or the values are no range and no list.
    """
    key = resolve_param(name, base)
    field = field_of(key, type(base.regularizer))
    if key in ("seed", METHOD) or not about(field).get("identity", True):
        what = {
            "seed": "--search-seeds says which seeds run",
            METHOD: "a search is of one method; search each by itself",
        }
        raise ConfigError(f"--param {name}: {what.get(key, 'it changes where or how fast a run goes, and no result')}")
    if values is None:
        return declared(key, default_sweep(key, base))
    if not isinstance(values, str):
        return chosen(key, listed(name, values))
    if found := _RANGE.fullmatch(values.strip()):
        low, high, log = found.groups()
        kinds = {field.annotation, *get_args(field.annotation)}
        whole = is_whole(low, high) and float not in kinds
        return between(key, float(low), float(high), whole, log is not None)
    if ".." in values:
        raise ConfigError(f"--param {name} must be LOW..HIGH, LOW..HIGH:log or A,B,C, got {values!r}")
    return chosen(key, parse_values(values))


def is_whole(*texts: str) -> bool:
    """Return whether numbers are written as whole ones."""
    return all(re.fullmatch(r"[-+]?\d+", text) for text in texts)


def between(key: str, low: float, high: float, whole: bool, log: bool) -> Range:
    """Return a range of numbers.

    Raises:
        ConfigError: It is empty, or has a 0 in it and is to be searched by its logarithm.
    """
    name = column(key)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"--param {name} must be LOW..HIGH with LOW below HIGH, got {low:g}..{high:g}")
    if log and low <= 0:
        raise ConfigError(f"--param {name}: a range with :log must be above 0, got {low:g}..{high:g}")
    if whole:
        low, high = int(low), int(high)
    return Range(key, low, high, whole, log)


def chosen(key: str, values: Sequence[Any]) -> Range:
    """Return a choice of values, each once.

    Raises:
        ConfigError: There is but one.
    """
    distinct = list(dict.fromkeys(map(as_choice, values)))
    if len(distinct) < 2:
        raise ConfigError(f"--param {column(key)} must have two values at least to choose from, got {distinct[0]}")
    return Range(key, choices=tuple(distinct))


def as_choice(value: Any) -> Any:
    """Return a value as a search can hold it: a list as a tuple, which is compared as a whole."""
    return tuple(value) if isinstance(value, list) else value


def declared(key: str, values: Sequence[Any]) -> Range:
    """Return what a knob's declared sweep means for a search: the range that its numbers span, else its values."""
    numbers = [value for value in values if isinstance(value, float)]
    if len(numbers) < len(values) or len(numbers) < 2:
        return chosen(key, values)
    low, high = min(numbers), max(numbers)
    return between(key, low, high, whole=False, log=low > 0 and high / low >= LOG_FROM)
