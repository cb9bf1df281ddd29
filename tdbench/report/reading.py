"""What a report is made from: the folders of sweeps, searches, runs and profiles, as their tables say it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tdbench.errors import FolderError, nearest
from tdbench.report.rows import check_numbers, read_rows, some_of
from tdbench.report.sources import ProfileSource, RunSource, SweepSource
from tdbench.store.files import read_tree
from tdbench.store.folders import (
    CONFIG,
    CONFIRM,
    SUMMARY_TABLE,
    SWEEP,
    TRIALS_TABLE,
    TUNE,
)
from tdbench.store.profiles import LAYER, STEP
from tdbench.store.rows import SummaryRow, TrialState, columns

ALWAYS_THERE = columns(SummaryRow)[: columns(SummaryRow).index("detectable")]  # in every release
TEXT_OF_SUMMARY = ("verdict", "metric", "design", "looks")
TEXT_OF_TRIALS = ("trial", "status", "digest", "error")
TEXT_OF_PROFILES = ("method", "shape", "dtype", "memory_format", "device", "compile", "status", "model", "precision")


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
