"""Finding a method by its name: the folder is the registry, and a user's own method is `file.py:NAME`.

This module does not import torch. Two modules that do are imported by name when they are needed: the layer beside a
declaration (see `RegularizerConfig.build`), and the reader of user files. A process that must not import torch gets the
user's methods from `declare` beforehand.
"""

from importlib import import_module
from pathlib import Path

from tdbench.errors import ConfigError, unknown
from tdbench.regularizers.config import RegularizerConfig
from tdbench.user_code import absolute, is_user_code, unnamed_code

READER_OF_USER_METHODS = "tdbench.regularizers.user"  # imports torch

_declared: dict[str, type[RegularizerConfig]] = {}


def method_names() -> list[str]:
    """Return the names of the methods: the folders of `regularizers/`."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py"))


class StandIn(RegularizerConfig):
    """A user's method in a process that does not import its file: its knobs, whose values the lab checks."""


def find_method(name: str) -> type[RegularizerConfig]:
    """Return the declaration of a method: its configuration class.

    Raises:
        ConfigError: No folder of `regularizers/` has this name, or it declares nothing; or the user's file does not
            define it.
    """
    if is_user_code(name):
        known = _declared.get(absolute(name))
        return known or import_module(READER_OF_USER_METHODS).user_method(name)
    if name not in method_names():
        raise ConfigError(unnamed_code(name) or unknown("regularizer", name, method_names()))
    module = import_module(f"tdbench.regularizers.{name}")
    for entry in vars(module).values():
        if isinstance(entry, type) and issubclass(entry, RegularizerConfig) and entry.__module__ == module.__name__:
            return entry
    raise ConfigError(f"{module.__file__} declares no method: it lacks a subclass of RegularizerConfig")


def declare(name: str, method: type[RegularizerConfig]) -> None:
    """Register the configuration class of a user method `file.py:NAME`, which `find_method` then returns."""
    _declared[absolute(name)] = method


def forget_declared() -> None:
    """Forget what was declared: from here on a user's method is read from its file."""
    _declared.clear()
