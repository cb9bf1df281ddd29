"""What a search leaves for people: `tune.md` with its pictures, and the importance of the knobs."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from tdbench.store.files import as_text, counted, open_file, to_csv, write_if_new
from tdbench.store.folders import CONFIRM, IMPORTANCE, PROMISED
from tdbench.store.rows import SummaryRow
from tdbench.sweep import lab
from tdbench.sweep.columns import joined_by, number
from tdbench.sweep.tune.asked import Subject
from tdbench.sweep.tune.confirming import Kept, baseline_of, kept
from tdbench.sweep.tune.folder import TUNE_TEXT
from tdbench.sweep.tune.search import Candidate, Search
from tdbench.user_code import short_name

MOST_SHOWN = 10
PROMISED_COLUMNS = (
    *("arm", "promised", "promised_ci95_low", "promised_ci95_high", "promised_n"),
    *("kept", "kept_ci95_low", "kept_ci95_high", "kept_n", "verdict"),
)
ABOUT_SEARCH = """\
Chosen on images held out of the training images, by the mean difference to the baseline over the same seeds, in per
cent points; negative is better. **A candidate that was chosen because it was the best of many looks better than it is**
(Cawley & Talbot 2010): these figures choose, they claim nothing. The test images were not read meanwhile."""
ABOUT_KEPT = """\
What the search promised on the held-out images, and what the confirmation kept of it on the test images, with seeds
that the search had not seen: differences to {baseline} in per cent points, negative is better. The verdicts come from
the confirmation alone; [`{confirm}/summary.md`]({confirm}/summary.md) says how."""
ABOUT_IMPORTANCE = """\
Share of the variation between candidates that a knob explains (fANOVA, Hutter et al. 2014), as estimated from {n}
candidates; the fewer they are, the rougher it is."""


def write_importance(search: Search) -> None:
    """Write `importance.csv`: a row per knob and subject, where there are candidates enough to tell."""
    rows = [
        {"regularizer": subject.method, "param": names[key], "importance": share}
        for subject in search.plan.subjects
        for names in [{one.key: one.name for one in subject.ranges}]
        for key, share in lab.ask("tdbench.sweep.tune.study:importance", search.question(subject)).items()
    ]
    write_if_new(search.folder / IMPORTANCE, to_csv(rows, ["regularizer", "param", "importance"]).encode())


def read_importance(search: Search) -> list[dict[str, str]]:
    """Return the rows of `importance.csv`."""
    with open_file(search.folder / IMPORTANCE) as file:
        return list(csv.DictReader(io.StringIO(file.read().decode())))


def write_text(search: Search, summary: tuple[SummaryRow, ...]) -> None:
    """Write `tune.md` and the pictures that it shows.

    Args:
        search: The search, which is over.
        summary: Of the confirmation; empty where there is none.
    """
    from tdbench.sweep.tune.pictures import draw_history, draw_importance

    plan = search.plan
    method, data = plan.base.regularizer.name, plan.base.data
    paragraphs = [f"# Search of {method}: {plan.base.model.name.rpartition('/')[2]} on {short_name(data.name)}"]
    for subject in plan.subjects:
        paragraphs += about_subject(search, subject)
    paragraphs.append(ABOUT_SEARCH)
    draw_history(search)
    paragraphs.append("![history of the search](history.png)")
    importance = read_importance(search)
    if any(len(subject.ranges) > 1 for subject in plan.subjects) and importance:
        about_importance = ABOUT_IMPORTANCE.format(n=search.num_over())
        draw_importance(search, importance)
        shown = [[row["regularizer"], row["param"], number(float(row["importance"]))] for row in importance]
        paragraphs += ["## Importance", table(["regularizer", "knob", "importance"], shown), about_importance]
        paragraphs.append("![importance of the knobs](importance.png)")
    if summary:
        write_promises(search, summary)
        about_kept = ABOUT_KEPT.format(confirm=CONFIRM, baseline=baseline_name(search))
        paragraphs += ["## Promised and kept", promises(search, summary), about_kept]
    write_if_new(search.folder / TUNE_TEXT, ("\n\n".join(paragraphs) + "\n").encode())


def baseline_name(search: Search) -> str:
    """Return what the confirmation compares with, in words."""
    baseline = baseline_of(search)
    if baseline is search.baseline:
        return "the baseline"
    names = {one.key: one.name for one in search.plan.subjects[1].ranges}
    told = ", ".join(f"{names[key]} {as_text(value)}" for key, value in baseline.values.items())
    best = search.ranking(search.plan.subjects[1])[0]
    since = (
        "" if best is baseline else ", as it was when the confirmation began: its search has found a better one since"
    )
    return f"the baseline, itself tuned ({told}{since})"


def about_subject(search: Search, subject: Subject) -> list[str]:
    """Return what was searched for a subject, and its best candidates."""
    own = [one for one in search.candidates if one.subject is subject]
    ranking = search.ranking(subject)
    num_failed = sum(search.state_of(one)[0] in ("failed", "diverged") for one in own)
    failed = f", {num_failed} failed" if num_failed else ""
    asked = search.plan.asked
    text = (
        f"{counted(len(ranking), 'candidate')} of {subject.method} by {asked.sampler}{failed}, n = "
        f"{counted(asked.search_seeds, 'run')} each: {'; '.join(f'`{one}`' for one in subject.ranges)}."
    )
    best = [
        [one.name, *(as_text(one.values.get(part.key)) for part in subject.ranges), *figures(search, one)]
        for one in ranking[:MOST_SHOWN]
    ]
    headings = ["candidate", *(one.name for one in subject.ranges), "held-out error %", "difference", "dropped %"]
    if search.ended_by_budget():
        text += f" The budget of {asked.budget} ended the search before its {asked.trials} candidates."
    if len(search.plan.subjects) > 1:
        text += " Differences here are to the baseline before its own search."
    return [f"## Candidates of {subject.method}", text, table(headings, best)]


def figures(search: Search, candidate: Candidate) -> list[str]:
    """Return what a candidate came to."""
    row = search.row_of(candidate)
    error = joined_by(" ± ", row["valid_error_pct_mean"], row["valid_error_pct_std"])
    return [error, number(row["delta_vs_baseline"], "+.2f"), number(row["dropped_pct"], ".3f")]


def write_promises(search: Search, summary: tuple[SummaryRow, ...]) -> None:
    """Write `promised.csv`: a row per arm of the confirmation, what the search promised of it and what was kept."""
    write_if_new(search.folder / PROMISED, to_csv(map(promise_row, kept(search, summary)), PROMISED_COLUMNS).encode())


def promise_row(one: Kept) -> dict[str, Any]:
    """Return a row of `promised.csv`; without a confirmation only what was promised."""
    row = {
        "arm": one.arm,
        "promised": one.promised,
        "promised_ci95_low": one.low,
        "promised_ci95_high": one.high,
        "promised_n": one.n,
    }
    if one.row is None:
        return row
    return row | {
        "kept": one.row.delta_vs_baseline,
        "kept_ci95_low": one.row.delta_ci95_low,
        "kept_ci95_high": one.row.delta_ci95_high,
        "kept_n": one.row.num_pairs,
        "verdict": one.row.verdict,
    }


def promises(search: Search, summary: tuple[SummaryRow, ...]) -> str:
    """Return the table of what was promised and what was kept."""
    lines = [promise(search, one) for one in kept(search, summary)]
    headings = ["arm", "promised", "n", "kept", "its 95 % interval", "n", "verdict"]
    return table(headings, lines)


def promise(search: Search, one: Kept) -> list[str]:
    """Return a line of that table."""
    row = one.row
    if row is None:
        return [one.arm, number(one.promised, "+.2f"), str(one.n), "—", "—", "0", "not confirmed"]
    interval = joined_by(" to ", row.delta_ci95_low, row.delta_ci95_high, form="+.2f")
    kept_of = number(row.delta_vs_baseline, "+.2f")
    return [one.arm, number(one.promised, "+.2f"), str(one.n), kept_of, interval, str(row.num_pairs), row.verdict]


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return tabulate(lines, headers=headings, tablefmt="pipe", disable_numparse=True)
