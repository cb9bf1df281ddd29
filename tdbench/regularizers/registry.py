"""Finding a method by its name: the folder is the registry, and a user's own method is `file.py:NAME`.

Two doors lead from here to the lab, both through a module's name in text: a declaration finds the layer beside it (see
`RegularizerConfig.build`), and a user's file is read where torch may be imported. A process that must not import torch
describes the user's methods beforehand, by `declare`.
"""

from importlib import import_module
from pathlib import Path

from tdbench.errors import ConfigError, unknown
from tdbench.regularizers.config import RegularizerConfig
from tdbench.user_code import absolute, is_user_code

READER_OF_USER_METHODS = "tdbench.regularizers.user"  # imports torch

_declared: dict[str, type[RegularizerConfig]] = {}


def method_names() -> list[str]:
    """Return the names of the methods: the folders of `regularizers/`."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py"))


def find_method(name: str) -> type[RegularizerConfig]:
    """Return the declaration of a method: its configuration class.

    Raises:
        ConfigError: No folder of `regularizers/` has this name, or it declares nothing; or the user's file does not
            give it.
    """
    if is_user_code(name):
        known = _declared.get(absolute(name))
        return known or import_module(READER_OF_USER_METHODS).user_method(name)
    if name not in method_names():
        raise ConfigError(unknown("regularizer", name, method_names()))
    module = import_module(f"tdbench.regularizers.{name}")
    for entry in vars(module).values():
        if isinstance(entry, type) and issubclass(entry, RegularizerConfig) and entry.__module__ == module.__name__:
            return entry
    raise ConfigError(f"{module.__file__} declares no method: it lacks a subclass of RegularizerConfig")


def declare(name: str, method: type[RegularizerConfig]) -> None:
    """Let `find_method` know a user's method `file.py:NAME` by a declaration that was made without its file."""
    _declared[absolute(name)] = method
