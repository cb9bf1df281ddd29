"""What can go wrong, as types: each message names the field, the rule, the value, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches

MOST_LISTED = 30


class TdbenchError(Exception):
    """An error the user can act on; the command line prints it in one message and exits with `exit_code`."""

    exit_code = 1


class ConfigError(TdbenchError):
    """A key or value of the configuration is unknown, of the wrong type, or out of range."""

    exit_code = 2


class DataError(TdbenchError):
    """A data set is missing, incomplete, corrupt or unsuitable."""

    exit_code = 2


class DeviceError(TdbenchError):
    """The requested device or precision does not exist on this machine."""

    exit_code = 2


class FolderError(TdbenchError):
    """An output folder cannot be used: not writable, in use, or holding something else."""

    exit_code = 2


class Interrupted(TdbenchError):
    """The user or the system asked the run to stop; it is saved and can be resumed."""

    exit_code = 130


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean X?"` for the known name closest to `name`, or an empty string."""
    close = get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return a message for an unknown `name`: the nearest known one, and all of them unless they are very many."""
    known = list(known)
    shown = ", ".join(known[:MOST_LISTED]) + (f" and {len(known) - MOST_LISTED} more" * (len(known) > MOST_LISTED))
    return f"unknown {what} {name!r}{nearest(name, known)} (known: {shown})"
