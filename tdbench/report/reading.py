"""What a report is made from: the folders of sweeps, searches, runs and profiles, as their tables say it."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tdbench.errors import FolderError, nearest
from tdbench.report.rows import Row, check_numbers, number, read_rows, some_of
from tdbench.store.files import read_tree
from tdbench.store.folders import (
    CONFIG,
    CONFIRM,
    METRICS,
    SUMMARY_TABLE,
    SWEEP,
    TRIALS_TABLE,
    TUNE,
    Predictions,
    RunFolder,
    SweepFolder,
)
from tdbench.store.profiles import LAYER, STEP
from tdbench.store.rows import TEST_ERROR, SummaryRow, TrialState, columns

BASELINES = ("baseline", "no baseline")
ALWAYS_THERE = columns(SummaryRow)[: columns(SummaryRow).index("detectable")]  # in every release
TEXT_OF_SUMMARY = ("verdict", "metric", "design", "looks")
TEXT_OF_TRIALS = ("trial", "status", "digest", "error")
TEXT_OF_PROFILES = ("method", "shape", "dtype", "memory_format", "device", "compile", "status", "model", "precision")


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
        return self.summary[0].get("metric") or TEST_ERROR if self.summary else TEST_ERROR

    @property
    def own(self) -> tuple[str, str, str, str]:
        """The columns of `summary.csv` with the metric's mean, deviation and interval."""
        if self.metric == TEST_ERROR:
            return "test_error_pct_mean", "test_error_pct_std", "ci95_low", "ci95_high"
        return "metric_mean", "metric_std", "metric_ci95_low", "metric_ci95_high"

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

    @property
    def done(self) -> list[Row]:
        """The trials that are done."""
        return [trial for trial in self.trials if trial["status"] == TrialState.DONE]

    def run(self, trial: Row) -> "RunSource":
        """Return the run of a trial, of whose folder files may be missing."""
        return RunSource(SweepFolder(self.path).trial(trial["trial"]).path)

    @cached_property
    def environments(self) -> list[Mapping[str, Any]]:
        """What the trials that are done ran on, where that is known."""
        return [found for trial in self.done if (found := self.run(trial).environment)]


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
    def environment(self) -> Mapping[str, Any]:
        """What it ran on; empty where that is not known."""
        return RunFolder(self.path).read_environment()

    @cached_property
    def predictions(self) -> Predictions | None:
        """The outcome of each test image; None where that is not known."""
        return RunFolder(self.path).read_predictions()

    @property
    def environments(self) -> list[Mapping[str, Any]]:
        """What it ran on, as of a sweep's trials."""
        return [self.environment] if self.environment else []


@dataclass(frozen=True)
class ProfileSource(RunSource):
    """A profile, from its folder; figures are numbers, and None where there are none.

    Attributes:
        layer, step: The rows of its two tables.
    """

    layer: Sequence[Mapping[str, Any]]
    step: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Sources:
    """All that a report is about.

    Attributes:
        sweeps: Sweeps, the confirmations of searches among them.
        runs: Single runs.
        searches: The folders of searches.
        profiles: What methods cost.
        notes: What is to be known of them, in lines.
    """

    sweeps: list[SweepSource] = field(default_factory=list)
    runs: list[RunSource] = field(default_factory=list)
    searches: list[Path] = field(default_factory=list)
    profiles: list[ProfileSource] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_sources(paths: list[Path]) -> Sources:
    """Read the folders that a report is about.

    Raises:
        FolderError: One is no folder of tdbench's, or its tables cannot be read.
    """
    found = Sources()
    for path in dict.fromkeys(paths):
        if (path / TUNE).exists():
            found.searches.append(path)
            if (path / CONFIRM / SWEEP).exists():
                found.sweeps.append(read_sweep(path / CONFIRM, found.notes, f"Confirmation of {path.name}"))
        elif (path / SWEEP).exists():
            found.sweeps.append(read_sweep(path, found.notes))
        elif (path / LAYER).exists() or (path / STEP).exists():
            found.profiles.append(read_profile(path))
        elif (path / CONFIG).exists():
            found.runs.append(RunSource(path))
        else:
            raise no_folder_of_ours(path)
    found.notes.extend(mixed_versions([*found.sweeps, *found.runs, *found.profiles]))
    return found


def no_folder_of_ours(path: Path) -> FolderError:
    """Return the error of a path that is no folder of tdbench's, with what may be meant."""
    if path.is_file():
        return FolderError(f"{path} is a file; name the folder of a run, a sweep, a search or a profile")
    if not path.is_dir():
        siblings = [one.name for one in path.parent.iterdir() if one.is_dir()] if path.parent.is_dir() else []
        return FolderError(f"there is no folder {path}{nearest(path.name, siblings)}")
    inside = [
        one for one in sorted(path.iterdir()) if any((one / name).exists() for name in (CONFIG, SWEEP, TUNE, STEP))
    ]
    told = f"; its folders do, such as {inside[0]}" if inside else ""
    return FolderError(f"{path} holds no run, no sweep, no search and no profile of tdbench{told}")


def read_sweep(path: Path, notes: list[str], name: str | None = None) -> SweepSource:
    """Read a sweep; what is odd about it goes into the notes.

    Args:
        path: Its folder.
        notes: Where to say that another release wrote it.
        name: What it is called; None: its title, or its folder.

    Raises:
        FolderError: A table is missing, or is not a sweep's.
    """
    experiment = tree_of(path / SWEEP) | ({"title": name} if name else {})
    if not (path / SUMMARY_TABLE).exists() and not (path / TRIALS_TABLE).exists():
        return SweepSource(path, experiment, [], [], [])  # it has just begun
    summary = read_rows(path / SUMMARY_TABLE, ALWAYS_THERE)
    header = [*summary[0]] if summary else ["n"]
    keys = header[: header.index("n")]
    trials = read_rows(path / TRIALS_TABLE, ["trial", "status", "seed", *keys, "error"])
    check_numbers(path / SUMMARY_TABLE, summary, [*keys, *TEXT_OF_SUMMARY])
    check_numbers(path / TRIALS_TABLE, trials, [*keys, *TEXT_OF_TRIALS])
    states = [state.value for state in TrialState]
    for line, trial in enumerate(trials, 2):
        if trial["status"] not in states:
            told = f"status must be one of {', '.join(states)}, got {trial['status']!r}"
            raise FolderError(f"{path / TRIALS_TABLE}, line {line}: {told}{nearest(trial['status'], states)}")
    known = columns(SummaryRow)
    if summary and (lacking := [one for one in known if one not in header]):
        notes.append(f"{path} is of an earlier release of tdbench: it lacks {some_of(lacking)}")
    if later := [one for one in header[len(keys) :] if one not in known]:
        notes.append(f"{path} is of a later release of tdbench, or was edited: {some_of(later)} is not shown")
    return SweepSource(path, experiment, summary, trials, keys)


def read_profile(path: Path) -> ProfileSource:
    """Read a profile.

    Raises:
        FolderError: A table of it is damaged.
    """
    tables = []
    for name, needed in (
        (LAYER, ("method", "shape", "dtype", "memory_format", "total_ms", "floor_ratio", "status")),
        (STEP, ("method", "batch_size", "step_ms", "overhead_pct", "n", "status")),
    ):
        rows = read_rows(path / name, needed) if (path / name).exists() else []
        check_numbers(path / name, rows, TEXT_OF_PROFILES)
        tables.append([{column: typed(column, cell) for column, cell in row.items()} for row in rows])
    layer, step = tables
    return ProfileSource(path, layer, step)


def typed(column: str, cell: str) -> str | float | int | None:
    """Return a cell of a profile as the number that it is; None where there is none."""
    if column in TEXT_OF_PROFILES:
        return cell
    return None if not cell else int(cell) if cell.isdigit() else float(cell)


def mixed_versions(sources: Sequence[SweepSource | RunSource]) -> list[str]:
    """Return a line for each of tdbench and torch that was not the same in all runs of the report."""
    lines = []
    for name in ("tdbench", "torch"):
        versions: dict[str, list[str]] = {}
        for source in sources:
            for version in {str(one[name]): None for one in source.environments if name in one}:
                versions.setdefault(version, []).append(str(source.path))
        if len(versions) > 1:
            told = "; ".join(f"{version} in {', '.join(where)}" for version, where in versions.items())
            lines.append(f"Mixed versions of {name}: {told}")
    return lines


def tree_of(path: Path) -> dict[str, Any]:
    """Return what is in a YAML file of tdbench's.

    Raises:
        FolderError: It is damaged.
    """
    try:
        return read_tree(path) or {}
    except FolderError as error:
        raise FolderError(f"{path} is damaged, or not one that tdbench wrote") from error
