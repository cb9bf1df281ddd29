"""How files are written, whole or not at all; how a folder is held; and the forms of what is written."""

import csv
import errno
import io
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from tdbench.errors import FolderError, InUse, WriteError, plain

LOCK = ".lock"
_NUMBER = re.compile(r"[-+]?[\d.]+([eE][-+]?\d+)?")
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


def open_file(path: Path | str) -> io.BufferedReader:
    """Open a file to read it; what lies there may be a stranger's, and a pipe or a device would never end.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is a pipe or a device, no file", str(path))
    return file


def read_file(path: Path | str) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    with open_file(path) as file:
        return file.read()


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a reader, or a power cut, meets the old content or the new, never a part.

    Raises:
        WriteError: The file cannot be written; the old content is untouched.
    """
    with writing_whole(path) as file:
        file.write(content)


@contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write it piece by piece, as `write_atomically` does at once; an error leaves it as it was.

    Raises:
        WriteError: The file cannot be written; the old content is untouched.
    """
    unfinished = temporary(path)
    try:
        with open_new(unfinished) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise WriteError(f"cannot write {path}: {reason}; what was there before is intact") from error
        raise


def write_if_new(path: Path, content: bytes) -> bool:
    """Write a file unless it holds that already; return whether it was written."""
    if path.is_file() and read_file(path) == content:
        return False
    write_atomically(path, content)
    return True


def temporary(path: Path) -> Path:
    """Return where the next content of a file is written until it is whole: a name that nobody can foresee."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def open_new(path: Path) -> BinaryIO:
    """Open a file that does not exist yet for writing; a link that lies there is not followed.

    Raises:
        OSError: Something of that name exists, or the folder cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def remove_unfinished(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder, which this process holds."""
    for path in folder.glob(".*.tmp"):
        if _UNFINISHED.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system lets a folder be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def held(folder: Path, patience_s: float = 0) -> Iterator[None]:
    """Make a folder and hold it for this process; the system lets go of it when the process dies.

    Args:
        folder: Where the results go.
        patience_s: How long to wait for another process that holds it.

    Raises:
        FolderError: It is a file, cannot be written, or another process holds it.
    """
    from filelock import FileLock, Timeout  # what refuses or only looks needs no lock

    lock = FileLock(folder / LOCK, timeout=patience_s)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (FileExistsError, NotADirectoryError):
        raise no_folder(folder) from None
    except Timeout:
        raise InUse(f"{folder} is in use by another process; wait for it or take another --out") from None
    except OSError as error:
        raise WriteError(f"cannot write to {folder}: {error.strerror or error}; take another --out") from error
    try:
        yield
    finally:
        lock.release()


def cache_folder() -> Path:
    """Return the folder of what tdbench keeps for the user, and can do without."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "tdbench"


def folder_given(out: Any) -> Path:
    """Return the path that `out` means.

    Raises:
        FolderError: It is no path.
    """
    try:
        return Path(out)
    except TypeError:
        raise FolderError(f"out must be the path of a folder, got {out!r}") from None


def make_folder(path: Path) -> None:
    """Make the folder of `--out` for files of its own.

    Raises:
        FolderError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"--out {path} must be a folder that can be written: {error.strerror}") from error


def no_folder(path: Path) -> FolderError:
    """Return the error of an `--out` that cannot be a folder."""
    return FolderError(f"--out {path} must be a folder, and is a file or lies under one")


def read_tree(path: Path) -> dict[str, Any] | None:
    """Return the mapping in a YAML file that tdbench wrote, or None where there is none.

    Raises:
        FolderError: The file is not one that tdbench wrote.
    """
    try:
        tree = yaml.safe_load(read_file(path))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise no_folder(path.parent) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise FolderError(f"{path} cannot be read; delete it, or take another --out") from error
    if not isinstance(tree, dict):
        raise FolderError(f"{path} is not one that tdbench wrote; take another --out")
    return tree


def to_yaml(tree: Mapping[str, Any]) -> str:
    """Return a mapping as YAML, its keys in their order."""
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)


def to_json(value: Mapping[str, Any]) -> str:
    """Return strict JSON, one field a line; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as CSV, with these columns in this order.

    A text that a spreadsheet would take for a formula gets an apostrophe in front, as spreadsheets themselves write it;
    control characters become escapes.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    is_formula = value.startswith(("=", "+", "-", "@")) and not _NUMBER.fullmatch(value)
    return plain(f"'{value}" if is_formula else value)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 seed`, `3 seeds`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def as_text(value: Any) -> str:
    """Return a value of the configuration as flags and files write it: `0.15`, `true`, `null`, `stage1+stage2`."""
    if isinstance(value, (list, tuple)):
        return "+".join(map(as_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"  # steps of 0.05 give 0.15000000000000002
    return "null" if value is None else str(value)
