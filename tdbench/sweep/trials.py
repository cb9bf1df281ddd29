"""Runs trials and keeps what becomes of each. What is missing, and what follows from the results, is its heirs' to say.

A trial is done when its `result.json` says so. One that failed has a `result.json` with its reason and is left alone
until it is asked for again; one that was killed or stopped has none, and goes on from its checkpoint next time.
"""

import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Protocol

from tdbench.errors import FolderError, Note, TdbenchError
from tdbench.store.assignment import NOWHERE, Assignment, Ended, Log, Progressed
from tdbench.store.folders import RESULT, RunFolder
from tdbench.store.progress import SweepObserver
from tdbench.store.rows import RunResult, TrialState
from tdbench.sweep.executors import Executor
from tdbench.sweep.points import Trial

LOOK_EVERY_S = 0.2
TABLES_EVERY_S = 20.0


class Folder(Protocol):
    """Where trials have a run folder each."""

    def trial(self, digest: str) -> RunFolder:
        """Return the run folder of a trial."""


class Trials(ABC):
    """Trials by their digests, their folder, and what has become of each.

    Attributes:
        records: Digest to the trial's result; one that has none is `waiting`, or `killed` or `failed` with its reason.
    """

    folder: Folder
    target: str | None = None  # the module that runs a trial; None: tdbench's own training

    def __init__(self) -> None:
        self.records: dict[str, RunResult] = {}

    @property
    @abstractmethod
    def configs(self) -> Mapping[str, Trial]:
        """Digest to the trial's configuration, in the order in which they run."""

    @abstractmethod
    def further(self, is_idle: bool) -> list[str]:
        """Return the trials that are to be run next, now that no other waits; `is_idle`: and none runs."""

    @abstractmethod
    def changed(self, digest: str | None) -> None:
        """Hear that a trial has ended, or None: that any may have."""

    @abstractmethod
    def keep_tables(self) -> None:
        """Write the tables as things stand, a few times a minute."""

    def look_again(self) -> None:
        """Read from the folder what has become of each trial."""
        self.records = {digest: self.read(digest) for digest in self.configs}
        self.changed(None)

    def read(self, digest: str) -> RunResult:
        """Return what has become of a trial."""
        seed = self.configs[digest].seed
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

    def done(self) -> dict[str, RunResult]:
        """Return the results of the trials that are done."""
        return {digest: result for digest, result in self.records.items() if result.is_done}

    def run(
        self,
        executor: Executor,
        trials: Iterable[str],
        observer: SweepObserver,
        should_stop: Callable[[], bool] = lambda: False,
        *,
        fresh: bool = False,
        log: Log = NOWHERE,
    ) -> None:
        """Run trials, and then those that `further` names; return when all are over, or saved as `should_stop` wished.

        A full disk stops all too: every other trial would meet it. The tables on disk follow meanwhile; the last of
        them are left to the caller.
        """
        if fresh:
            self.records = {one: RunResult(TrialState.WAITING, one, trial.seed) for one, trial in self.configs.items()}
            self.changed(None)
        queue, running = deque(trials), set[str]()
        tried = set(queue)  # what was stopped or killed is for the next call
        stopping, no_room, written = False, False, time.monotonic()
        observer.began(len(queue))
        try:
            while True:
                if not queue and not stopping and executor.num_free > 0:
                    further = [digest for digest in self.further(not running) if digest not in tried]
                    queue.extend(further)
                    tried.update(further)
                    if further:
                        observer.went_on(len(further))
                if not queue and not running:
                    break
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
                        for note in event.notes:
                            warnings.warn(note, Note, stacklevel=2)
                        observer.trial_ended(event.digest, self.records[event.digest])
                        no_room = no_room or event.no_room
                observer.looked()
                if (should_stop() or no_room) and not stopping:
                    stopping = True
                    queue.clear()
                    executor.stop()
                if time.monotonic() - written > TABLES_EVERY_S:
                    with suppress(FolderError):  # they are written again at the end, and then it counts
                        self.keep_tables()
                    written = time.monotonic()
        finally:
            self.changed(None)
            executor.close()

    def _assignment(self, digest: str, fresh: bool, log: Log) -> Assignment:
        record, trial = self.records[digest], self.folder.trial(digest)
        failed = record.status is TrialState.FAILED
        # What a diverged trial saved would diverge again; and what is not this trial's own cannot go on.
        fresh = fresh or record.status is TrialState.DIVERGED or (failed and record.digest != digest)
        if fresh:
            trial.give_up()
        if failed and trial.read_config() is None:  # only the reason stands there: see _record
            (trial / RESULT).unlink(missing_ok=True)
        return Assignment(digest, self.configs[digest].dump(), trial.path, fresh, log, target=self.target)

    def _record(self, ended: Ended) -> None:
        """Note how a trial ended; a failure that left no `result.json` gets one, so that the next call knows of it."""
        found, seed = self.read(ended.digest), self.configs[ended.digest].seed
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
        self.changed(ended.digest)
