"""The confirmation: the best candidates and the default against the baseline, on the test images, with fresh seeds."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tdbench.errors import ConfigError
from tdbench.store.folders import CONFIRM, SweepFolder
from tdbench.store.rows import SummaryRow
from tdbench.sweep.ablate import open_sweep
from tdbench.sweep.experiment import Experiment, experiment_of
from tdbench.sweep.inference import estimate
from tdbench.sweep.keys import ARM, METHOD
from tdbench.sweep.plan import make_plan
from tdbench.sweep.runner import Sweep
from tdbench.sweep.tune.asked import NONE, TunePlan
from tdbench.sweep.tune.folder import TuneFolder
from tdbench.sweep.tune.search import DEFAULT, Candidate, Search
from tdbench.sweep.values import parse_design


@dataclass(frozen=True)
class Kept:
    """What a search promised of an arm, and what the confirmation kept of it.

    Attributes:
        arm: Its name in the confirmation.
        promised: Mean paired difference to the confirmation's baseline on the held-out images, in per cent points.
        low, high: Its 95 % t interval, which knows nothing of the choice; None where it has none.
        n: Runs that the promise rests on.
        row: The confirmation's row; None: there is none yet.
    """

    arm: str
    promised: float | None
    low: float | None
    high: float | None
    n: int
    row: SummaryRow | None


def arm_name(candidate: Candidate) -> str:
    """Return the name of a candidate's arm."""
    return DEFAULT if candidate.name == DEFAULT else f"candidate {candidate.name}"


def chosen(search: Search) -> list[Candidate]:
    """Return what is confirmed: the default, and the best candidates.

    Of those that did the same in every run, as where two ratios make one number of channels, only one is.
    """
    subject = search.plan.subjects[0]
    (default,) = (one for one in search.candidates if one.subject is subject and one.name == DEFAULT)
    distinct = {search.outcome(one): one for one in reversed([default, *search.ranking(subject)])}
    best = [one for one in search.ranking(subject) if one is not default and distinct[search.outcome(one)] is one]
    return [default, *best[: search.plan.asked.confirm]]


def own_candidates(search: Search) -> list[Candidate]:
    """Return the candidates of the method."""
    return [one for one in search.candidates if one.subject is search.plan.subjects[0]]


def check_design(plan: TunePlan, folder: TuneFolder) -> None:
    """Check that a confirmation that was begun keeps its design, before the search goes on.

    Raises:
        ConfigError: It would be another one.
    """
    tree = SweepFolder(folder / CONFIRM).read_sweep()
    if tree is None or not plan.asked.confirm:
        return
    design = f"{tree.get('first_look')}..{len(tree.get('seeds', ()))}"
    if design != plan.asked.confirm_seeds.strip():
        raise ConfigError(
            f"--confirm-seeds must stay {design}, with which the confirmation in {folder / CONFIRM} was begun, got "
            f"{plan.asked.confirm_seeds}"
        )


def arms_before(search: Search) -> dict[str, dict[str, Any]]:
    """Return the arms of a confirmation that was begun."""
    return (SweepFolder(search.folder / CONFIRM).read_sweep() or {}).get("arms", {})


def baseline_of(search: Search) -> Candidate:
    """Return what the confirmation compares with: the baseline, tuned where it was; once begun, it stays that one."""
    if len(search.plan.subjects) < 2:
        return search.baseline
    ranking = search.ranking(search.plan.subjects[1])
    before = arms_before(search).get(NONE)
    if before is not None:
        values = {key: value for key, value in before.items() if key != METHOD}
        return next((one for one in ranking if values and one.values == values), search.baseline)
    return ranking[0] if ranking and ranking[0].name != DEFAULT else search.baseline


def confirmation(search: Search) -> Sweep:
    """Return the sweep that confirms what a search has found.

    What was confirmed before stays in it, so that the correction for several comparisons counts all that were made.
    """
    plan = search.plan
    arms: dict[str, dict[str, Any]] = {NONE: {METHOD: NONE, **baseline_of(search).values}}
    arms |= {arm_name(one): {} if one.name == DEFAULT else dict(one.values) for one in chosen(search)}
    arms |= {name: values for name, values in arms_before(search).items() if name not in arms}
    return open_sweep(make_plan(experiment(plan, arms)), search.folder / CONFIRM)


def experiment(plan: TunePlan, arms: dict[str, dict[str, Any]]) -> Experiment:
    """Return the confirmation as an experiment: its seeds begin where the search's end."""
    first, last = parse_design(plan.asked.confirm_seeds)
    base = plan.base.model_dump(mode="json", exclude_unset=True)
    base["data"] = {key: value for key, value in base["data"].items() if key != "test"}
    seeds = range(len(plan.seeds), len(plan.seeds) + last)
    tree = {"title": "confirmation", "base": base, "arms": arms, "seeds": list(seeds), "first_look": first}
    return experiment_of(tree)


def kept(search: Search, rows: tuple[SummaryRow, ...]) -> list[Kept]:
    """Return what was promised of each arm that is compared, and what came of it."""
    named = {str(row.values[ARM]): row for row in rows}
    baseline = baseline_of(search)
    found = []
    best = chosen(search)
    before = [one for one in own_candidates(search) if arm_name(one) in arms_before(search) and one not in best]
    for one in best + before:
        told = estimate(np.array([search.differences(one, baseline)]))
        promised, low, high = (
            None if np.isnan(figure[0]) else float(figure[0]) for figure in (told.mean, told.low, told.high)
        )
        found.append(Kept(arm_name(one), promised, low, high, len(search.errors(one)), named.get(arm_name(one))))
    return found
