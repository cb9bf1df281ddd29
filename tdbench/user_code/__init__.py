"""The user's own networks and methods, named `path/to/file.py:NAME`.

The file is imported as a script would be: its folder is on the path, so that it may import its neighbours. What it and
they hold decides what a run gives, so that their contents are part of the run's digest.
"""

import hashlib
import importlib.util
import os
import re
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tdbench.errors import ConfigError, TdbenchError, line_of, unknown
from tdbench.user_code.imports import is_installed, own_files

SETTLED_NS = 2 * 10**9  # a file that changed later than this before it was read may have changed again unnoticed


@dataclass(frozen=True)
class Code:
    """A file of the user's, and what it imports that is the user's too, as they are now.

    Attributes:
        files: Where each lies, by its name as seen from the file's folder; the file itself first.
        parts: 12 hexadecimal digits of the content of each.
        digest: Those of all; where the file imports nothing of the user's, its own.
        texts: The content of each.
    """

    files: Mapping[str, Path]
    parts: Mapping[str, str]
    digest: str
    texts: Mapping[str, bytes]


_looked_at: dict[Path, tuple[Any, Code]] = {}  # with what tells whether a file has changed since
_loaded: dict[Path, Code] = {}  # what this process runs of each file
_theirs: dict[str, ModuleType] = {}  # modules of these files that the user imported before we did
_imported: dict[str, tuple[ModuleType, str]] = {}  # by name: what we imported of the user's, and its content's digest


def is_user_code(name: str) -> bool:
    """Return whether a name means an object in a file of the user's."""
    return re.fullmatch(r".+\.py:\w+", name) is not None


def unnamed_code(name: str) -> str | None:
    """Return what is missing in a name that means a Python file, but nothing in it; None where it means none."""
    path, colon, entry = name.rpartition(":")
    if name.endswith(".py"):
        return f"{name} must name what is meant in the file too: {name}:NAME"
    if colon and entry.isidentifier() and os.path.exists(f"{path}.py"):
        return f"{name} must name the file as it is called: {path}.py:{entry}"
    return None


def absolute(name: str) -> str:
    """Return `file.py:NAME` with the absolute path, so that it means the same from everywhere; other names as is."""
    if not is_user_code(name):
        return name
    path, _, entry = name.rpartition(":")
    return f"{os.path.abspath(expanded(path))}:{entry}"


def expanded(path: str | Path) -> str:
    """Return a path with the folder of a user in place of `~`, or as it is where that can be no user's name."""
    try:
        return os.path.expanduser(str(path))
    except ValueError:  # a null byte in the name
        return str(path)


def short_name(name: str) -> str:
    """Return `file.py:NAME` without the folders; other names as is."""
    return Path(name).name if is_user_code(name) else name


def code_of(name: str) -> Code:
    """Return the code that `file.py:NAME` means, read again where a file of it has changed.

    Raises:
        ConfigError: A file cannot be read.
    """
    path = path_of(name)
    if path in _looked_at:
        stamp, code = _looked_at[path]
        if stamp is not None and stamp == _stamp(code):
            return code
    begun = time.time_ns()
    files = {os.path.relpath(file, path.parent): file for file in own_files(path)}
    texts = {there: read(file) for there, file in files.items()}
    parts = {there: _digest(text) for there, text in texts.items()}
    whole = parts[path.name] if len(parts) == 1 else _digest(repr(sorted(parts.items())).encode())
    code = Code(files, parts, whole, texts)
    stamp = _stamp(code)
    is_settled = stamp is not None and all(changed < begun - SETTLED_NS for _, _, changed in stamp)
    _looked_at[path] = (stamp if is_settled else None, code)
    return code


def _stamp(code: Code) -> list[tuple[int, int, int]] | None:
    """Return what changes with the files of a piece of code; None where one is gone."""
    try:
        return [(at.st_ino, at.st_size, at.st_mtime_ns) for at in map(os.stat, code.files.values())]
    except OSError:
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def load_object(name: str) -> Any:
    """Return the object that `file.py:NAME` means, importing the file where this process has not done so.

    Raises:
        ConfigError: The file is missing, does not import (its own error is given), or lacks the name.
    """
    path, entry, code = path_of(name), name.rpartition(":")[2], code_of(name)
    module_name = f"tdbench_user_{path.stem}_{code.digest}_{_digest(os.fsencode(path))[:6]}"
    if module_name not in sys.modules:
        import_file(path, module_name, code)
        if code_of(name).digest != code.digest:
            del sys.modules[module_name]
            raise ConfigError(f"{path}, or what it imports, has changed while it was being imported; try again")
    module = sys.modules[module_name]
    _loaded[path] = code
    if not hasattr(module, entry):
        own = {key: entry for key, entry in vars(module).items() if getattr(entry, "__module__", None) == module_name}
        public = [key for key, entry in own.items() if callable(entry) and not key.startswith("_")]
        raise ConfigError(f"{path}: {unknown('name', entry, public)}")
    return getattr(module, entry)


def running_code(name: str) -> Code:
    """Return the code of `file.py:NAME` that this process has imported; where it has not, as it lies there now.

    Raises:
        ConfigError: A file cannot be read.
    """
    return _loaded.get(path_of(name)) or code_of(name)


def runs_here(name: str) -> bool:
    """Return whether the file of `file.py:NAME` has been imported in this process already."""
    return path_of(name) in _loaded


def reason_of(error: BaseException) -> str:
    """Return any exception in one line and, where the user's own code raised it, that file and line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if os.path.isfile(frame.filename) and not is_installed(frame.filename)]
    if isinstance(error, TdbenchError) or not own:
        return line_of(error)
    return f"{line_of(error)} ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})"


def import_file(path: Path, module_name: str, code: Code) -> None:
    """Import a file under a name of our own; a failure leaves no half-made module behind."""
    now = {str(file): code.parts[there] for there, file in code.files.items()}
    names = {".".join(Path(there).with_suffix("").parts).removesuffix(".__init__") for there in code.files}
    noted = {name: part for name, (module, part) in _imported.items() if sys.modules.get(name) is module}
    here = {name for name in list(sys.modules) if _file_of(name) in now}
    if path not in _loaded:
        _theirs.update({name: sys.modules[name] for name in here - noted.keys()})
    ours = {name for name in here if _theirs.get(name) is not sys.modules[name]} | (names & noted.keys())
    # What a function has imported since is there with a content that nobody noted.
    if any(noted.get(name) != now.get(_file_of(name)) for name in ours):
        for name in ours:  # those that have not changed may hold on to what has
            del sys.modules[name]
    if str(path.parent) in sys.path:
        sys.path.remove(str(path.parent))
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None, "the name ends in .py"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before, writes_no_bytecode = set(sys.modules), sys.dont_write_bytecode
    sys.modules[module_name] = module
    try:
        sys.dont_write_bytecode = True  # which Python would take for that of a file edited within the second
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise ConfigError(f"{path} does not import: {reason_of(error)}") from error
    finally:
        sys.dont_write_bytecode = writes_no_bytecode
    new = {name: _file_of(name) for name in set(sys.modules) - before}
    _imported.update({name: (sys.modules[name], now[file]) for name, file in new.items() if file in now})


def _file_of(module: str) -> str:
    return str(getattr(sys.modules[module], "__file__", None))


def path_of(name: str) -> Path:
    """Return the file of `file.py:NAME`."""
    return Path(absolute(name).rpartition(":")[0])


def read(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise ConfigError(f"{path} must be a file of Python code")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {line_of(error, with_type=False)}") from error
