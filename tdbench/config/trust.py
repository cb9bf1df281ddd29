"""Whose code may run: what the command line, or a call from Python, names; what a file names, only where it is trusted.

A configuration may come from anybody, and so may a run or a sweep folder: to read it must not run code.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from tdbench.errors import ConfigError
from tdbench.user_code import absolute, is_user_code, runs_here

PROSE = ("title", "published_source")  # of an experiment; their text is for people, and nothing reads them

_trusted: ContextVar[tuple[bool, frozenset[str]]] = ContextVar("trusted", default=(False, frozenset()))


@contextmanager
def trusting(named: Any, everything: bool = False) -> Iterator[None]:
    """Let code run that is named in some values, or all code, for as long as this lasts.

    Args:
        named: What a user gave, be it text or nested in tables and lists.
        everything: Whatever files name may run too.
    """
    all_before, before = _trusted.get()
    token = _trusted.set((all_before or everything, before | {absolute(name) for name in code_names(named)}))
    try:
        yield
    finally:
        _trusted.reset(token)


def code_names(value: Any) -> Iterator[str]:
    """Yield each `file.py:NAME` in a value, at any depth; in text also as parts of A,B and KEY=A."""
    if isinstance(value, str):
        yield from filter(is_user_code, {value, *(part.strip() for part in re.split("[,=]", value))})
    elif isinstance(value, bytes):
        yield from code_names(value.decode(errors="replace"))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from code_names(item)
    elif isinstance(value, Iterable):
        for item in value:
            yield from code_names(item)


def check_trusted(tree: Mapping[str, Any], path: Path) -> None:
    """Check that all code that a file names may run.

    Raises:
        ConfigError: It has not been named by the user.
    """
    everything, named = _trusted.get()
    if tree.get("command") and not everything:
        raise ConfigError(
            f"{path} names a command, {tree['command']!r}, which runs only where you trust the file: --trust "
            "(trust=True in Python)"
        )
    names = [] if everything else code_names({key: tree[key] for key in tree if key not in PROSE})
    foreign = [name for name in names if absolute(name) not in named and not runs_here(name)]
    if foreign:
        raise ConfigError(
            f"{path} names code, {foreign[0]}, which runs only where you name it too, or trust the file: --trust "
            "(trust=True in Python)"
        )
