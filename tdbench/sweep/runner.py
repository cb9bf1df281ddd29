"""Drives a sweep: what is missing is run, what happens is recorded, and the tables follow from the folder.

A trial is done when its `result.json` says so. One that failed has a `result.json` with its reason and is left alone
until it is asked for again; one that was killed or stopped has none, and goes on from its checkpoint next time.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from tdbench.errors import FolderError, TdbenchError
from tdbench.results.store import RESULT, RESULT_FIELDS, SweepFolder
from tdbench.sweep.executors import Executor
from tdbench.sweep.plan import Plan, Point
from tdbench.sweep.statistics import summarise
from tdbench.sweep.worker import Assignment, Ended, Progressed
from tdbench.training.run import Progress

LOOK_EVERY_S = 0.2
TABLES_EVERY_S = 20.0
WAITING = {"status": "waiting"}


class Watcher:
    """Watches a sweep; this one does nothing."""

    def began(self, num_trials: int) -> None:
        """Hear how many trials are to be run."""

    def trial_began(self, digest: str) -> None:
        """Hear that a trial runs now."""

    def trial_progressed(self, digest: str, progress: Progress) -> None:
        """Hear how far a trial is."""

    def trial_ended(self, digest: str, record: Mapping[str, Any]) -> None:
        """Hear how a trial ended: the fields of its `result.json`, or its status and error."""

    def looked(self) -> None:
        """Hear that a moment has passed."""


class Sweep:
    """A plan, its folder, and what has become of each trial.

    Attributes:
        records: Digest to the fields of `result.json`, or to `status` and `error` where there is none.
    """

    def __init__(self, plan: Plan, folder: SweepFolder) -> None:
        self.plan, self.folder = plan, folder
        self.records: dict[str, dict[str, Any]] = {}
        self.look_again()

    def look_again(self) -> None:
        """Read from the folder what has become of each trial."""
        self.records = {digest: self._read(digest) for digest in self.plan.trials}

    def _read(self, digest: str) -> dict[str, Any]:
        try:
            result = self.folder.trial(digest).read_result() or dict(WAITING)
        except FolderError as error:
            return {"status": "failed", "error": str(error)}
        if result.get("digest") not in (None, digest):
            return {"status": "failed", "error": "its result is of another version of the model's or method's file"}
        return result

    def missing(self, retry_failed: bool = False) -> list[str]:
        """Return the trials that are to be run, in their order."""
        again = ("waiting", "killed", "failed", "diverged") if retry_failed else ("waiting", "killed")
        return [digest for digest, record in self.records.items() if record["status"] in again]

    def done(self) -> dict[str, dict[str, Any]]:
        """Return the records of the trials that are done."""
        return {digest: record for digest, record in self.records.items() if record["status"] == "done"}

    def unfinished(self) -> dict[str, dict[str, Any]]:
        """Return the records of the trials that are not done, whatever the reason."""
        return {digest: record for digest, record in self.records.items() if record["status"] != "done"}

    def run(
        self,
        executor: Executor,
        *,
        watcher: Watcher,
        should_stop: Callable[[], bool] = lambda: False,
        retry_failed: bool = False,
        log: str | None = None,
    ) -> None:
        """Run what is missing; return when all is over, or saved because `should_stop` said so.

        Raises:
            FolderError: The tables cannot be written; the trials are intact.
        """
        queue, running = deque(self.missing(retry_failed)), set[str]()
        stopping, written = False, time.monotonic()
        watcher.began(len(queue))
        try:
            while queue or running:
                while queue and executor.num_free > 0:
                    digest = queue.popleft()
                    executor.submit(self._assignment(digest, log))
                    running.add(digest)
                    watcher.trial_began(digest)
                for event in executor.wait(LOOK_EVERY_S):
                    if isinstance(event, Progressed):
                        watcher.trial_progressed(event.digest, event.progress)
                    else:
                        running.discard(event.digest)
                        self._record(event)
                        watcher.trial_ended(event.digest, self.records[event.digest])
                watcher.looked()
                if should_stop() and not stopping:
                    stopping = True
                    queue.clear()
                    executor.stop()
                if time.monotonic() - written > TABLES_EVERY_S:
                    with suppress(FolderError):  # they are written again at the end, and then it counts
                        self.write_tables()
                    written = time.monotonic()
        finally:
            executor.close()
            self.write_tables()

    def _assignment(self, digest: str, log: str | None) -> Assignment:
        record = self.records[digest]
        # What a diverged trial saved would diverge again; and what is not this trial's own cannot go on.
        fresh = record["status"] == "diverged" or (record["status"] == "failed" and "digest" not in record)
        trial = self.folder.trial(digest)
        if record["status"] == "failed" and trial.read_config() is None:  # only the reason stands there: see _record
            (trial / RESULT).unlink(missing_ok=True)
        return Assignment(digest, self.plan.trials[digest].dump(), trial.path, fresh, log)

    def _record(self, ended: Ended) -> None:
        """Note how a trial ended; a failure that left no `result.json` gets one, so that the next call knows of it."""
        record: dict[str, Any] = {"status": ended.status, "error": ended.reason}
        found = self._read(ended.digest)
        if ended.status in ("done", "diverged") or found["status"] == "done":  # it may have been killed just after
            record = found
        elif ended.status == "stopped":
            record = dict(WAITING)
        elif ended.status == "failed":
            blank = dict.fromkeys(RESULT_FIELDS) | {"digest": ended.digest}
            record = blank | {"seed": self.plan.trials[ended.digest].seed} | record
            with suppress(TdbenchError, OSError):  # a full disk: the reason stands in the table, and is tried again
                run_folder = self.folder.trial(ended.digest)
                run_folder.path.mkdir(parents=True, exist_ok=True)
                run_folder.write_result(record)
        self.records[ended.digest] = record

    def trial_rows(self) -> list[dict[str, Any]]:
        """Return the rows of `trials.csv`: one for each point and seed."""
        return [
            {key: value for key, value in self.records[digest].items() if key not in ("status", "seed")}
            | {"trial": digest, "status": self.records[digest]["status"], "seed": seed, "digest": digest}
            | point.values
            for point in self.plan.points
            for seed, digest in point.trials.items()
        ]

    def summary_rows(self) -> list[dict[str, Any]]:
        """Return the rows of `summary.csv`: one for each point, baselines first."""
        errors = {point: self.test_errors(point) for point in self.plan.points}
        baselines = {point: point.baseline for point in self.plan.points if point.baseline is not None}
        summaries = summarise(errors, baselines)
        return [
            point.values
            | asdict(summaries[point])
            | {name: self._mean(point, name) for name in ("dropped_pct", "train_img_per_s")}
            for point in self.plan.points
        ]

    def test_errors(self, point: Point) -> dict[int, float]:
        """Return seed to the last epoch's test error, in per cent, of the trials that are done."""
        return {
            seed: self.records[digest]["test_error_pct"]
            for seed, digest in point.trials.items()
            if self.records[digest]["status"] == "done"
        }

    def _mean(self, point: Point, name: str) -> float | None:
        done = [self.records[digest] for digest in point.trials.values() if self.records[digest]["status"] == "done"]
        values = [record[name] for record in done if record[name] is not None]
        return statistics.fmean(values) if values else None

    def write_tables(self) -> bool:
        """Write `trials.csv` and `summary.csv`; return whether that changed anything."""
        trials = self.folder.write_trials(self.plan.keys, self.trial_rows())
        return self.folder.write_summary(self.plan.keys, self.summary_rows()) or trials
