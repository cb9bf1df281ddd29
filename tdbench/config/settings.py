"""One rule for settings that are given for several methods at once, in every command that looks at more than one.

A setting goes to every method that has it; one that none of them has is an error.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from tdbench.config.loading import Given, build_config, file_given, refuse_unused, resolve_key, tree_of
from tdbench.config.tree import RunConfig
from tdbench.errors import ConfigError, UnknownKey
from tdbench.regularizers.config import RegularizerConfig
from tdbench.regularizers.registry import find_method


def settings_of(methods: Sequence[str], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return, for each method, the dotted keys and values of those settings that a run with it has.

    Args:
        methods: Names.
        given: Keys as `--set` takes them, each with a value.

    Raises:
        ConfigError: None of the methods has a setting, or it would replace the methods themselves.
    """
    settings: dict[str, dict[str, Any]] = {name: {} for name in methods}
    for key, value in given.items():
        refused: list[UnknownKey] = []
        for name in methods:
            try:
                resolved = resolve_key(key, find_method(name))
            except UnknownKey as error:
                refused.append(error)
                continue
            if resolved == "regularizer.name":
                raise ConfigError(f"--regularizer names the methods, not --set {key}")
            settings[name][resolved] = value
        if refused and len(refused) == len(methods):
            raise refused[0]
    return settings


def configs_of(config: Given, methods: Sequence[str], given: Mapping[str, Any]) -> dict[str, RunConfig]:
    """Return a run for each method; they differ by their regularizers alone.

    Args:
        config: The configuration that they share, or None: a YAML file, a tree of keys, or a configuration.
        methods: Names; the file's own regularizer, with its knobs, where it is one of them.
        given: Settings on top of it, as `settings_of` takes them.

    Raises:
        ConfigError: The file, a method, a key or a value is wrong.
    """
    base = tree_of(config)
    knobs: dict[str, Any] = {}
    if len(methods) > 1:
        base, knobs = without_knobs(base)
    configs = {
        name: build_config(deepcopy(base), {"regularizer.name": name, **own}, file_given(config))
        for name, own in settings_of(methods, knobs | dict(given)).items()
    }
    refuse_unused(configs.values())
    return configs


def without_knobs(base: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a base without the knobs that it gives to no method by name, and those knobs."""
    section = base.get("regularizer")
    if not isinstance(section, dict) or "name" in section:
        return deepcopy(base), {}
    knobs = {key: value for key, value in section.items() if key not in RegularizerConfig.model_fields}
    rest = {key: value for key, value in section.items() if key in RegularizerConfig.model_fields}
    return deepcopy(base) | {"regularizer": rest}, knobs
