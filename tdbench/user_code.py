"""The user's own networks and methods, named `path/to/file.py:NAME`.

The file is imported as a script would be: its folder is on the path, so that it may import its neighbours. What it
holds decides what a run gives, so that its content is part of the run's digest; that of its neighbours is not.
"""

import hashlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

from tdbench.errors import ConfigError, line_of, unknown


def is_user_code(name: str) -> bool:
    """Return whether a name means an object in a file of the user's."""
    return re.fullmatch(r".+\.py:\w+", name) is not None


def absolute(name: str) -> str:
    """Return `file.py:NAME` with the absolute path, so that it means the same from everywhere; other names as is."""
    if not is_user_code(name):
        return name
    path, _, entry = name.rpartition(":")
    return f"{os.path.abspath(os.path.expanduser(path))}:{entry}"


def short_name(name: str) -> str:
    """Return `file.py:NAME` without the folders; other names as is."""
    return Path(name).name if is_user_code(name) else name


def file_digest(name: str) -> str:
    """Return 12 hexadecimal digits of the file's content.

    Raises:
        ConfigError: The file cannot be read.
    """
    return hashlib.sha256(read(path_of(name))).hexdigest()[:12]


def load_object(name: str) -> Any:
    """Return the object that `file.py:NAME` means, importing the file where this process has not done so.

    Raises:
        ConfigError: The file is missing, does not import (its own error is given), or lacks the name.
    """
    path, entry = path_of(name), name.rpartition(":")[2]
    module_name = f"tdbench_user_{path.stem}_{file_digest(name)}"
    if module_name not in sys.modules:
        import_file(path, module_name)
    module = sys.modules[module_name]
    if not hasattr(module, entry):
        public = [key for key, entry in vars(module).items() if callable(entry) and not key.startswith("_")]
        raise ConfigError(f"{path}: {unknown('name', entry, public)}")
    return getattr(module, entry)


def import_file(path: Path, module_name: str) -> None:
    """Import a file under a name of our own; a failure leaves no half-made module behind."""
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None, "the name ends in .py"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise ConfigError(f"{path} does not import: {line_of(error)}") from error


def path_of(name: str) -> Path:
    """Return the file of `file.py:NAME`."""
    return Path(absolute(name).rpartition(":")[0])


def read(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
