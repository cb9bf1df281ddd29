"""What a report is made from: the folders of sweeps, searches and runs, as their tables say it, finished or not."""

import csv
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tdbench import __version__
from tdbench.errors import FolderError
from tdbench.store.files import open_file, read_tree
from tdbench.store.folders import (
    CONFIG,
    ENVIRONMENT,
    METRICS,
    SUMMARY_TABLE,
    SWEEP,
    TRIALS_TABLE,
    TUNE,
    Predictions,
    RunFolder,
    SweepFolder,
)
from tdbench.store.rows import SummaryRow, columns

Row = Mapping[str, str]
BASELINES = ("baseline", "no baseline")


@dataclass(frozen=True)
class SweepSource:
    """A sweep, from its tables.

    Attributes:
        path: Its folder.
        experiment: What was swept, as `sweep.yaml` holds it.
        summary: The rows of `summary.csv`.
        trials: The rows of `trials.csv`.
        keys: The swept keys.
    """

    path: Path
    experiment: Mapping[str, Any]
    summary: list[Row]
    trials: list[Row]
    keys: list[str]

    @property
    def name(self) -> str:
        """What the sweep is called: its title, or its folder."""
        return str(self.experiment.get("title") or self.path.name)

    @property
    def metric(self) -> str:
        """What the verdicts are about."""
        return self.summary[0].get("metric") or "test_error_pct" if self.summary else "test_error_pct"

    @property
    def unit(self) -> str:
        """What a difference of the metric is counted in."""
        return "points" if "_pct" in self.metric else self.metric

    @property
    def design(self) -> str:
        """How seeds were looked at."""
        return self.summary[0].get("design") or "fixed" if self.summary else "fixed"

    @property
    def compared(self) -> list[Row]:
        """The rows that are compared with a baseline."""
        return [row for row in self.summary if row["verdict"] not in BASELINES]

    def label(self, row: Row) -> str:
        """Return the value of a row of either table, in words."""
        values = [row[key] for key in self.keys]
        return values[0] if len(set(values)) == 1 else " · ".join(values)

    def baseline_of(self, row: Row) -> Row | None:
        """Return the row that another one is compared with: the baseline that has most values in common with it."""
        baselines = [one for one in self.summary if one["verdict"] == "baseline"]
        return max(baselines, key=lambda one: sum(one[key] == row[key] for key in self.keys), default=None)

    def by_seed(self, row: Row, name: str) -> dict[int, float]:
        """Return seed to a figure of the finished trials of a row."""
        label = self.label(row)
        figures = {int(one["seed"]): number(one.get(name)) for one in self.trials if self.label(one) == label}
        return {seed: figure for seed, figure in figures.items() if not math.isnan(figure)}

    def pairs(self, row: Row, name: str | None = None) -> dict[int, float]:
        """Return seed to the difference of a figure from the baseline's, of the seeds that count."""
        name = self.column if name is None else name
        baseline = self.baseline_of(row)
        ours, theirs = self.by_seed(row, name), {} if baseline is None else self.by_seed(baseline, name)
        shared = [seed for seed in ours if seed in theirs][: int(row["n"] or 0)]
        return {seed: ours[seed] - theirs[seed] for seed in shared}

    @property
    def column(self) -> str:
        """The column of `trials.csv` with the metric."""
        return self.metric if not self.trials or self.metric in self.trials[0] else f"metric.{self.metric}"

    def run(self, trial: Row) -> "RunSource":
        """Return the run of a trial, of whose folder files may be missing."""
        return RunSource(SweepFolder(self.path).trial(trial["trial"]).path)


@dataclass(frozen=True)
class RunSource:
    """A run, from its folder."""

    path: Path

    @cached_property
    def metrics(self) -> list[Row]:
        """The rows of `metrics.csv`; none where it is not there."""
        with suppress(FolderError):
            return read_rows(self.path / METRICS)
        return []

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What it ran on; empty where that is not known."""
        return RunFolder(self.path).read_environment() if (self.path / ENVIRONMENT).exists() else {}

    @cached_property
    def predictions(self) -> Predictions | None:
        """The outcome of each test image; None where that is not known."""
        return RunFolder(self.path).read_predictions()


@dataclass(frozen=True)
class Sources:
    """All that a report is about.

    Attributes:
        sweeps: Sweeps, the confirmations of searches among them.
        runs: Single runs.
        searches: The folders of searches.
        notes: What is to be known of them, in lines.
    """

    sweeps: list[SweepSource] = field(default_factory=list)
    runs: list[RunSource] = field(default_factory=list)
    searches: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_sources(paths: list[Path]) -> Sources:
    """Read the folders that a report is about.

    Raises:
        FolderError: One is no folder of tdbench's, or its tables cannot be read.
    """
    found = Sources()
    for path in paths:
        if (path / TUNE).exists():
            found.searches.append(path)
            if (path / "confirm" / SUMMARY_TABLE).exists():
                found.sweeps.append(read_sweep(path / "confirm", found.notes))
        elif (path / SWEEP).exists():
            found.sweeps.append(read_sweep(path, found.notes))
        elif (path / CONFIG).exists():
            found.runs.append(RunSource(path))
        else:
            raise FolderError(f"{path} holds no sweep, no search and no run of tdbench")
    return found


def read_sweep(path: Path, notes: list[str]) -> SweepSource:
    """Read a sweep; what is odd about it goes into the notes.

    Raises:
        FolderError: A table is missing or is not a sweep's.
    """
    experiment = read_tree(path / SWEEP) or {}
    summary, trials = read_rows(path / SUMMARY_TABLE), read_rows(path / TRIALS_TABLE)
    header = [*summary[0]] if summary else []
    if "n" not in header or "verdict" not in header:
        raise FolderError(f"{path / SUMMARY_TABLE} is not the table of a sweep: it lacks n or verdict")
    keys = header[: header.index("n")]
    if lacking := [name for name in columns(SummaryRow) if name not in header]:
        notes.append(f"{path} was written by another release than {__version__}: it lacks {', '.join(lacking[:4])}")
    for number_of_row, row in enumerate(summary, 2):
        for name in ("n", "delta_vs_baseline", "test_error_pct_mean"):
            if row.get(name) and math.isnan(number(row[name])):
                raise FolderError(f"{path / SUMMARY_TABLE}, line {number_of_row}: {name} is no number: {row[name]!r}")
    return SweepSource(path, experiment, summary, trials, keys)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a table.

    Raises:
        FolderError: It is missing, or cut short.
    """
    try:
        with open_file(path) as file:
            reader = csv.DictReader(file.read().decode("utf-8").splitlines())
            rows: list[Row] = list(reader)
    except FileNotFoundError:
        raise FolderError(f"{path} is missing: no table has been written there yet") from None
    except (OSError, ValueError, csv.Error) as error:
        raise FolderError(f"{path} cannot be read: {error}") from error
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise FolderError(f"{path}, line {line}: it has more or fewer cells than the header")
    return rows


def number(text: str | None) -> float:
    """Return a figure of a table; NaN where there is none."""
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan
