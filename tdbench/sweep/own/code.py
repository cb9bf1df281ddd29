"""What a user's script or function holds, as digits that change with it: a changed one is another sweep."""

import functools
import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import Any

from tdbench.user_code import code_of

PLAIN = (bool, int, float, str, bytes, tuple, list, dict, set, frozenset, type(None))
CODE = {
    ".py",
    ".sh",
    ".bash",
    ".jl",
    ".r",
    ".lua",
    ".pl",
    ".rb",
    ".m",
    ".yaml",
    ".yml",
    ".json",
    ".toml",
    ".cfg",
    ".ini",
}
LARGEST_CODE = 2**20  # bytes; a word of the command that names a larger file names data
Function = Callable[..., Any]


def source_digest(function: Function) -> str:
    """Return 12 hexadecimal digits of a function: its code, and the functions and plain values of its module in it."""
    return hashlib.sha256("\n".join(told_of(function, set())).encode()).hexdigest()[:12]


def told_of(value: Any, seen: set[int]) -> Iterator[str]:
    """Yield what there is to tell of a function and of what it refers to: functions of its module, plain values."""
    value = inspect.unwrap(value) if callable(value) else value
    code = getattr(getattr(value, "__func__", value), "__code__", None)
    if isinstance(value, PLAIN):
        yield plain(value)
        return
    if code is None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, functools.partial):
            for part in (value.func, *value.args, *(one for pair in value.keywords.items() for one in pair)):
                yield from told_of(part, seen)
        elif callable(value) and not isinstance(value, type):
            yield from told_of(type(value).__call__, seen)
            for name, part in sorted(getattr(value, "__dict__", {}).items()):
                yield from [name, *told_of(part, seen)]
        return
    if inspect.ismethod(value):
        yield from told_of(value.__self__, seen)
    if id(code) in seen:
        return
    seen.add(id(code))
    yield from told_of_code(code)
    for cell in getattr(value, "__closure__", None) or ():
        with suppress(ValueError):  # an empty one
            yield from told_of(cell.cell_contents, seen)
    for default in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
        yield from told_of(default, seen)
    there = getattr(value, "__globals__", {})
    for name in names_in(code):
        other = there.get(name)
        if isinstance(other, PLAIN) or getattr(other, "__module__", None) == value.__module__:
            yield from [name, *told_of(other, seen)]


def told_of_code(code: CodeType) -> Iterator[str]:
    """Yield what code does, that of the functions within it too."""
    yield from (repr(code.co_code), repr(code.co_names))
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from told_of_code(one)
        else:
            yield plain(one)


def plain(value: Any) -> str:
    """Return a value in words that are the same in every process; of what is no plain value, its type."""
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(plain, value)))}}}"
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(f'{plain(key)}: {plain(one)}' for key, one in value.items()))}}}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(plain, value))})"
    return repr(value) if isinstance(value, PLAIN) else type(value).__qualname__


def names_in(code: CodeType) -> Iterator[str]:
    """Yield the names that code refers to, that of the functions within it too."""
    yield from code.co_names
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from names_in(one)


def modules_in(words: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield the files below a folder that `-m MODULE` and `--config=FILE` mean in a command."""
    yield from (word.partition("=")[2] for word in words if "=" in word)
    for flag, module in itertools.pairwise(words):
        if flag == "-m":
            path = Path(*module.split("."))
            for name in (path.with_suffix(".py"), path / "__main__.py"):
                if (folder / name).is_file():
                    yield str(name)


def code_digest(path: Path) -> str | None:
    """Return 12 hexadecimal digits of a file of code with what it imports of the user's; None: it is no such file."""
    try:
        if path.suffix.lower() not in CODE or not path.is_file() or path.stat().st_size > LARGEST_CODE:
            return None
        if path.suffix == ".py":
            return code_of(f"{path}:script").digest
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError:
        return None
