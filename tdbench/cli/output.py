"""What a command prints: apart from `terminal`, which costs a tenth of a second to import.

The work is worth more than its words: where they cannot be written, because a stream is closed, its reader has gone or
its disk is full, the command falls silent and goes on. What the user's own code prints goes to stderr, so that a table
or JSON on stdout is ours alone.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO

from tdbench.errors import plain

_stdout: TextIO | None = None  # ours, while sys.stdout is the user's


def stdout() -> TextIO:
    """Return where the command's own words go."""
    return sys.stdout if _stdout is None else _stdout


def say(text: str) -> None:
    """Print a line on stdout."""
    print(plain(text), file=stdout(), flush=True)


@contextmanager
def stdout_for_ourselves() -> Iterator[None]:
    """Let what others print to `sys.stdout` go to stderr."""
    global _stdout
    before, _stdout = _stdout, stdout()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout = before


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Let no failure of stdout or stderr end the work."""
    for number in range(3):  # a number that is closed would be given to the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Lasting(stream or io.StringIO()) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


class _Lasting:
    """A text stream that falls silent where writing fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks × should show ?, not end the run
            stream.reconfigure(errors="replace")

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self._fall_silent()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._fall_silent()

    def _fall_silent(self) -> None:
        with suppress(OSError, ValueError):  # what is left in its buffer goes nowhere too
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
