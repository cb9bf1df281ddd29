"""What a sweep's flags mean: keys with their values, and seeds."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import yaml

from tdbench.config import parse_yaml
from tdbench.errors import ConfigError, OutOfRange

MOST_TRIALS = 100_000  # more is a slip of the pen
_PART = r"""(?:^|,)\s*(?:"([^"]*)"|'([^']*)'|([^,]*))"""  # of a list of values
FEWEST_SEEDS, MOST_SEEDS = 3, 100  # of a sequential design


def parse_params(
    param: str | Sequence[str] | Mapping[str, Sequence[Any] | None],
    values: str | Sequence[str],
    verbatim: bool = False,
) -> dict[str, tuple[Any, ...]]:
    """Return key to values, none where the knob's own are meant.

    Args:
        param: `KEY` or `KEY=VALUES`, one or several, or key to values.
        values: VALUES of each key, in their order, or none.
        verbatim: Text stays as it is written, for a script of the user's: 007 is no 7.

    Raises:
        ConfigError: Keys and values do not fit together.
    """
    if isinstance(param, Mapping):
        return {key: () if given is None else listed(key, given) for key, given in param.items()}
    params = [param] if isinstance(param, str) else param
    values = [values] if isinstance(values, str) else values
    for text in (*params, *values):
        if not isinstance(text, str):
            raise ConfigError(f"param and values must be text, or param a table of key to values, got {text!r}")
    if values and len(values) != len(params):
        raise ConfigError(f"--values must be given once for each --param, got {len(values)} for {len(params)}")
    if any(not text.strip() for text in values) or any(one.strip().endswith("=") for one in params):
        raise ConfigError(
            "--values must be VALUE,VALUE,... or FIRST:LAST:STEP, got nothing; leave it out for the default"
        )
    pairs = [one.partition("=")[::2] for one in params]
    if values and any(text for _, text in pairs):
        raise ConfigError("--param KEY=VALUES has its values already; leave --values out")
    texts = values or [text for _, text in pairs]
    parse = as_written if verbatim else parse_values
    return {key: parse(text) if text else () for (key, _), text in zip(pairs, texts, strict=True)}


def listed(key: str, values: Any) -> tuple[Any, ...]:
    """Return the values of a key as plain numbers and text, be they in a list, an array or a table's column.

    Raises:
        ConfigError: They are no list, or there are none.
    """
    plain = getattr(values, "tolist", lambda: values)()
    if isinstance(plain, (str, bytes, Mapping)) or not isinstance(plain, Iterable):
        raise ConfigError(f"param must have a list of values for {key}, or None for its own, got {values!r}")
    found = tuple(getattr(value, "item", lambda value=value: value)() for value in plain)
    if not found:
        raise ConfigError(f"param must have a value or more for {key}, or None for its own, got {values!r}")
    return found


def parse_design(text: str) -> tuple[int, int]:
    """Return the first and the last look of a sequential design, in seeds: `3..20`.

    Raises:
        OutOfRange: It is none, or one that cannot be: a look needs three seeds, and the last is not before the first.
    """
    found = re.fullmatch(r"(\d{1,6})\.\.(\d{1,6})", text.strip())
    if found is None:
        raise OutOfRange("FIRST..LAST, such as 3..20, or how many, or a list of seeds", text)
    first, last = map(int, found.groups())
    if not FEWEST_SEEDS <= first <= last <= MOST_SEEDS:
        raise OutOfRange(
            f"FIRST..LAST, such as 3..20: at least {FEWEST_SEEDS} seeds at the first look, and no fewer at the last, "
            f"at most {MOST_SEEDS:,}",
            text,
        )
    return first, last


def parse_seeds(text: str) -> int | tuple[int, ...] | str:
    """Return how many seeds, or which; a sequential design stays as it is written.

    Raises:
        ConfigError: It is none of these.
    """
    if ".." in text:
        try:
            parse_design(text)
        except OutOfRange as error:
            raise ConfigError(f"--seeds {error}") from None
        return text.strip()
    numbers = parse_values(text)
    if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers):
        raise ConfigError(
            f"--seeds must be FIRST..LAST, such as 3..20, or how many, such as 5, or which, such as 0,7,9, got {text!r}"
        )
    return numbers[0] if len(numbers) == 1 and "," not in text else numbers


def as_written(text: str) -> tuple[Any, ...]:
    """Return the parts of `a,'b,c',007` as text, but for the quotation marks; and the numbers of a range.

    Raises:
        ConfigError: A part is empty.
    """
    if re.fullmatch(r"[-+.\deE]+(:[-+.\deE]+)+", text.strip()):
        return parse_values(text)
    parts = [double or single or plain.strip() for double, single, plain in re.findall(_PART, text)]
    if not all(parts):
        raise ConfigError(f"--values must be VALUE,VALUE,... or FIRST:LAST:STEP, got {text!r}")
    return tuple(parts)


def parse_values(text: str) -> tuple[Any, ...]:
    """Return the values of `1,3,5` (YAML scalars), or of `0.05:0.5:0.05` (first, last, step; both ends included).

    Raises:
        ConfigError: It is neither.
    """
    number = r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    if re.fullmatch(rf"{number}(:{number})*:*", text.strip()) and ":" in text:
        parts = text.strip().split(":")
        if len(parts) != 3 or "" in parts or not all(math.isfinite(float(part)) for part in parts):
            raise ConfigError(f"--values FIRST:LAST:STEP must be three finite numbers, got {text!r}")
        first, last, step = (Decimal(part) if float(part) else Decimal(0) for part in parts)  # 1e-999999 is 0
        if step == 0 or (last - first) / step < 0:
            raise ConfigError(f"--values FIRST:LAST:STEP must lead from FIRST to LAST, got {text!r}")
        if (last - first) / step > MOST_TRIALS:
            raise ConfigError(f"--values {text} would be about {(last - first) / step:.3g} values; take a wider step")
        numbers = [first + step * index for index in range(int((last - first) / step) + 1)]
        whole = all("." not in part and "e" not in part.lower() for part in text.split(":"))
        return tuple(int(value) if whole else float(value) for value in numbers)
    try:
        if "[" in text and "]" in text:  # values that are lists, such as [0.3,0.6],[0.5]
            return tuple(tuple(value) if isinstance(value, list) else value for value in parse_yaml(f"[{text}]"))
        if any(part.strip() == "" for part in text.split(",")):
            raise ValueError("an empty part")
        return tuple(parse_yaml(part) for part in text.split(","))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"--values must be VALUE,VALUE,... or FIRST:LAST:STEP, got {text!r}") from None
