"""What a search looks like on a terminal: which candidate runs, which is best so far, what was promised and kept."""

import json as json_module
from collections.abc import Sequence

from tdbench.cli.output import say
from tdbench.cli.sweep_tables import said_as_json
from tdbench.cli.terminal import clock
from tdbench.store.files import as_text, counted
from tdbench.store.folders import CANDIDATES, IMPORTANCE, TUNE
from tdbench.store.rows import TrialState
from tdbench.sweep.columns import joined_by, number
from tdbench.sweep.runner import Tables
from tdbench.sweep.tune.confirming import arm_name, kept, own_candidates
from tdbench.sweep.tune.folder import TUNE_TEXT
from tdbench.sweep.tune.outlook import SearchOutlook
from tdbench.sweep.tune.search import Candidate, Search


class SearchWords:
    """What is said of a search while it runs."""

    goal = "for those"

    def __init__(self, search: Search) -> None:
        self.trials = self.search = search

    def name(self, digest: str) -> str:
        for one in self.search.candidates:
            for seed, trial in one.trials.items():
                if trial == digest:
                    return f"{described(one)}, seed {seed}"
        return digest

    def heading(self, num_missing: int, num_at_once: int) -> str:
        before = f"{self.search.num_over()} of them done before, {num_at_once} at once"
        return f"{asked_for(self.search)}, {before}; {self.search.folder.path}"

    def standings(self) -> list[str]:
        lines = []
        for subject in self.search.plan.subjects:
            best = next(iter(self.search.ranking(subject)), None)
            if best is not None:
                so_far = f"{self.search.num_over(subject)} of {self.search.plan.asked.trials} candidates"
                lines.append(f"  {so_far} of {subject.method}; best so far: {best_of(self.search, best)}")
        return lines

    def num_failed(self) -> int:
        failed = (TrialState.FAILED, TrialState.DIVERGED)
        return sum(result.status in failed for result in self.search.records.values())


def asked_for(search: Search) -> str:
    """Return what a search is asked to do, in a line."""
    asked, subjects = search.plan.asked, search.plan.subjects
    ranges = " and ".join(f"{one.method} ({', '.join(map(str, one.ranges))})" for one in subjects)
    runs = counted(asked.search_seeds, "run")
    return f"search of {ranges}: {counted(asked.trials, 'candidate')} by {asked.sampler}, {runs} each"


def described(candidate: Candidate) -> str:
    """Return a candidate's name with its values."""
    if candidate.subject is None:
        return candidate.name
    return f"{candidate.subject.method} {candidate.name} ({values_of(candidate)})"


def values_of(candidate: Candidate) -> str:
    """Return what a candidate's knobs are set to, in a few words."""
    names = {} if candidate.subject is None else {one.key: one.name for one in candidate.subject.ranges}
    return ", ".join(f"{names[key]} {shown(value)}" for key, value in candidate.values.items())


def shown(value: object) -> str:
    """Return a value in few digits."""
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)


def best_of(search: Search, candidate: Candidate) -> str:
    """Return a candidate with what it came to, in a few words."""
    n = len(search.errors(candidate))
    untuned = ", against the baseline before its own search" if len(search.plan.subjects) > 1 else ""
    difference = number(search.value_of(candidate), "+.2f")
    return f"{described(candidate)}, {difference} points on held-out images (n = {n}{untuned})"


def search_line(search: Search) -> str:
    """Return the outcome of a search in one line for each subject; it is no verdict."""
    best = [best_of(search, one) for subject in search.plan.subjects for one in search.ranking(subject)[:1]]
    written = f"{search.folder.path}: {TUNE_TEXT} {CANDIDATES} {IMPORTANCE} {TUNE}"
    over = ""
    if search.ended_by_budget():
        over = f"the budget of {search.plan.asked.budget} is spent, and a larger one goes on; "
    told = f"best of {search.num_over()} candidates, no verdict yet: {'; '.join(best) or 'none has a result'}"
    return f"{over}{told}; {written}"


def as_json(search: Search, tables: Tables | None) -> str:
    """Return the candidates and the rows of the confirmation as JSON."""
    confirmed = [] if tables is None else [row.cells() for row in tables.summary]
    candidates = [search.row_of(one) for one in search.candidates]
    return json_module.dumps({"candidates": candidates, "confirmed": confirmed}, indent=2, ensure_ascii=False)


def print_kept(search: Search, tables: Tables) -> None:
    """Print what the search promised, and what the confirmation kept."""
    values = {arm_name(one): values_of(one) for one in own_candidates(search)}
    for one in kept(search, tables.summary):
        promised = f"{one.arm} ({values[one.arm]}): promised {number(one.promised, '+.2f')} points (n = {one.n})"
        if one.row is None:
            say(f"{promised}, not confirmed")
            continue
        interval = joined_by(" to ", one.row.delta_ci95_low, one.row.delta_ci95_high, form="+.2f")
        kept_of = number(one.row.delta_vs_baseline, "+.2f")
        say(f"{promised}, kept {kept_of} ({interval}, n = {one.row.num_pairs}): {one.row.verdict}")


def print_outlook(search: Search, outlook: SearchOutlook, *, quiet: bool, json: bool) -> None:
    """Print how many candidates and runs are left, and how long they take."""
    if said_as_json(outlook, json=json):
        return
    runs, least, most = outlook.search_runs, outlook.confirm_runs, outlook.confirm_runs_at_most
    if not quiet:
        say(asked_for(search))
        left = f"{outlook.candidates_left} of {counted(outlook.candidates, 'candidate')} left"
        say(f"search: {left}, {counted(runs, 'run')} of {seeds(outlook.seeds)}, {length(outlook.search_s)}")
        if outlook.confirmed:
            values = f"{counted(outlook.confirmed, 'value')} and the baseline"
            takes = length(outlook.confirm_s, outlook.confirm_at_most_s)
            say(f"confirmation: {values}, {span(least, most)} of {seeds(outlook.confirm_seeds)}, {takes}")
    in_all = [added(outlook.search_s, one) for one in (outlook.confirm_s, outlook.confirm_at_most_s)]
    say(f"{span(runs + least, runs + most)} to come, {length(*in_all)}; nothing was trained")


def seeds(several: Sequence[int]) -> str:
    """Return seeds that follow each other in words."""
    if len(several) == 1:
        return f"seed {several[0]}"
    return f"seeds {several[0]} {'to' if len(several) > 2 else 'and'} {several[-1]}"


def span(least: int, most: int) -> str:
    """Return a number of runs, or between which two it is."""
    return f"{least} to {counted(most, 'run')}" if least < most else counted(most, "run")


def length(least_s: float | None, most_s: float | None = None) -> str:
    """Return a time, or between which two it is."""
    if least_s is None:
        return "an unknown time"
    return "about " + " to ".join(dict.fromkeys(clock(one) for one in (least_s, most_s) if one is not None))


def added(one_s: float | None, other_s: float | None) -> float | None:
    return None if one_s is None or other_s is None else one_s + other_s
