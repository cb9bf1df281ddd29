"""A sweep: the trials of a plan, which of them are missing at which look, and the tables that follow."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tdbench.errors import FolderError
from tdbench.store.folders import SweepFolder
from tdbench.store.rows import Decision, RunResult, SummaryRow, TrialRow, TrialState
from tdbench.sweep.findings import FAILED, NO_RESULT, Findings
from tdbench.sweep.points import Plan, Trial
from tdbench.sweep.trials import Trials


@dataclass(frozen=True)
class Tables:
    """What a sweep came to: its two tables, worked out once, and what the summary follows from."""

    trials: tuple[TrialRow, ...]
    summary: tuple[SummaryRow, ...]
    source: list[Any]


class Sweep(Trials):
    """A plan, its folder, and what has become of each trial.

    Attributes:
        group: The id that loggers know its search by; None: it is no search's.
    """

    folder: SweepFolder
    group: str | None = None

    def __init__(self, plan: Plan, folder: SweepFolder) -> None:
        super().__init__()
        self.plan, self.folder, self.target = plan, folder, plan.target
        self.findings = Findings(plan, folder)
        self._asked_for: list[str] | None = None
        self.look_again()

    @property
    def configs(self) -> Mapping[str, Trial]:
        return self.plan.trials

    def changed(self, digest: str | None) -> None:
        if digest is None:
            self._asked_for = None
        else:
            self.findings.forget(digest)

    def further(self, is_idle: bool) -> list[str]:
        """Return the trials of the next look of a sequential design, once those of the last one are over."""
        if not is_idle:
            return []
        self._asked_for = None
        return self.missing()

    def keep_tables(self) -> None:
        self.write_tables(self.tables())

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
        if self.plan.experiment.first_look is None:  # those that are missing, without any statistics
            return [digest for digest, one in self.records.items() if one.status in NO_RESULT]
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

    def unfinished(self) -> dict[str, RunResult]:
        """Return what is known of the trials that are not done, whatever the reason."""
        return {digest: self.records[digest] for digest in self.asked_for() if not self.records[digest].is_done}

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
