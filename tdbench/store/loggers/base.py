"""What a logger is told, and the id under which it knows a run or a sweep again."""

import json
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdbench.errors import FolderError
from tdbench.store.files import read_file, to_json, write_atomically
from tdbench.store.folders import LOGGED
from tdbench.store.rows import EpochRow, RunResult, SummaryRow

PROJECT = "tdbench"  # unless the user's surroundings name another
LONGEST_NAME = 80  # in an id
PATIENCE_S = 60.0  # for a logger that does not answer, at the end of a run and at both ends of a sweep


@dataclass(frozen=True)
class LoggedRun:
    """A run as loggers know it.

    Attributes:
        id: Its own, the same when it is resumed.
        name: For people.
        folder: Its run folder.
        settings: Dotted key to value, as plain data.
        step: Training steps that were done before.
        group: The id of the sweep that it is a trial of.
    """

    id: str
    name: str
    folder: Path
    settings: Mapping[str, Any]
    step: int
    group: str | None


@dataclass(frozen=True)
class LoggedSweep:
    """A sweep, or a search, as loggers know it.

    Attributes:
        id: Its own, the same when it is resumed, and the name of the group of its trials.
        folder: Its sweep folder.
        keys: What is varied.
    """

    id: str
    folder: Path
    keys: tuple[str, ...]


class Logger(ABC):
    """Takes a run down, or the verdicts of a sweep. It may raise what it likes, and take its time: see `guarded`."""

    @abstractmethod
    def start_run(self, run: LoggedRun) -> None:
        """Begin a run, or go on with it."""

    @abstractmethod
    def log_epoch(self, row: EpochRow) -> None:
        """Take down a row of `metrics.csv`."""

    @abstractmethod
    def end_run(self, result: RunResult) -> None:
        """Take down what `result.json` holds; with `status` waiting the run was stopped, and goes on another time."""

    @abstractmethod
    def start_sweep(self, sweep: LoggedSweep) -> None:
        """Make ready for the trials of a sweep."""

    @abstractmethod
    def end_sweep(self, sweep: LoggedSweep, summary: Sequence[SummaryRow]) -> None:
        """Take down the rows of `summary.csv`; none: it has no verdicts, or not yet."""


def figures_of(row: EpochRow | RunResult | SummaryRow) -> dict[str, float]:
    """Return the numbers in a row, by column."""
    cells = row.cells() if isinstance(row, SummaryRow) else vars(row)
    return {name: value for name, value in cells.items() if isinstance(value, (int, float))}


def point_name(row: SummaryRow) -> str:
    """Return the point of a sweep that a row is about, in words."""
    return ", ".join(f"{key}={value}" for key, value in row.values.items())


def kept_id(folder: Path, name: str, *, fresh: bool = False) -> str:
    """Return the id of a run or a sweep: the one that its folder keeps, else a new one that begins with `name`.

    It is not the digest alone, which two folders may share, and which stays where a run is started over.
    """
    if not fresh:
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(read_file(folder / LOGGED))["id"])
    new = f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)[:LONGEST_NAME]}-{secrets.token_hex(4)}"
    with suppress(FolderError):  # the run comes first
        write_atomically(folder / LOGGED, to_json({"id": new}).encode())
    return new
