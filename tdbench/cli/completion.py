"""What a shell may complete: names, keys and values. Answered without torch, and without running a file of the user's.

Typer asks each function here for the candidates of a word. One that stands alone gets a space behind it in most shells,
so that a key is offered with its values as soon as it is the only one.
"""

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, get_origin

import typer

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

BASH = "_TDBENCH_COMPLETE", "complete_bash"
BREAKS = "=:"  # of those at which bash splits words, the ones that ours contain

Complete = Callable[[str], list[str]]


def among(names: Callable[[], Iterable[str]]) -> Complete:
    """Return what completes a word to one of these names, which are looked up when they are needed."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


def listed(names: Callable[[], Iterable[str]]) -> Complete:
    """Return what completes the last of several names between commas, each given once."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        return [f"{before}{comma}{name}" for name in names() if name.startswith(last) and name not in given]

    return complete


def methods() -> list[str]:
    from tdbench.regularizers.registry import method_names

    return list(method_names())


def models() -> list[str]:
    from tdbench.config.networks import NETWORKS

    return list(NETWORKS)


def data_sets() -> list[str]:
    from tdbench.config.data_sets import DATA_SETS

    return list(DATA_SETS)


def loggers() -> list[str]:
    from tdbench.store.loggers import LOGGERS

    return list(LOGGERS)


def metrics() -> list[str]:
    from tdbench.store.rows import MORE_IS_BETTER

    return list(MORE_IS_BETTER)


def executors() -> tuple[str, ...]:
    from tdbench.sweep.execution import EXECUTORS

    return EXECUTORS


def precisions() -> tuple[str, ...]:
    from tdbench.config import HardwareConfig

    return get_args(HardwareConfig.model_fields["precision"].annotation)


def experiments(incomplete: str) -> list[str]:
    """Complete an experiment: one that comes with tdbench, or a YAML file here."""
    from tdbench.sweep.ready import ready_experiments

    ready = [f"ablations/{path.name}" for path in ready_experiments()]
    return [name for name in dict.fromkeys([*yaml_files(incomplete), *ready]) if name.startswith(incomplete)]


def yaml_files(incomplete: str) -> list[str]:
    folder, _, _ = incomplete.rpartition("/")
    with suppress(OSError):
        return sorted(str(path) for path in Path(folder).glob("*.yaml"))
    return []


def tables(incomplete: str) -> list[str]:
    """Complete what `tdbench list` shows."""
    names = ["methods", "knobs", "settings", "models", "data", "experiments", *methods()]
    return [name for name in names if name.startswith(incomplete)]


def setting(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete KEY=VALUE of `--set`."""
    return assignment(keys_for(ctx, whole=has_section(incomplete)), incomplete)


def parameter(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete KEY[=VALUES] of `--param`, whose values may be several."""
    return assignment(keys_for(ctx, flags=True, whole=has_section(incomplete)), incomplete, several=True)


def slurm(incomplete: str) -> list[str]:
    """Complete the last KEY=VALUE of `--slurm`, each key given once."""
    from tdbench.sweep.slurm import CLUSTERS, OPTIONS

    before, comma, last = incomplete.rpartition(",")
    given = [part.partition("=")[0] for part in before.split(",")]
    words = [f"{key}=" for key in OPTIONS] + [f"cluster={name}" for name in CLUSTERS]
    left = [word for word in words if word.partition("=")[0] not in given]
    return [f"{before}{comma}{word}" for word in left if word.startswith(last)]


def has_section(incomplete: str) -> bool:
    """Return whether a key is written with its section, as in `augment.cutout=8`."""
    return "." in incomplete.partition("=")[0]


def assignment(keys: dict[str, "FieldInfo"], incomplete: str, several: bool = False) -> list[str]:
    """Complete a key, or the values of the only one that begins so.

    Args:
        keys: The keys with their declarations.
        incomplete: What is there.
        several: The values may be a list with commas, and may be left out.
    """
    key, equals, value = incomplete.partition("=")
    if not equals:
        found = [name for name in keys if name.startswith(key)]
        if len(found) > 1:
            return found if several else [f"{name}=" for name in found]
        return [f"{name}={value}" for name in found for value in ("", *values_of(name, keys[name]))]
    if key not in keys:
        return []
    complete = listed if several else among
    return [f"{key}={one}" for one in complete(lambda: values_of(key, keys[key]))(value)]


def keys_for(ctx: typer.Context, flags: bool = False, whole: bool = False) -> dict[str, "FieldInfo"]:
    """Return the keys of the methods that the command names, by the shortest names that are understood, or `whole`.

    Without any, they are those of the default method; of all, where a file may name another.

    Args:
        ctx: The command so far.
        flags: A flag's name stands for its key, as in `--param regularizer`.
        whole: Each key with its section.
    """
    from tdbench.config import FLAGS, known_keys
    from tdbench.regularizers.config import RegularizerConfig
    from tdbench.regularizers.registry import find_method

    default = methods() if ctx.params.get("config") else ["targetdrop"]
    named = str(ctx.params.get("regularizer") or "").split(",")
    known = [name for name in named if name in methods()] or ([] if named != [""] else default)
    flag_of = {key: flag for flag, key in FLAGS.items()} if flags else {}
    found: dict[str, FieldInfo] = {}
    classes: list[type[RegularizerConfig]] = [RegularizerConfig, *map(find_method, known)]
    for method in classes:
        keys = known_keys(method)
        parts = [key.rpartition(".")[2] for key in keys]
        for key, field in keys.items():
            part = key.rpartition(".")[2]
            found[key if whole else flag_of.get(key, part if parts.count(part) == 1 else key)] = field
    return found


def values_of(key: str, field: "FieldInfo") -> list[str]:
    """Return values for a key: its choices, or those that are swept, and its default."""
    from tdbench.knobs import about, shown_default

    names = {"data": data_sets, "model": models, "regularizer": methods}
    section = key.removesuffix(".name")
    if section in names and key in (section, f"{section}.name"):
        return list(names[section]())
    if field.annotation is bool or bool in get_args(field.annotation):
        return ["true", "false"]
    if get_origin(field.annotation) is Literal:
        return [str(one) for one in get_args(field.annotation)]
    default = [] if field.is_required() or field.default is None else [shown_default(field)]
    return list(dict.fromkeys(str(one) for one in (*about(field).get("sweep", ()), *default)))


@contextmanager
def words_whole() -> Iterator[None]:
    """Let words with `=` or `:` be whole where bash asks, which splits them there; it is answered with their ends."""
    variable, asked = BASH
    if os.environ.get(variable) != asked:
        yield
        return
    given = os.environ.get("COMP_WORDS", "").split("\n")
    words, current, typed = rejoined(given, int(os.environ.get("COMP_CWORD", len(given) - 1)))
    os.environ |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(current)}
    answer = io.StringIO()
    try:
        with redirect_stdout(answer):
            yield
    finally:
        print("\n".join(line.removeprefix(typed) for line in answer.getvalue().splitlines()))


def rejoined(given: list[str], current: int) -> tuple[list[str], int, str]:
    """Return the words of a command line as they were typed, which of them is to be completed, and its fixed part.

    Args:
        given: The words as bash splits them: `block_size`, `=`, `3`.
        current: Which of these is to be completed; it may be one past the last.
    """
    words: list[str] = []
    place, fixed, was_break = 0, "", False
    for number, word in enumerate([*given, ""][: max(len(given), current + 1)]):
        is_break = bool(re.fullmatch(f"[{BREAKS}]+", word))
        before = words.pop() if words and (was_break or is_break) else ""
        words.append(before + word)
        if number == current:
            place, fixed = len(words) - 1, before + word if is_break else before
        was_break = is_break
    return words, place, re.sub("^--[a-z-]+=", "", fixed)  # what completes --set=KEY knows nothing of --set
