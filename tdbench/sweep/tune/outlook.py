"""What a search and its confirmation would do: the answer of a dry run."""

from dataclasses import asdict, dataclass

from tdbench.config import RunConfig
from tdbench.errors import DataError
from tdbench.store.folders import CONFIRM
from tdbench.sweep.ablate import open_sweep, to_run
from tdbench.sweep.execution import Execution
from tdbench.sweep.keys import METHOD
from tdbench.sweep.plan import make_plan
from tdbench.sweep.preflight import check_trials, times_left_s
from tdbench.sweep.runner import Sweep
from tdbench.sweep.slots import Slots
from tdbench.sweep.tune.asked import NONE, Subject
from tdbench.sweep.tune.confirming import arms_before, confirmation, experiment
from tdbench.sweep.tune.search import BASELINE, DEFAULT, Search
from tdbench.sweep.values import parse_design


@dataclass(frozen=True)
class SearchOutlook:
    """What a search and its confirmation would do.

    Attributes:
        candidates: How many the search comes to, the default among them; those that come again are not counted.
        candidates_left: Those that are not over.
        seeds: Of the search: each candidate has a run of each.
        search_runs: Runs that it would still take; fewer where a candidate comes twice, or the budget ends.
        search_s: Seconds that they will take, about, and no more than the budget has left; None: unknown.
        confirmed: What is compared with the baseline then, at most: the default, the best candidates, and those that
            were confirmed before.
        confirm_seeds: Of the confirmation; each value has as many as it takes.
        confirm_runs, confirm_runs_at_most: Its runs, if all is decided at the next look, or nothing before the last.
        confirm_s, confirm_at_most_s: Seconds that they will take, about; None: unknown.
        why_unknown: Why the times are.
    """

    candidates: int
    candidates_left: int
    seeds: tuple[int, ...]
    search_runs: int
    search_s: float | None
    confirmed: int
    confirm_seeds: tuple[int, ...]
    confirm_runs: int
    confirm_runs_at_most: int
    confirm_s: float | None
    confirm_at_most_s: float | None
    why_unknown: str | None = None

    def _repr_html_(self) -> str:
        from pandas import Series

        return Series(asdict(self)).to_frame("").to_html(header=False)


def look_ahead(search: Search, execution: Execution) -> SearchOutlook:
    """Check the data, the network and the sites, and say what a search would do; nothing is trained or written.

    Raises:
        TdbenchError: The search would be refused.
    """
    plan = search.plan
    slots = execution.slots(plan.base.hardware)
    search.use_threads(slots.threads)
    search.reopen(fresh=execution.fresh)
    num_new = {one.method: num_to_come(search, one) for one in plan.subjects}
    begun = [search.configs[digest] for digest in search.begun(execution.retry_failed)]
    fixed = fixed_runs(search)
    chosen = [fixed[method] for method, num in num_new.items() for _ in range(num * len(plan.seeds))]
    ahead = confirmation_ahead(search, execution, num_new[plan.subjects[0].method], slots.threads)
    times: list[float] | list[None] = [None, None, None]
    why_unknown = None
    try:
        times = times_ahead(search, slots, begun + chosen, ahead)
    except DataError as error:  # the plan stands without it
        why_unknown = str(error)
    num_known = len([one for one in search.candidates if one.subject is not None])
    return SearchOutlook(
        candidates=num_known + sum(num_new.values()),
        candidates_left=num_known - search.num_over() + sum(num_new.values()),
        seeds=plan.seeds,
        search_runs=len(begun + chosen),
        search_s=times[0],
        confirmed=ahead.num_values,
        confirm_seeds=confirm_seeds(search) if ahead.num_values else (),
        confirm_runs=len(ahead.least),
        confirm_runs_at_most=len(ahead.most),
        confirm_s=times[1],
        confirm_at_most_s=times[2],
        why_unknown=why_unknown,
    )


def fixed_runs(search: Search) -> dict[str, RunConfig]:
    """Return the first runs of the baseline and the default by their methods; candidates take about as long."""
    fixed = [one for one in search.candidates if one.name in (BASELINE, DEFAULT)]
    runs = [search.configs[one.trials[search.plan.seeds[0]]] for one in fixed]
    return {run.regularizer.name: run for run in runs}


def times_ahead(search: Search, slots: Slots, waiting: list[RunConfig], ahead: "Ahead") -> list[float]:
    """Return the seconds of a search, and of its confirmation at least and at most, about.

    Raises:
        TdbenchError: Something is missing; a DataError: the images.
    """
    if not waiting and not ahead.most:
        return [0.0, 0.0, 0.0]
    finished = [(search.configs[digest], result.wall_s or 0.0) for digest, result in search.done().items()]
    check_trials(fixed_runs(search).values(), slots, [config for config, _ in finished])
    search_s, _ = times_left_s((waiting, []), finished, slots)
    if search.plan.budget_s is not None:
        search_s = min(search_s, max(0.0, search.plan.budget_s - search.spent_s()))
    return [round(one, 1) for one in (search_s, *times_left_s((ahead.least, ahead.most), ahead.finished, slots))]


def num_to_come(search: Search, subject: Subject) -> int:
    """Return how many candidates of a subject are yet to be chosen, at most; the default is there already."""
    if search.ended_by_budget():
        return 0
    chosen = search.suggestions[subject.method]
    untried = subject.size - len({tuple(one.values.values()) for one in chosen})
    left = int(min(search.num_wanted(subject) - search.num_asked(subject), untried))
    is_default_next = search.question(subject).begins_with_default and not chosen
    return max(0, left - is_default_next)


def confirm_seeds(search: Search) -> tuple[int, ...]:
    """Return the seeds of the confirmation, at most: they begin where the search's end."""
    first = len(search.plan.seeds)
    return tuple(range(first, first + parse_design(search.plan.asked.confirm_seeds)[1]))


@dataclass(frozen=True)
class Ahead:
    """A confirmation that is to come.

    Attributes:
        num_values: How many values are compared with the baseline, at most.
        least, most: The runs, if all is decided at the next look, or nothing before the last.
        finished: Those that are done, with their seconds.
    """

    num_values: int
    least: list[RunConfig]
    most: list[RunConfig]
    finished: list[tuple[RunConfig, float]]


def confirmation_ahead(search: Search, execution: Execution, num_new: int, threads: int | None) -> Ahead:
    """Return the confirmation of a search of which so many candidates of the method are yet to be chosen."""
    asked, subject = search.plan.asked, search.plan.subjects[0]
    if not asked.confirm:
        return Ahead(0, [], [], [])
    if search.is_over(execution.retry_failed) and search.ranking(subject):
        return sweep_ahead(confirmation(search), execution, threads)
    begun = arms_before(search)
    arms = begun or {NONE: {METHOD: NONE}, DEFAULT: {}}
    sweep = open_sweep(make_plan(experiment(search.plan, arms)), search.folder / CONFIRM)
    ahead = sweep_ahead(sweep, execution, threads)
    best = sweep.plan.trials[next(iter(sweep.plan.points[1].trials.values()))]  # takes about as long as the default
    num_known = len([one for one in search.candidates if one.subject is subject and one.name != DEFAULT])
    num_best = min(asked.confirm, num_known + num_new)
    first, last = parse_design(asked.confirm_seeds)
    least = [] if begun else [best] * (num_best * first)  # what is best may be confirmed already
    most = [best] * (num_best * last)
    return Ahead(ahead.num_values + num_best, ahead.least + least, ahead.most + most, ahead.finished)


def sweep_ahead(sweep: Sweep, execution: Execution, threads: int | None) -> Ahead:
    """Return what is to come of a confirmation as it stands."""
    sweep.plan = sweep.plan.with_threads(threads)
    trials = sweep.plan.trials
    least, most = ([trials[digest] for digest in digests] for digests in to_run(sweep, execution))
    finished = [(trials[digest], result.wall_s or 0.0) for digest, result in sweep.done().items()]
    return Ahead(len(sweep.plan.points) - 1, least, most, finished)
