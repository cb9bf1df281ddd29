"""What can go wrong, as types: each message names the field, the rule, the value, and what to do."""

import errno
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any
from unicodedata import category

NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
MOST_LISTED = 30
LONGEST_LINE = 1000


class TdbenchError(Exception):
    """An error the user can act on; the command line prints it in one message and exits with `exit_code`."""

    exit_code = 1


class Note(UserWarning):
    """Something the user may want to know and can go on without; the command line prints it in one line."""


@contextmanager
def notes_in_one_line() -> Iterator[None]:
    """Print our own notes without the place in our code that they come from; other warnings stay as they are."""
    as_before = warnings.formatwarning

    def formatted(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, Note):
            return plain(f"tdbench: note: {message}") + "\n"
        return as_before(message, category, filename, lineno, line)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = as_before


class ConfigError(TdbenchError):
    """A key or value of the configuration is unknown, of the wrong type, or out of range."""

    exit_code = 2


class UnknownKey(ConfigError):
    """No key has this name.

    Attributes:
        key: As it was given.
        guess: `; did you mean X?` for the nearest known key, or an empty string.
        owners: The methods that have such a knob, none of which is the one that is configured.
    """

    def __init__(self, key: str, guess: str = "", owners: Sequence[str] = ()) -> None:
        self.key, self.guess, self.owners = key, guess, tuple(owners)
        super().__init__(key, guess, self.owners)

    @property
    def reason(self) -> str:
        """What is wrong, without advice."""
        if self.owners:
            return f"unknown key {self.key!r}: it is a knob of {', '.join(self.owners)}, and the regularizer is another"
        return f"unknown key {self.key!r}{self.guess}"

    def __str__(self) -> str:
        return self.reason if self.owners else f"{self.reason} (`tdbench list` shows a method's keys)"


class DataError(TdbenchError):
    """A data set is missing, incomplete, corrupt or unsuitable."""

    exit_code = 2


class DeviceError(TdbenchError):
    """The requested device or precision does not exist on this machine."""

    exit_code = 2


class FolderError(TdbenchError):
    """An output folder cannot be used: not writable, in use, or holding something else."""

    exit_code = 2


class InUse(FolderError):
    """Another process is at work in the folder."""


class WriteError(FolderError):
    """A file cannot be written, for want of room or permission; nothing is wrong with what was to be written."""


class Interrupted(TdbenchError):
    """The user or the system asked the run to stop; it is saved and can be resumed."""

    exit_code = 130


class Damaged(FolderError):
    """What a run has saved is not what it wrote, so that the run can only start over."""


class RunFailed(TdbenchError):
    """A run ended by an error that is not the user's to foresee; what was saved before is intact.

    Attributes:
        reason: What went wrong, in a line, as `result.json` holds it.
        where: When, such as `in epoch 3`.
        is_own_code: The run has code of the user's in it, where the cause may lie.
    """

    def __init__(self, reason: str, where: str = "", is_own_code: bool = False) -> None:
        self.reason, self.where, self.is_own_code = reason, where, is_own_code
        super().__init__(reason, where, is_own_code)

    def __str__(self) -> str:
        again = "the same command tries again"
        if self.is_own_code:
            again += ", and --fresh or another --out once you have changed your code"
        return f"the run failed{self.where and f' {self.where}'}: {self.reason}; {again}"


class OutOfRange(ValueError):
    """A value breaks a rule; raised where a field is declared, which need not know its own key.

    Attributes:
        rule: What it must be: `odd and at least 1`.
        got: The value.
        known: Names, of which the nearest one is told.
    """

    def __init__(self, rule: str, got: Any, known: Sequence[str] = ()) -> None:
        self.rule, self.got, self.known = rule, got, tuple(known)
        super().__init__(rule, got, self.known)

    def __str__(self) -> str:
        got = str(self.got).lower() if isinstance(self.got, bool) else repr(self.got)
        return f"must be {self.rule}, got {got}{nearest(str(self.got), self.known)}"


def is_full_disk(error: BaseException | None) -> bool:
    """Return whether an exception, or what it was raised from, says that a disk takes no more.

    To our own writing that is also a disk that has become read-only or fails; other code may have reasons of its own.
    """
    numbers = NO_ROOM
    while error is not None:
        if isinstance(error, WriteError):
            numbers = NO_ROOM | {errno.EROFS, errno.EIO}
        if isinstance(error, OSError) and error.errno in numbers:
            return True
        error = error.__cause__
    return False


def line_of(error: BaseException, *, with_type: bool = True) -> str:
    """Return any exception in one line.

    Args:
        error: Of ours, the first line of its message; of others, the type and the first line.
        with_type: False, where the sentence around it says what failed: the system's words for an OSError, or the last
            line, where libraries put the cause.
    """
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if isinstance(error, TdbenchError) and lines:
        return lines[0]
    if not with_type:
        return getattr(error, "strerror", None) or (lines[-1] if lines else type(error).__name__)
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def plain(text: str) -> str:
    """Return a text without what a terminal would obey: control characters other than line ends become escapes."""
    return "".join(one if one == "\n" or category(one)[0] != "C" else repr(one)[1:-1] for one in text)


def clipped(text: str, most: int = LONGEST_LINE) -> str:
    """Return a text whose lines have at most so many characters; a longer one loses its middle."""
    half = (most - 5) // 2
    return "\n".join(line if len(line) <= most else f"{line[:half]} ... {line[-half:]}" for line in text.split("\n"))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean X?"` for the known name closest to `name`, or an empty string.

    One of which `name` is the first word or words is closest: `ema` is meant for `ema_decay`.
    """
    names = list(known)
    begun = [one for one in names if name and one.lower().startswith(f"{name.lower()}_")]
    close = sorted(begun, key=len) or get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return a message for an unknown `name`: the nearest known one, and all of them unless they are very many."""
    known = list(known)
    shown = ", ".join(known[:MOST_LISTED]) + (f" and {len(known) - MOST_LISTED} more" * (len(known) > MOST_LISTED))
    return f"unknown {what} {name!r}{nearest(name, known)} (known: {shown})"
