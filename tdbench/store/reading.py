"""Runs and sweeps read back from their folders, their tables as pandas DataFrames."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdbench.errors import FolderError
from tdbench.store.files import open_file
from tdbench.store.folders import CONFIG, METRICS, SUMMARY_TABLE, SWEEP, TRIALS_TABLE, RunFolder, SweepFolder
from tdbench.store.rows import RunResult

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class RunRecord:
    """A run, finished or not.

    Attributes:
        path: Its folder.
        config: The resolved configuration, a tree of keys.
        result: What `result.json` holds; None while the run is not over.
    """

    path: Path
    config: dict[str, Any]
    result: RunResult | None

    @cached_property
    def metrics(self) -> "pandas.DataFrame":
        """A row per finished epoch, with the columns of `metrics.csv`."""
        return read_table(self.path / METRICS)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What the run ran on; empty where that cannot be read."""
        return RunFolder(self.path).read_environment()

    def _repr_html_(self) -> str:
        if not (self.path / METRICS).exists():
            return "<p>no epoch is finished</p>"
        return self.metrics.to_html(index=False)


@dataclass(frozen=True)
class SweepRecord:
    """A sweep, finished or not.

    Attributes:
        path: Its folder.
        experiment: What was swept, as `sweep.yaml` holds it.
    """

    path: Path
    experiment: dict[str, Any]

    @cached_property
    def summary(self) -> "pandas.DataFrame":
        """A row per value, with the columns of `summary.csv`."""
        return read_table(self.path / SUMMARY_TABLE)

    @cached_property
    def trials(self) -> "pandas.DataFrame":
        """A row per trial, with the columns of `trials.csv`."""
        return read_table(self.path / TRIALS_TABLE)

    def run(self, trial: str) -> RunRecord:
        """Return the run of a trial, by its digest in the column `trial`."""
        return read_run(SweepFolder(self.path).trial(trial).path)

    def _repr_html_(self) -> str:
        if not (self.path / SUMMARY_TABLE).exists():
            return "<p>no table is written yet</p>"
        return self.summary.to_html(index=False)


def read_run(path: str | Path) -> RunRecord:
    """Read a run folder of `tdbench train`, or a trial's.

    Raises:
        FolderError: The folder holds no run, or one whose files cannot be read.
    """
    folder = RunFolder(Path(path))
    config = folder.read_config()
    if config is None:
        raise FolderError(f"{path} holds no {CONFIG}, so it is no run's folder")
    return RunRecord(folder.path, config, folder.read_result())


def read_sweep(path: str | Path) -> SweepRecord:
    """Read a sweep folder of `tdbench ablate`.

    Raises:
        FolderError: The folder holds no sweep, or one whose files cannot be read.
    """
    folder = SweepFolder(Path(path))
    experiment = folder.read_sweep()
    if experiment is None:
        raise FolderError(f"{path} holds no {SWEEP}, so it is no sweep's folder")
    return SweepRecord(folder.path, experiment)


def read_table(path: Path) -> "pandas.DataFrame":
    """Return a table that tdbench wrote; an empty cell is a figure that is missing.

    Raises:
        FolderError: It is not there, or cannot be read.
    """
    import pandas

    try:
        with open_file(path) as file:
            return pandas.read_csv(file, keep_default_na=False, na_values=[""], dtype={"trial": str, "digest": str})
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} cannot be read: {error}") from error
