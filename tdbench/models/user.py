"""The user's own network: a function or class in a file, named `file.py:make_model`."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from tdbench.errors import ConfigError
from tdbench.user_code import load_object, reason_of


def find_factory(name: str) -> Callable[..., Any]:
    """Return the function or class that `file.py:NAME` refers to.

    Raises:
        ConfigError: The file does not import, lacks the name, or the object is not callable.
    """
    factory = load_object(name)
    if not callable(factory):
        raise ConfigError(f"{name} must be a function or class that makes a network, got {type(factory).__name__}")
    return factory


def build_user(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """Return the network from the user's factory, called with those of `num_classes` and `in_channels` that it takes.

    Raises:
        ConfigError: The factory raises (its own error is given), or does not return an nn.Module.
    """
    factory = find_factory(name)
    given = {"num_classes": num_classes, "in_channels": in_channels}
    parameters = inspect.signature(factory).parameters.values()
    if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        given = {key: given[key] for key in given if key in {parameter.name for parameter in parameters}}
    try:
        network = factory(**given)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{name} cannot be built: {reason_of(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{name} must return an nn.Module, got {type(network).__name__}")
    return network
