"""What a run and a sweep tell their loggers, and when."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tdbench.errors import Note
from tdbench.store.loggers.base import LoggedRun, LoggedSweep, kept_id
from tdbench.store.loggers.guarded import Guards
from tdbench.store.progress import Observer, Progress
from tdbench.store.rows import EpochRow, RunResult, SummaryRow


class RunLog(Observer):
    """Passes what an observer hears on to loggers too.

    Args:
        names: The loggers.
        observer: Hears all of it as well, and what has become of a logger that failed.
        folder: The run folder.
        name: Of the run, for people.
        digest: Of the run.
        settings: Its dotted keys and values, as plain data.
        group: The sweep that it is a trial of, as `SweepLog` calls it.
    """

    _guards: Guards | None = None

    def __init__(
        self,
        names: Sequence[str],
        observer: Observer,
        *,
        folder: Path,
        name: str,
        digest: str,
        settings: Mapping[str, Any],
        group: str | None = None,
    ) -> None:
        self._names, self._observer = names, observer
        self._folder, self._name, self._digest, self._settings, self._group = folder, name, digest, settings, group

    def started(self, facts: dict[str, str], step: int, num_steps: int) -> None:
        self._observer.started(facts, step, num_steps)
        run_id = kept_id(self._folder, self._digest)
        run = LoggedRun(run_id, self._name, self._folder, self._settings, step, self._group)
        self._guards = Guards(self._names, self._observer.noted)
        self._guards.tell(lambda logger: logger.start_run(run))

    def epoch_ended(self, row: EpochRow) -> None:
        self._observer.epoch_ended(row)
        if self._guards is not None:
            self._guards.tell(lambda logger: logger.log_epoch(row))

    def ended(self, result: RunResult) -> None:
        self._observer.ended(result)
        if self._guards is not None:
            self._guards.tell(lambda logger: logger.end_run(result))
            self._guards.close()

    def progressed(self, progress: Progress) -> None:
        self._observer.progressed(progress)

    def evaluating(self, progress: Progress) -> None:
        self._observer.evaluating(progress)

    def slowed(self, times: float) -> None:
        self._observer.slowed(times)

    def noted(self, text: str) -> None:
        self._observer.noted(text)


class SweepLog:
    """Tells loggers of a sweep: when it begins, so that its trials find their group, and its verdicts at the end.

    As a context it ends without verdicts where `end` was not called: a search has none of its own.

    Args:
        names: The loggers; without any nothing is done.
        folder: The sweep folder.
        keys: What is varied.
        group: The id of the group that it belongs to, as its search's; None: it is one itself.
        fresh: The sweep is started over.
        note: Told what has become of a logger that failed.

    Attributes:
        names: The loggers that its trials are to tell: those that have not failed.
        group: The id of its group; None: there is no logger.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        keys: Sequence[str],
        *,
        group: str | None = None,
        fresh: bool = False,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.names, self._note = tuple(names), note or warn
        self._guards: Guards | None = None
        self.group: str | None = None
        if self.names:
            self.group = group or group_of(folder, fresh=fresh)
            self._sweep = sweep = LoggedSweep(self.group, folder, tuple(keys))
            self._guards = Guards(self.names, self._note)
            self._guards.tell(lambda logger: logger.start_sweep(sweep))
            self._guards.settle()
            self.names = self._guards.names  # one that failed would keep every trial waiting

    def end(self, summary: Sequence[SummaryRow]) -> None:
        """Take down the rows of `summary.csv`."""
        if self._guards is not None:
            self._guards.tell(lambda logger: logger.end_sweep(self._sweep, summary))
            self._guards.close()
            self._guards = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end(())


def group_of(folder: Path, *, fresh: bool = False) -> str:
    """Return the id of the sweep or the search in a folder; see `kept_id`."""
    return kept_id(folder, folder.absolute().name or "sweep", fresh=fresh)


def warn(text: str) -> None:
    """Warn the user, who loses nothing."""
    warnings.warn(text, Note, stacklevel=2)
