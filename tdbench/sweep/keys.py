"""The keys and values of a sweep: what a parameter means, which values it takes by itself, how tables show both."""

from typing import Any, get_args

from tdbench.config import FLAGS, RunConfig, resolve_key
from tdbench.config.tree import field_of
from tdbench.errors import ConfigError
from tdbench.knobs import about
from tdbench.regularizers.registry import method_names
from tdbench.store.files import as_text
from tdbench.store.rows import Value

ARM = "arm"  # the swept key of an experiment whose values are sets of settings
METHOD = "regularizer.name"


def resolve_param(key: str, base: RunConfig) -> str:
    """Return the dotted key of a parameter, as `--set` understands it.

    Raises:
        UnknownKey: There is none; it names the nearest one.
    """
    return resolve_key(key, type(base.regularizer))


def default_sweep(key: str, base: RunConfig) -> tuple[Any, ...]:
    """Return the values of a sweep that names none: those declared beside the knob, or all that it can take.

    Raises:
        ConfigError: The knob declares none.
    """
    if key == METHOD:
        return tuple(name for name in method_names() if name != "none")
    field = field_of(key, type(base.regularizer))
    values = about(field).get("sweep") or (False, True) * (field.annotation is bool) or get_args(field.annotation)
    if not values or any(isinstance(value, type) for value in values):
        raise ConfigError(f"--param {column(key)} needs --values: no sweep of it is declared")
    return tuple(values)


def column(key: str) -> str:
    """Return the name of a key in tables: that of its flag, of a method's knob, or the dotted key."""
    flags = {dotted: flag for flag, dotted in FLAGS.items()}
    return flags.get(key) or (key.partition(".")[2] if key.startswith("regularizer.") else key)


def shown(value: Any) -> Value:
    """Return a value as tables show it: a number as it is, anything else as text."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number else as_text(value)
