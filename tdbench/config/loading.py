"""How a run's configuration is put together: defaults < YAML < flags and `--set`; every error names the key."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tdbench.config.contents import look_anew
from tdbench.config.optimization import OpenSection, OptimizerConfig, ScheduleConfig
from tdbench.config.tree import RunConfig, known_keys
from tdbench.config.trust import check_trusted, trusting
from tdbench.config.yaml_values import parse_yaml
from tdbench.errors import ConfigError, OutOfRange, UnknownKey, line_of, nearest
from tdbench.knobs import Section, about, bounds, used
from tdbench.regularizers.config import RegularizerConfig
from tdbench.regularizers.registry import find_method, method_names
from tdbench.store.files import read_file
from tdbench.user_code import absolute

Given = RunConfig | Mapping[str, Any] | str | Path | None  # how a configuration is given

# Flags of the command line that stand for a key; `--set` takes every key.
FLAGS = {
    "data": "data.name",
    "data_root": "data.root",
    "cache": "data.cache",
    "train_fraction": "data.train_fraction",
    "model": "model.name",
    "regularizer": "regularizer.name",
    "sites": "regularizer.sites",
    "match": "regularizer.match",
    "epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "batch_size": "training.batch_size",
    "eval_every": "training.eval_every",
    "lr": "optimizer.lr",
    "seed": "seed",
    "device": "hardware.device",
    "precision": "hardware.precision",
    "compile": "hardware.compile",
    "threads": "hardware.threads",
    "deterministic": "hardware.deterministic",
}


OPEN: dict[str, type[OpenSection]] = {"optimizer": OptimizerConfig, "schedule": ScheduleConfig}


def resolve_key(key: str, method: type[RegularizerConfig]) -> str:
    """Return the dotted key for a key, a flag's name, an alias such as `gamma`, or a last part that is unique.

    Raises:
        UnknownKey: There is no such key; the nearest one is named.
        ConfigError: Several keys have this last part.
    """
    keys = known_keys(method)
    if key in keys:
        return key
    name = key.replace("-", "_")
    if name in FLAGS:
        return FLAGS[name]
    section, _, last = name.rpartition(".")
    short = [full for full, field in keys.items() if answers(full, field, last)]
    short = [full for full in short if not section or full.rpartition(".")[0] == section]
    own = [full for full in short if full.rpartition(".")[2] not in RegularizerConfig.model_fields]
    own = [full for full in own if full.startswith("regularizer.")]
    if len(short) == 1 or len(own) == 1:  # a method's own knobs come first: no other section takes a name from them
        return (own or short)[0]
    if short:
        raise ConfigError(f"key {key!r} is ambiguous: it may be {' or '.join(short)}")
    if section in OPEN and last.isidentifier():  # a knob of torch's; whether there is one, its name tells
        return f"{section}.{last}"
    owners = [name for name in method_names() if any(answers(k, f, last) for k, f in own_knobs(name).items())]
    names = {full.rpartition(".")[2] for full in keys} - {"name"} | set(keys) | set(FLAGS)
    names |= {alias for field in keys.values() for alias in about(field).get("aliases", ())}
    raise UnknownKey(key, nearest(name, sorted(names)) or nearest(last, sorted(names)), owners)


def answers(key: str, field: FieldInfo, name: str) -> bool:
    """Return whether a dotted key is meant by a last part or an alias."""
    return key.rpartition(".")[2] == name or name in about(field).get("aliases", ())


def own_knobs(method: str) -> dict[str, FieldInfo]:
    """Return a method's own knobs with their declarations."""
    fields = find_method(method).model_fields
    return {name: field for name, field in fields.items() if name not in RegularizerConfig.model_fields}


def load_config(config: Given = None, overrides: Mapping[str, Any] | None = None, *, trust: bool = False) -> RunConfig:
    """Build the configuration of a run: defaults < what is given < overrides.

    Args:
        config: A YAML file or a tree of keys, complete or partial; a configuration; or None. A tree may also hold
            dotted keys and flag names: `{"training": {"epochs": 3}}`, `{"training.epochs": 3}`, `{"epochs": 3}`.
        overrides: Dotted keys, flag names or aliases, each with a value.
        trust: Let code run that the file names and the overrides do not.

    Raises:
        ConfigError: The file cannot be read or names code that is not trusted, or a key or value is unknown, of the
            wrong type or out of range.
    """
    look_anew()
    if isinstance(config, RunConfig) and not overrides:
        find_method(config.regularizer.name)  # by which the run folder will know it
        return config
    with trusting(overrides, trust):
        built = build_config(tree_of(config), overrides, file_given(config))
    refuse_unused([built])
    return built


def refuse_unused(configs: Iterable[RunConfig]) -> None:
    """Check that each setting does something in one of the runs at least that a command is about.

    Raises:
        ConfigError: One does nothing in any of them.
    """
    unused: dict[str, str] = {}
    at_work: set[str] = set()
    for config in configs:
        for section in RunConfig.model_fields:
            part = getattr(config, section)
            for name, why in used(part).items() if isinstance(part, Section) else ():
                if why is None:
                    at_work.add(f"{section}.{name}")
                else:
                    unused.setdefault(f"{section}.{name}", why)
    if wrong := [f"{key} {why}" for key, why in unused.items() if key not in at_work]:
        raise ConfigError("\n".join(wrong))


def tree_of(config: Given) -> dict[str, Any]:
    """Return a tree of keys of its own: what a YAML file holds, or what was set of a configuration.

    Raises:
        ConfigError: The file cannot be read, or it is none of these.
    """
    if config is None:
        return {}
    if isinstance(config, RunConfig):
        find_method(config.regularizer.name)
        return config.model_dump(mode="json", exclude_unset=True)
    if isinstance(config, Mapping):
        return nested(config)
    if isinstance(config, (str, Path)):
        return read_yaml(Path(config))
    raise ConfigError(f"config must be a YAML file, a tree of keys or a configuration, got {type(config).__name__}")


def nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree of keys, of which some may be dotted or flag names, as a YAML file has it: a table per section."""
    tree: dict[str, Any] = {}
    for key, value in keys.items():
        full = key if isinstance(value, Mapping) else FLAGS.get(key, key)
        section, dot, last = full.partition(".") if isinstance(full, str) else (full, "", "")
        part = deepcopy({last: value} if dot else value)
        before = tree.get(section)
        tree[section] = {**before, **part} if isinstance(before, dict) and isinstance(part, dict) else part
    return tree


def file_given(config: Given) -> str | Path | None:
    """Return the file that a configuration stands in, for messages."""
    return config if isinstance(config, (str, Path)) else None


def build_config(
    tree: dict[str, Any], overrides: Mapping[str, Any] | None = None, path: str | Path | None = None
) -> RunConfig:
    """Build the configuration of a run from a tree, complete or partial, as `load_config` does from a file.

    Args:
        tree: Nested keys; changed in place.
        overrides: Dotted keys, flag names or aliases, each with a value.
        path: The file that the tree stood in, for messages.
    """
    overrides, where = dict(overrides or {}), "" if path is None else f"{path}: "
    section = tree.get("regularizer") or {}
    if not isinstance(section, dict):
        raise ConfigError(f"{where}regularizer must be a table of keys, got {section!r}")
    default = RegularizerConfig.model_fields["name"].default
    before = section.get("name", default)
    after = next((overrides[key] for key in reversed(overrides) if key in ("regularizer.name", "regularizer")), before)
    if not isinstance(after, str):
        hint = "; tdbench.insert takes a class, and a run the file that defines it: 'file.py:MyDrop'"
        raise ConfigError(f"regularizer.name must be text, got {after!r}{hint * isinstance(after, type)}")
    method = find_method(after)
    if absolute(after) != absolute(str(before)):  # the knobs of the method that was replaced go with it
        tree["regularizer"] = {key: section[key] for key in section if key in RegularizerConfig.model_fields}
    given = {resolve_key(key, method): value for key, value in overrides.items()}
    for section, kind in OPEN.items():
        leave_replaced(tree, section, kind, given.get(f"{section}.name"))
    solved = f"regularizer.{method.strength_knob}"
    if given.get("regularizer.match") is not None and solved in given:
        raise ConfigError(f"{solved} must not be given beside regularizer.match, which solves it; leave one out")
    for key, value in given.items():
        *parents, last = key.split(".")
        branch = tree
        for parent in parents:
            if branch.get(parent) is None:
                branch[parent] = {}
            branch = branch[parent]
            if not isinstance(branch, dict):
                raise ConfigError(f"{where}{parent} must be a table of keys, got {branch!r}")
        branch[last] = value
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        fields = {**known_keys(method), **RunConfig.model_fields}

        def meant(key: str) -> str | None:
            with suppress(ConfigError):
                return resolve_key(key, method)
            return None

        raise ConfigError("\n".join(where + explain(one, fields, meant) for one in error.errors())) from error


def leave_replaced(tree: dict[str, Any], name: str, kind: type[OpenSection], chosen: Any) -> None:
    """Take the knobs of a class out of a tree that names it, where another class is chosen in its place.

    What a section holds that names none is meant for whichever there is.
    """
    section = tree.get(name)
    if not isinstance(section, dict) or not isinstance(chosen, str) or not isinstance(section.get("name"), str):
        return
    if kind.known_as(section["name"]) != kind.known_as(chosen):
        tree[name] = {key: value for key, value in section.items() if key in kind.stays}


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: The file is missing, unreadable, empty, no YAML, not a mapping, or names code that is not trusted.
    """
    try:
        tree = parse_yaml(_text_of(path))
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        what = getattr(error, "problem", None) or line_of(error)
        raise ConfigError(f"config file {path} is not YAML: {where}{what}") from error
    if tree is None:
        raise ConfigError(f"config file {path} is empty; `tdbench train` alone runs the defaults")
    if not isinstance(tree, dict):
        raise ConfigError(f"config file {path} must hold a table of keys, got {type(tree).__name__}")
    check_trusted(tree, path)
    return {key: value for key, value in tree.items() if value is not None}  # an empty section is all defaults


def _text_of(path: Path) -> str:
    """Return a file's text; of the pipes only those are read that a shell has opened, `<(command)`, since they end."""
    is_opened = path.is_fifo() and path.is_relative_to("/dev")
    return (path.read_bytes() if is_opened else read_file(path)).decode()


# Type of pydantic's error -> the rule that was broken, in words that its context fills in.
_RULES = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "literal_error": "{expected}",
    "tuple_type": "a list",
    "path_type": "a path",
    "model_type": "a table of keys",
    "dict_type": "a table of keys",
}


def explain(error: ErrorDetails, fields: Mapping[str, FieldInfo], meant: Callable[[str], str | None]) -> str:
    """Return one line for one of pydantic's errors: field, rule, value, and the nearest key where it is unknown.

    Args:
        error: As pydantic tells it.
        fields: Every known key with its declaration.
        meant: Returns the key that the command line would understand by a name, or None.
    """
    key = ".".join(str(part) for part in error["loc"])
    value, context = error.get("input"), error.get("ctx", {})
    if error["type"] == "missing":
        return f"{key} must be given, since it has no default: --set {key.rpartition('.')[2]}=VALUE"
    if error["type"] == "extra_forbidden":
        close = meant(key)
        return f"unknown key {key!r}{f'; did you mean {close}?' if close else nearest(key, fields)}"
    if error["type"] == "value_error":
        raised = context["error"]
        return f"{key} {raised}" if isinstance(raised, OutOfRange) else str(raised)
    rule = _RULES.get(error["type"])
    if rule is None:
        return f"{key}: {error['msg']}, got {value!r}"
    limits = {name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in context.items()}
    both = bounds(fields[key]) if key in fields else {}
    if error["type"] in ("greater_than_equal", "less_than_equal") and {"ge", "le"} <= both.keys():
        rule, limits = "between {ge:g} and {le:g}", dict(both)
    known = get_args(fields[key].annotation) if error["type"] == "literal_error" and key in fields else ()
    return f"{key} {OutOfRange(rule.format(**limits), value, [str(name) for name in known])}"
