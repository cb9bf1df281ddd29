"""Drives a sweep: what is missing is run, what happens is recorded, and the tables follow from the folder.

A trial is done when its `result.json` says so. One that failed has a `result.json` with its reason and is left alone
until it is asked for again; one that was killed or stopped has none, and goes on from its checkpoint next time.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tdbench.errors import FolderError, TdbenchError
from tdbench.store.assignment import Assignment, Ended, Progressed
from tdbench.store.folders import RESULT, SweepFolder
from tdbench.store.progress import SweepObserver
from tdbench.store.rows import (
    Decision,
    RunResult,
    SummaryRow,
    TrialRow,
    TrialState,
)
from tdbench.sweep.executors import Executor
from tdbench.sweep.findings import FAILED, NO_RESULT, Findings
from tdbench.sweep.plan import Plan

LOOK_EVERY_S = 0.2
TABLES_EVERY_S = 20.0


@dataclass(frozen=True)
class Tables:
    """What a sweep came to: its two tables, worked out once, and what the summary follows from."""

    trials: tuple[TrialRow, ...]
    summary: tuple[SummaryRow, ...]
    source: list[Any]


class Sweep:
    """A plan, its folder, and what has become of each trial.

    Attributes:
        records: Digest to the trial's result; one that has none is `waiting`, or `killed` or `failed` with its reason.
    """

    def __init__(self, plan: Plan, folder: SweepFolder) -> None:
        self.plan, self.folder = plan, folder
        self.records: dict[str, RunResult] = {}
        self.findings = Findings(plan, folder)
        self.look_again()

    def look_again(self) -> None:
        """Read from the folder what has become of each trial."""
        self._take({digest: self._read(digest) for digest in self.plan.trials})

    def _take(self, records: dict[str, RunResult]) -> None:
        self.records = records
        self._asked_for: list[str] | None = None

    def _read(self, digest: str) -> RunResult:
        seed = self.plan.trials[digest].seed
        try:
            result = self.folder.trial(digest).read_result(hint="--retry-failed runs the trial again")
        except FolderError as error:
            return RunResult(TrialState.FAILED, None, seed, error=str(error))
        if result is None:
            return RunResult(TrialState.WAITING, digest, seed)
        if result.digest not in (None, digest):
            words = "its result is of other data or other code of yours"
            return RunResult(TrialState.FAILED, None, seed, error=words)
        return result

    def missing(self, retry_failed: bool = False, fresh: bool = False) -> list[str]:
        """Return the trials that are to be run, in their order: those without a result, failed ones, or all.

        Of a sequential design, those until its next look.
        """
        if fresh:
            return self.findings.asked_for(self.records, set(TrialState))
        again = NO_RESULT | FAILED if retry_failed else NO_RESULT
        return [digest for digest in self.asked_for() if self.records[digest].status in again]

    def asked_for(self) -> list[str]:
        """Return the trials that the design asks for so far, in their order: all of a fixed one."""
        if self._asked_for is None:
            if self._was_decided():
                self._asked_for = [digest for digest, one in self.records.items() if one.status not in NO_RESULT]
            else:
                self._asked_for = self.findings.asked_for(self.records, NO_RESULT)
        return self._asked_for

    def at_most(self) -> list[str]:
        """Return the trials without a result that the design may still ask for, at the very most."""
        undecided = [
            point
            for point, row in zip(self.plan.points, self.tables().summary, strict=True)
            if row.decision is Decision.PENDING
        ]
        points = {*undecided, *(point.baseline for point in undecided)}
        chosen = {digest for point in points if point is not None for digest in point.trials.values()}
        return [digest for digest, one in self.records.items() if digest in chosen and one.status in NO_RESULT]

    def _was_decided(self) -> bool:
        """Return whether a sequential sweep is known to be over without any statistics, which take half a second."""
        if self.plan.experiment.first_look is None:
            return False
        kept = self.folder.recall_summary(self.findings.source(self.records))
        return kept is not None and all(row.decision is not Decision.PENDING for row in kept)

    def done(self) -> dict[str, RunResult]:
        """Return the results of the trials that are done."""
        return {digest: result for digest, result in self.records.items() if result.is_done}

    def unfinished(self) -> dict[str, RunResult]:
        """Return what is known of the trials that are not done, whatever the reason."""
        return {digest: self.records[digest] for digest in self.asked_for() if not self.records[digest].is_done}

    def run(
        self,
        executor: Executor,
        trials: Iterable[str],
        observer: SweepObserver,
        should_stop: Callable[[], bool] = lambda: False,
        *,
        fresh: bool = False,
        log: str | None = None,
    ) -> None:
        """Run trials, such as those that are `missing`; return when all are over, or saved as `should_stop` wished.

        Of a sequential design, the trials of each further look follow. A full disk stops the sweep too: every other
        trial would meet it.

        The tables on disk follow meanwhile; the last of them are left to the caller.
        """
        if fresh:
            waiting = {one: RunResult(TrialState.WAITING, one, trial.seed) for one, trial in self.plan.trials.items()}
            self._take(waiting)
        queue, running = deque(trials), set[str]()
        tried = set(queue)  # what was stopped or killed is for the next call
        stopping, no_room, written = False, False, time.monotonic()
        observer.began(len(queue))
        try:
            while queue or running:
                while queue and executor.num_free > 0:
                    digest = queue.popleft()
                    executor.submit(self._assignment(digest, fresh, log))
                    running.add(digest)
                    observer.trial_began(digest)
                for event in executor.wait(LOOK_EVERY_S):
                    if isinstance(event, Progressed):
                        observer.trial_progressed(event.digest, event.progress)
                    else:
                        running.discard(event.digest)
                        self._record(event)
                        observer.trial_ended(event.digest, self.records[event.digest])
                        no_room = no_room or event.no_room
                if not queue and not running and not stopping:
                    self._asked_for = None  # a look is due, where the design has any
                    further = [digest for digest in self.missing() if digest not in tried]
                    queue.extend(further)
                    tried.update(further)
                    if further:
                        observer.went_on(len(further))
                observer.looked()
                if (should_stop() or no_room) and not stopping:
                    stopping = True
                    queue.clear()
                    executor.stop()
                if time.monotonic() - written > TABLES_EVERY_S:
                    with suppress(FolderError):  # they are written again at the end, and then it counts
                        self.write_tables(self.tables())
                    written = time.monotonic()
        finally:
            self._asked_for = None
            executor.close()

    def _assignment(self, digest: str, fresh: bool, log: str | None) -> Assignment:
        record, trial = self.records[digest], self.folder.trial(digest)
        failed = record.status is TrialState.FAILED
        # What a diverged trial saved would diverge again; and what is not this trial's own cannot go on.
        fresh = fresh or record.status is TrialState.DIVERGED or (failed and record.digest != digest)
        if fresh:
            trial.give_up()
        if failed and trial.read_config() is None:  # only the reason stands there: see _record
            (trial / RESULT).unlink(missing_ok=True)
        return Assignment(digest, self.plan.trials[digest].dump(), trial.path, fresh, log)

    def _record(self, ended: Ended) -> None:
        """Note how a trial ended; a failure that left no `result.json` gets one, so that the next call knows of it."""
        found, seed = self._read(ended.digest), self.plan.trials[ended.digest].seed
        record = RunResult(ended.status, ended.digest, seed, error=ended.reason)
        if (
            ended.status in (TrialState.DONE, TrialState.DIVERGED) or found.is_done
        ):  # it may have been killed just after
            record = found
        elif ended.status is TrialState.FAILED:
            with suppress(TdbenchError, OSError):  # a full disk: the reason stands in the table, and is tried again
                run_folder = self.folder.trial(ended.digest)
                run_folder.path.mkdir(parents=True, exist_ok=True)
                run_folder.write_result(record)
        self.records[ended.digest] = record
        self.findings.forget(ended.digest)

    def tables(self) -> Tables:
        """Return the tables as things stand, the baselines first; trials that no look asked for are left out."""
        shown = {digest for digest, one in self.records.items() if one.status is not TrialState.WAITING}
        shown.update(self.asked_for())
        trials = [
            TrialRow(digest, self.records[digest].status, seed, point.values, self.records[digest])
            for point in self.plan.points
            for seed, digest in point.trials.items()
            if digest in shown
        ]
        source = self.findings.source(self.records)
        summary = self.folder.recall_summary(source) or self.findings.summary(self.records)
        return Tables(tuple(trials), summary, source)

    def write_tables(self, tables: Tables) -> bool:
        """Write `trials.csv` and `summary.csv`; return whether that changed anything.

        Raises:
            FolderError: One cannot be written; the trials are intact.
        """
        trials = self.folder.write_trials(self.plan.keys, tables.trials)
        summary = self.folder.write_summary(self.plan.keys, tables.summary)
        with suppress(FolderError, OSError):  # it only saves time
            self.folder.remember_summary(tables.source, tables.summary)
        return summary or trials
