"""Runs a search: the baseline and the default first, then candidate after candidate, each with the same seeds."""

import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tdbench.config import RunConfig
from tdbench.errors import ConfigError, TdbenchError
from tdbench.store.files import to_csv, write_if_new
from tdbench.store.folders import CANDIDATES
from tdbench.store.rows import RunResult, TrialState
from tdbench.sweep import lab
from tdbench.sweep.findings import FAILED, NO_RESULT
from tdbench.sweep.trials import Trials
from tdbench.sweep.tune.asked import Subject, TunePlan
from tdbench.sweep.tune.folder import JOURNAL, TuneFolder
from tdbench.sweep.tune.study import Question, Suggestion

DEFAULT, BASELINE = "default", "baseline"
WAITING = TrialState.WAITING.value


@dataclass
class Candidate:
    """Settings that are tried.

    Attributes:
        name: `default`, or the candidate's number in its study.
        subject: Whose knobs they are; None: the baseline that all are compared with.
        values: Dotted key to value.
        trials: Seed to the digest of its trial.
        suggestion: What the study knows of it; None: it is no candidate of a study.
        refused: Why it cannot be run.
    """

    name: str
    subject: Subject | None
    values: dict[str, Any]
    trials: dict[int, str] = field(default_factory=dict)
    suggestion: Suggestion | None = None
    refused: str | None = None


class Search(Trials):
    """A search in its folder.

    Attributes:
        candidates: By subject and name, in the order in which they were chosen; the baseline first.
        keys: What is searched, by the names of the columns of `candidates.csv`.
    """

    folder: TuneFolder

    def __init__(self, plan: TunePlan, folder: TuneFolder, *, fresh: bool = False) -> None:
        super().__init__()
        self.plan, self.folder, self._threads = plan, folder, plan.base.hardware.threads
        self._began: float | None = None
        self.keys = list(dict.fromkeys(one.name for subject in plan.subjects for one in subject.ranges))
        self.reopen(fresh=fresh)

    def reopen(self, *, fresh: bool = False) -> None:
        """Read from the folder what the studies have chosen, and what has become of it; or nothing, to start over."""
        self._fresh = fresh
        self._spent_before_s = 0.0 if fresh else self.folder.read_spent_s()
        self._configs: dict[str, RunConfig] = {}
        self.candidates: list[Candidate] = []
        self.suggestions: dict[str, list[Suggestion]] = {one.method: [] for one in self.plan.subjects}
        self._add(Candidate(BASELINE, None, {}), self.plan.baseline)
        for subject in self.plan.subjects:
            self._add(Candidate(DEFAULT, subject, dict(subject.default)), self.plan.default_of(subject))
        if (self.folder / JOURNAL).exists() and not fresh:
            for subject in self.plan.subjects:
                self._take(subject, self._ask_lab(subject, [], 0))

    def use_threads(self, threads: int | None) -> None:
        """Give each trial so many CPU threads; None: as they are."""
        self._threads = threads

    @property
    def configs(self) -> Mapping[str, RunConfig]:
        return self._configs

    @property
    def baseline(self) -> Candidate:
        """What every candidate is compared with: no regularizer, with the settings that all share."""
        return self.candidates[0]

    def changed(self, digest: str | None) -> None:
        pass

    def keep_tables(self) -> None:
        self.write_candidates()
        self.folder.write_spent_s(self.spent_s())

    def begun(self, retry_failed: bool = False) -> list[str]:
        """Return the trials to begin with: those of the baseline, the default, begun candidates, and failed ones."""
        fixed = [one for one in self.candidates if one.suggestion is None]  # nothing can be told without them
        running = [one for one in self.candidates if one.suggestion and one.suggestion.state == "running"]
        failed = [one for one in self.candidates if retry_failed and self.has_failed(one)]
        waiting = dict.fromkeys(self._digests([*fixed, *running, *failed]), NO_RESULT)
        waiting |= dict.fromkeys(self._digests([*fixed, *failed]), NO_RESULT | FAILED)
        return [digest for digest, states in waiting.items() if self.records[digest].status in states]

    def first(self, retry_failed: bool = False) -> list[str]:
        """Return the trials to begin with, of which those that failed begin anew."""
        found = self.begun(retry_failed)
        for digest in filter(lambda one: self.records[one].status in FAILED, found):
            self.folder.trial(digest).give_up()
            self.records[digest] = RunResult(TrialState.WAITING, digest, self.configs[digest].seed)
        return found

    def further(self, is_idle: bool) -> list[str]:
        """Tell the studies what is over, and return the trials of one more candidate, if there is to be one."""
        if self._began is None:
            self._began = time.monotonic()
        while True:
            subject, found = self._next_subject(), list[str]()
            for one in self.plan.subjects:
                told, more = self._to_tell(one), int(one is subject)
                if more or told:
                    self.folder.write_spent_s(self.spent_s())
                    new = self._take(one, self._ask_lab(one, told, more))
                    found += [digest for digest in self._digests(new) if self.records[digest].status in NO_RESULT]
            if found or subject is None or not is_idle:
                return found  # none, where a candidate was run before

    def has_failed(self, candidate: Candidate) -> bool:
        """Return whether a candidate's runs have failed, and may be run again."""
        return any(self.records[one].status in FAILED for one in candidate.trials.values())

    def num_over(self, subject: Subject | None = None) -> int:
        """Return how many candidates are over, of one subject or of all; the default is one."""
        own = [one for one in self.candidates if one.subject is not None and subject in (None, one.subject)]
        return sum(self.state_of(one)[0] != WAITING for one in own)

    def ended_by_budget(self) -> bool:
        """Return whether the time ran out before the candidates did."""
        budget_s = self.plan.budget_s
        wants = any(self.num_asked(one) < self.num_wanted(one) for one in self.plan.subjects)
        return wants and budget_s is not None and self.spent_s() >= budget_s

    def is_over(self, retry_failed: bool = False) -> bool:
        """Return whether every candidate that there is to be has been told, or run, and none is to be run again."""
        if retry_failed and any(map(self.has_failed, self.candidates)):
            return False
        return self._next_subject() is None and not any(
            self.state_of(one)[0] == WAITING if one.suggestion is None else one.suggestion.state == "running"
            for one in self.candidates
        )

    def _next_subject(self) -> Subject | None:
        """Return whose candidate is next: of the subject that has had fewest; None where there is to be none."""
        left = [one for one in self.plan.subjects if self.num_asked(one) < self.num_wanted(one)]
        if not left or self.ended_by_budget():
            return None
        return min(left, key=self.num_asked)

    def num_asked(self, subject: Subject) -> int:
        """Return how many candidates a subject has had, the default among them."""
        asked = [one for one in self.suggestions[subject.method] if one.state != "waiting"]
        return len(asked) + (not self.question(subject).begins_with_default)

    def num_wanted(self, subject: Subject) -> int:
        """Return how many it is to have: no more once each that there is has been tried."""
        tried = {tuple(one.values.values()) for one in self.suggestions[subject.method]}
        return self.plan.asked.trials if len(tried) < subject.size else 0

    def spent_s(self) -> float:
        """Return the seconds of the clock that the search has taken, all calls together, without the pauses."""
        return self._spent_before_s + (0.0 if self._began is None else time.monotonic() - self._began)

    def differences(self, candidate: Candidate, baseline: Candidate) -> list[float]:
        """Return the differences on the held-out images, seed by seed, in per cent points; none unless all are here."""
        pairs = [(self._error(candidate, seed), self._error(baseline, seed)) for seed in self.plan.seeds]
        found = [own - other for own, other in pairs if own is not None and other is not None]
        return found if len(found) == len(pairs) else []

    def value_of(self, candidate: Candidate) -> float | None:
        """Return the mean of a candidate's differences to the baseline; None where there are none."""
        differences = self.differences(candidate, self.baseline)
        return statistics.fmean(differences) if differences else None

    def ranking(self, subject: Subject) -> list[Candidate]:
        """Return a subject's candidates that have a value, the best first; the default among them."""
        own = [one for one in self.candidates if one.subject is subject and self.value_of(one) is not None]
        distinct = {tuple(one.trials.values()): one for one in reversed(own)}.values()
        return sorted(distinct, key=lambda one: (self.value_of(one), one.name != DEFAULT))

    def errors(self, candidate: Candidate) -> list[float]:
        """Return the errors of a candidate's runs on the held-out images, in per cent."""
        found = [self._error(candidate, seed) for seed in self.plan.seeds]
        return [error for error in found if error is not None]

    def outcome(self, candidate: Candidate) -> tuple[Any, ...]:
        """Return what a candidate's runs came to, by which two that do the same thing are known."""
        records = [self.records[digest] for digest in candidate.trials.values()]
        return tuple((one.valid_error_pct, one.train_error_pct, one.dropped_pct) for one in records)

    def state_of(self, candidate: Candidate) -> tuple[str, str | None]:
        """Return what has become of a candidate, and why where it failed."""
        if candidate.refused is not None:
            return TrialState.FAILED.value, candidate.refused
        records = [self.records[digest] for digest in candidate.trials.values()]
        for one in records:
            if one.status in FAILED:
                return one.status.value, one.error
        return (TrialState.DONE if all(one.is_done for one in records) else TrialState.WAITING).value, None

    def _error(self, candidate: Candidate, seed: int) -> float | None:
        digest = candidate.trials.get(seed)
        result = None if digest is None else self.records[digest]
        return result.valid_error_pct if result is not None and result.is_done else None

    def _to_tell(self, subject: Subject) -> list[tuple[int, float | None]]:
        """Return the candidates of a subject that are over and that its study does not know of, with their values.

        Raises:
            TdbenchError: The baseline failed, so that there is nothing to compare with.
        """
        state, why = self.state_of(self.baseline)
        if state not in (TrialState.DONE.value, WAITING):
            raise TdbenchError(f"the baseline's run {state}: {why}; without it there is nothing to compare with")
        told: list[tuple[int, float | None]] = []
        for one in self.candidates:
            if one.subject is not subject or one.suggestion is None or one.suggestion.state != "running":
                continue
            state, _ = self.state_of(one)
            if state != WAITING and self.state_of(self.baseline)[0] == TrialState.DONE.value:
                told.append((one.suggestion.number, self.value_of(one)))
        return told

    def question(self, subject: Subject) -> Question:
        """Return what identifies a subject's study."""
        asked = self.plan.asked
        return Question(
            self.folder / JOURNAL,
            f"{subject.method} {self.plan.digest}",
            subject.ranges,
            subject.default,
            asked.sampler,
            asked.sampler_seed,
        )

    def _ask_lab(self, subject: Subject, told: list[tuple[int, float | None]], more: int) -> list[Suggestion]:
        return lab.ask("tdbench.sweep.tune.study:suggest", self.question(subject), told, more)

    def _take(self, subject: Subject, suggestions: list[Suggestion]) -> list[Candidate]:
        """Note what a study has, and return the candidates that are new."""
        known = {one.suggestion.number: one for one in self.candidates if one.subject is subject and one.suggestion}
        self.suggestions[subject.method] = suggestions
        begun = [one for one in suggestions if one.state != "waiting"]
        for one in begun:
            if one.number in known:
                known[one.number].suggestion = one
        fresh = [one for one in begun if one.number not in known]
        is_default = self.question(subject).begins_with_default
        found = []
        for one, config in zip(fresh, self.plan.configs(subject, [one.values for one in fresh]), strict=True):
            if is_default and one.number == 0:
                (default,) = (c for c in self.candidates if c.subject is subject and c.name == DEFAULT)
                default.suggestion = one
                found.append(default)
                continue
            candidate = Candidate(str(one.number), subject, one.values, suggestion=one)
            self._add(candidate, config)
            found.append(candidate)
        return found

    def _add(self, candidate: Candidate, config: RunConfig | ConfigError) -> None:
        """Take a candidate up, with a trial for each seed."""
        self.candidates.append(candidate)
        if isinstance(config, ConfigError):
            candidate.refused = str(config).splitlines()[0]
            return
        for seed in self.plan.seeds:
            hardware = config.hardware.model_copy(update={"threads": self._threads})
            trial = config.model_copy(update={"seed": seed, "hardware": hardware})
            digest = trial.digest()
            candidate.trials[seed] = digest
            if digest not in self._configs:
                self._configs[digest] = trial
                self.records[digest] = RunResult(TrialState.WAITING, digest, seed) if self._fresh else self.read(digest)

    def _digests(self, candidates: Iterable[Candidate]) -> list[str]:
        """Return the trials of candidates, each once, seed by seed."""
        every = list(candidates)
        return list(dict.fromkeys(one.trials[seed] for seed in self.plan.seeds for one in every if seed in one.trials))

    def write_candidates(self) -> bool:
        """Write `candidates.csv`, a row per candidate in the order in which they were chosen; return whether it is new.

        Raises:
            FolderError: It cannot be written.
        """
        columns = ["candidate", "regularizer", "status", *self.keys, "n", "valid_error_pct_mean", "valid_error_pct_std"]
        columns += ["delta_vs_baseline", "dropped_pct", "wall_s", "error"]
        return write_if_new(self.folder / CANDIDATES, to_csv(map(self.row_of, self.candidates), columns).encode())

    def row_of(self, candidate: Candidate) -> dict[str, Any]:
        """Return a candidate's row of `candidates.csv`."""
        errors = self.errors(candidate)
        done = [one for digest in candidate.trials.values() if (one := self.records[digest]).is_done]
        dropped = [one.dropped_pct for one in done if one.dropped_pct is not None]
        status, error = self.state_of(candidate)
        subject = candidate.subject
        named = {} if subject is None else {one.key: one.name for one in subject.ranges}
        return {named[key]: value for key, value in candidate.values.items()} | {
            "candidate": candidate.name,
            "regularizer": self.plan.baseline.regularizer.name if subject is None else subject.method,
            "status": status,
            "n": len(errors),
            "valid_error_pct_mean": statistics.fmean(errors) if errors else None,
            "valid_error_pct_std": statistics.stdev(errors) if len(errors) > 1 else None,
            "delta_vs_baseline": None if candidate is self.baseline else self.value_of(candidate),
            "dropped_pct": statistics.fmean(dropped) if dropped else None,
            "wall_s": sum(one.wall_s or 0.0 for one in done) if done else None,
            "error": error,
        }
