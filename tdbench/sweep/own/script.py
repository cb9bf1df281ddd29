"""A user's script as a trial: its command with the places that are filled in, and where it leaves its figures."""

import csv
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdbench.errors import ConfigError, nearest
from tdbench.store.files import as_text, open_file

_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z_][\w.-]*)\}")  # a doubled brace is a brace; others mean themselves
SEED, OUT = "seed", "out"
STDOUT, STDOUT_FILE, OUT_FOLDER = "stdout", "stdout.txt", "out"
LONGEST_TAIL, LARGEST = 300, 1e100  # a larger figure is a slip, and its square would be infinite


class NoFigure(Exception):
    """A script has not left a figure where it was to."""


def words_of(command: str) -> tuple[str, ...]:
    """Return the words of a command, split by the rules of a shell, which does not run it.

    Raises:
        ConfigError: A quotation mark is not closed, or there is no word.
    """
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise ConfigError(f"--command cannot be split into words: {error}; got {command!r}") from None
    if not words:
        raise ConfigError("--command must be a script with its arguments, got nothing")
    return words


def places_in(words: Sequence[str]) -> list[str]:
    """Return the names of the places that are to be filled in, each once."""
    return list(dict.fromkeys(found[1] for word in words for found in _PLACE.finditer(word) if found[1]))


def check_places(words: Sequence[str], keys: Sequence[str]) -> None:
    """Check that every place is filled, and that every key and the seed has a place.

    Raises:
        ConfigError: One is not.
    """
    places, known = places_in(words), [*keys, SEED, OUT]
    for place in places:
        if place not in known:
            filled = ", ".join(f"{{{name}}}" for name in known)
            raise ConfigError(f"--command: nothing fills {{{place}}}{nearest(place, known)} (there is {filled})")
    if SEED not in places:
        raise ConfigError("--command must have {seed} in it: every value runs with several seeds, and must heed them")
    if unused := [key for key in keys if key not in places]:
        raise ConfigError(f"--command must have {{{unused[0]}}} in it, or --param {unused[0]} would change nothing")


def filled(words: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Return the words of a command with values in their places."""

    def text(found: re.Match[str]) -> str:
        return found[0][0] if found[1] is None else as_text(values[found[1]])

    return [_PLACE.sub(text, word) for word in words]


@dataclass(frozen=True)
class Read:
    """Where a script leaves a figure.

    Attributes:
        text: As the user wrote it.
        source: `stdout`, or a file below the trial's folder.
        what: The pattern; the key, with dots between those of nested tables; or the column, whose last row counts.
    """

    text: str
    source: str
    what: str

    @property
    def name(self) -> str:
        """What the figure is called: its key; of a pattern, the named group, or the word before the group."""
        if self.source != STDOUT:
            return self.what.rpartition(".")[2]
        if named := re.compile(self.what).groupindex:
            return next(iter(named))
        found = re.match(r"\W*([A-Za-z_]\w*)", self.what)
        return found[1] if found else "value"

    def figure(self, folder: Path) -> float:
        """Return the figure that a script has left.

        Raises:
            NoFigure: It is not there, or is no finite number.
        """
        found = self._in_stdout(folder) if self.source == STDOUT else self._in_file(folder)
        try:
            number = float(found) if not isinstance(found, bool) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not abs(number) <= LARGEST:
            raise NoFigure(f"--read {self.text}: {self.name} must be a finite number, got {str(found)[:80]!r}")
        return number

    def _in_stdout(self, folder: Path) -> Any:
        with open_file(folder / STDOUT_FILE) as file:
            matches = re.findall(self.what, file.read().decode(errors="replace"), re.MULTILINE)
        if not matches:
            raise NoFigure(f"--read {self.text}: nothing that the script printed matches")
        return matches[-1]

    def _in_file(self, folder: Path) -> Any:
        path = folder / self.source
        if not path.resolve().is_relative_to(folder.resolve()):
            raise NoFigure(f"--read {self.text}: {self.source} is a link that leads out of the trial's folder")
        try:
            with open_file(path) as file:
                content = file.read().decode()
            if path.suffix == ".csv":
                rows = list(csv.DictReader(content.splitlines()))
                return (rows or [{}])[-1][self.what]
            value = json.loads(content)
            for key in self.what.split("."):
                value = value[int(key)] if isinstance(value, list) and key.isdigit() else value[key]
        except FileNotFoundError:
            raise NoFigure(f"--read {self.text}: the script left no {self.source} in its trial's folder") from None
        except (KeyError, TypeError, IndexError):
            raise NoFigure(f"--read {self.text}: {self.source} has no {self.what}") from None
        except (OSError, ValueError) as error:
            raise NoFigure(f"--read {self.text}: {self.source} cannot be read: {error}") from None
        return value


def read_of(text: str) -> Read:
    """Return where a figure is, as `stdout:REGEX`, `FILE.json:KEY` or `FILE.csv:COLUMN`.

    Raises:
        ConfigError: It is none of these, or lies outside the trial's folder.
    """
    source, colon, what = text.partition(":")
    if not colon or not source or not what:
        raise ConfigError(f"--read must be FILE.json:KEY, FILE.csv:COLUMN or stdout:REGEX, got {text!r}")
    if source == STDOUT:
        try:
            groups = re.compile(what).groups
        except re.error as error:
            raise ConfigError(f"--read {text}: no regular expression: {error}") from None
        if groups != 1:
            raise ConfigError(f"--read {text}: the pattern must have one group, the figure, got {groups}")
        return Read(text, source, what)
    path = Path(source)
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"--read {text}: the file must lie below the trial's folder, where {{out}} is out/")
    if path.suffix not in (".json", ".csv"):
        raise ConfigError(f"--read {text}: the file must be .json or .csv, got {source!r}")
    return Read(text, source, what)


def tail_of(*logs: Path) -> str:
    """Return the last line that is not empty in the first of some logs that has one."""
    for log in logs:
        try:
            with open_file(log) as file:
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            continue
        for line in reversed(lines):
            if line.strip():
                return line.strip()[-LONGEST_TAIL:]
    return ""
