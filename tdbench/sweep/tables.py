"""The summary of a sweep for people: Markdown that reads as plain text too, and says what its figures mean."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from tdbench.store.files import as_text, counted
from tdbench.store.rows import (
    SECONDARY,
    TEST_ERROR,
    TEST_ERROR_BN,
    Decision,
    RunResult,
    SummaryRow,
    TrialRow,
    Value,
)
from tdbench.sweep.columns import MISSING, is_skewed, joined_by, number, telling

ABOUT_ERRORS = f"""\
Errors are those of the last epoch, not of the best one, which would be picked on the test set and flatter every value.
± is the standard deviation over the n seeds, the 95 % interval Student's t interval of the mean. "dropped %" is the
share of units that the layer's mask really set to zero, images/s the training throughput. {MISSING} stands for what
cannot be said, mostly for want of seeds."""

ABOUT_BN = """\
"BN re-estimated" is the same network's test error with BatchNorm's running statistics estimated anew on training
images, without the regularizer, whose scaling shifts what BatchNorm averages while it trains. What remains of a
difference there is the method's; what is gone was due to those averages."""
BESIDE = "It is secondary: no verdict is about it, and its intervals are not corrected."
PRIMARY = "This is what the differences and verdicts here are about, as was declared (`--metric test_error_pct_bn`)."

ABOUT_DIFFERENCES = """\
A difference is value − baseline in {unit}, averaged over the seeds that both have; {better} 0 is better."""
ABOUT_PAIRS = (
    """Runs of one seed share initial weights, batches and augmentation, so what a seed does to both cancels."""
)
ABOUT_OWN_PAIRS = (
    """Runs of one seed are compared with each other; what else they share is what the script makes of the seed."""
)
ABOUT_FIXED = """\
p is the two-sided paired t-test's, after Holm's correction for the {num_compared} compared with the baseline here; in a
sweep of other values the same runs have another p, and may have another verdict. **helps** and **hurts** mean p ≤ 0.05:
of 100 sweeps in which nothing makes a difference, at most 5 claim one anywhere. The intervals are not corrected, so one
without 0 in it can stand beside **no detectable difference**. That verdict does not say equal: a true difference of the
points named would have been shown in at least 80 of 100 sweeps of so many seeds; of smaller ones nothing is said.
**too few seeds** decides nothing."""
ABOUT_LOOKS = """\
The sweep was looked at with other seeds before, which p does not allow for: who adds seeds until a difference shows
finds one in up to 23 of 100 sweeps without any. `--seeds 3..20` may be looked at as often as one likes."""
ABOUT_SEQUENTIAL = """\
The design is sequential and was declared before the sweep began: a look at {first} seeds and at every number up to
{last}, and no more seeds for a value that is decided. p is the sequential p of the paired t-tests so far, which holds
at all looks together, after Holm's correction for the {num_compared} compared with the baseline here; in a sweep of
other values the same runs have another p, and may have another verdict. **helps** and **hurts** mean p ≤ 0.05: of 100
sweeps in which nothing makes a difference, at most 5 claim one anywhere. The interval of a difference is the one that
holds at all looks together, for that value alone. **undecided** does not say equal: the difference is within it."""
ABOUT_SECONDARY = """\
Mean paired differences from the baseline over the seeds that count for the verdict, with their t intervals; less is
better. They are secondary: no verdict is about them, and nothing is corrected for their number, or for looks."""
ABOUT_SKEWED = """\
The paired differences are strongly skewed (more than two standard errors), where the t-test claims a difference more
often than 5 times in 100 if there is none; skewness:"""
ABOUT_EQUIVALENT = "**equivalent** means that the interval of the difference lies within ±{smallest:g}, as declared."


def summary_markdown(
    rows: Sequence[SummaryRow],
    keys: Sequence[str],
    *,
    subject: str,
    trials: Sequence[TrialRow] = (),
    published: Mapping[Any, float] | None = None,
    published_source: str = "",
    smallest: float | None = None,
    more_is_better: bool = False,
) -> str:
    """Return the text of `summary.md`.

    Args:
        rows: One per value.
        keys: The swept keys.
        subject: What all trials share, for the title: `targetdrop, resnet8 on digits, 20 epochs`.
        trials: One per trial; those that are not done are listed with their reason.
        published: Test errors in per cent to show beside ours, by the value of the swept key, or by the tuple of the
            values of several keys.
        published_source: Where the published errors were read.
        smallest: The smallest difference that matters, in per cent points, where one was declared.
        more_is_better: Of the metric.
    """
    paragraphs = [f"# Sweep of {' × '.join(keys)}: {subject}", _heading(rows), _summary(rows, keys, published)]
    if any(row.test_error_pct_mean is not None for row in rows):
        paragraphs.append(ABOUT_ERRORS)
    if any(row.test_error_pct_bn_mean is not None for row in rows):
        is_primary = any(row.metric == TEST_ERROR_BN for row in rows)
        paragraphs.append(f"{ABOUT_BN} {PRIMARY if is_primary else BESIDE}")
    if any(row.decision is Decision.BASELINE for row in rows):
        metric = rows[0].metric
        unit = "per cent points" if "_pct" in metric else metric
        unit += f" of {metric}" if "_pct" in metric and metric != TEST_ERROR else ""
        better = "above" if more_is_better else "below"
        pairs = ABOUT_OWN_PAIRS if is_own(rows) else ABOUT_PAIRS
        paragraphs.append(
            " ".join([ABOUT_DIFFERENCES.format(unit=unit, better=better), pairs, *about_design(rows, smallest)])
        )
    paragraphs += secondary(rows, keys) + skewed(rows)
    if published is not None:
        paragraphs.append(f"Published errors: {published_source}.")
        shown = {published_name(published, row.values, keys) for row in rows}
        if others := [f"{as_text(name)} {number(error)}" for name, error in published.items() if name not in shown]:
            paragraphs.append(f"Published, and not among the values here: {', '.join(map(_escaped, others))}.")
    return "\n\n".join([*paragraphs, *_unfinished(trials)]) + "\n"


def secondary(rows: Sequence[SummaryRow], keys: Sequence[str]) -> list[str]:
    """Return the differences of what is secondary as a table, with what it is; nothing where there are none."""
    compared = [row for row in rows if row.delta_test_loss is not None]
    if not compared:
        return []
    headings = [*keys, "test loss", "calibration error (ECE), points", "Brier score"]
    cells = [
        [*(_escaped(as_text(row.values[key])) for key in keys), *(difference(row, name) for name in SECONDARY)]
        for row in compared
    ]
    aligned = ["left"] * len(keys) + ["right"] * len(SECONDARY)
    shown = tabulate(
        cells, headers=list(map(_escaped, headings)), tablefmt="pipe", disable_numparse=True, colalign=aligned
    )
    return ["## Secondary", shown, ABOUT_SECONDARY]


def difference(row: SummaryRow, name: str) -> str:
    """Return the mean paired difference of a secondary figure with its interval."""
    form = "+.2f" if "_pct" in name else "+.4f"
    low, high = getattr(row, f"delta_{name}_ci95_low"), getattr(row, f"delta_{name}_ci95_high")
    interval = joined_by(" to ", low, high, form=form)
    return f"{number(getattr(row, f'delta_{name}'), form)} ({interval})"


def skewed(rows: Sequence[SummaryRow]) -> list[str]:
    """Return which values have strongly skewed differences, and what that means for p."""
    names = [f"{_named(row.values)} ({number(row.skewness)})" for row in rows if is_skewed(row.skewness, row.num_pairs)]
    return [f"{ABOUT_SKEWED} {'; '.join(names)}."] if names else []


def is_own(rows: Sequence[SummaryRow]) -> bool:
    """Return whether the rows are of a script of the user's, which reports no test error of tdbench's."""
    return any(row.n for row in rows) and all(row.test_error_pct_mean is None for row in rows)


def about_design(rows: Sequence[SummaryRow], smallest: float | None) -> list[str]:
    """Return what p, intervals and verdicts mean in the design of a sweep."""
    num_compared = counted(sum(row.p_holm is not None for row in rows), "value")
    if rows[0].design == "fixed":
        said = [ABOUT_FIXED.format(num_compared=num_compared)]
        said += [ABOUT_LOOKS] * bool(rows[0].looks)
    else:
        first, last = rows[0].design.split("..")
        said = [ABOUT_SEQUENTIAL.format(first=first, last=last, num_compared=num_compared)]
    return said + ([] if smallest is None else [ABOUT_EQUIVALENT.format(smallest=smallest)])


def _heading(rows: Sequence[SummaryRow]) -> str:
    """Return what the table holds, with n and the baseline."""
    fewest, most = min((row.n for row in rows), default=0), max((row.n for row in rows), default=0)
    n = f"n = {counted(most, 'seed')}" if fewest == most else f"n = {fewest} to {most} seeds"
    baselines = [row for row in rows if row.decision is Decision.BASELINE]
    compared = [f"compared seed by seed with the baseline {_named(row.values)}" for row in baselines]
    metric = rows[0].metric if rows else TEST_ERROR
    about = {TEST_ERROR: [], TEST_ERROR_BN: ["with BatchNorm's statistics re-estimated"]}.get(metric, [f"by {metric}"])
    compared = [" ".join([one, *about]) for one in compared]
    what = f"{_escaped(metric)}, as reported" if is_own(rows) else "Test error after the last epoch in per cent"
    return ", ".join([what, f"{n} per value", *compared]) + "."


def _summary(rows: Sequence[SummaryRow], keys: Sequence[str], published: Mapping[Any, float] | None) -> str:
    """Return a Markdown table without the columns that have nothing to show."""
    if not rows:
        return "No trial was planned."
    columns = telling(rows)
    headings = [*keys, *(column.heading.replace("\n", " ") for column in columns)]
    cells = [
        [*(_escaped(as_text(row.values[key])) for key in keys), *(one.cell(row) for one in columns)] for row in rows
    ]
    aligned = ["left"] * len(keys) + ["right" if column.is_figure else "left" for column in columns]
    if published is not None:
        headings, aligned = [*headings, "published error %"], [*aligned, "right"]
        for row, line in zip(rows, cells, strict=True):
            name = published_name(published, row.values, keys)
            line.append(number(None if name is None else published[name]))
    return tabulate(
        cells, headers=list(map(_escaped, headings)), tablefmt="pipe", disable_numparse=True, colalign=aligned
    )


def published_name(published: Mapping[Any, float], values: Mapping[str, Value], keys: Sequence[str]) -> Any:
    """Return the name of a row's published error: its value, the tuple of its values, or their text; or None."""
    row = tuple(values[key] for key in keys)
    names = (row[0] if len(keys) == 1 else row, ",".join(map(as_text, row)))
    return next((name for name in names if name in published), None)


def _unfinished(trials: Sequence[TrialRow]) -> list[str]:
    """Return the trials that gave no figure, with their reasons."""
    unfinished = [trial for trial in trials if not trial.result.is_done]
    if not unfinished:
        return []
    lines = []
    for trial in unfinished:
        why = _escaped(why_without_result(trial.result))
        lines.append(f"- {_named(trial.values)}, seed {trial.seed}: {why} (trial {trial.trial})")
    return [f"## Without a result: {len(unfinished)} of {counted(len(trials), 'trial')}", "\n".join(lines)]


def why_without_result(result: RunResult) -> str:
    """Return why a trial gave no figure."""
    return f"{result.status}: {result.error}" if result.error else str(result.status)


def _named(values: Mapping[str, Value]) -> str:
    return ", ".join(f"{_escaped(key)} {_escaped(as_text(value))}" for key, value in values.items())


def _escaped(text: str) -> str:
    """Return text on one line that Markdown shows as it is."""
    return re.sub(r"([\\|*`<\[\]])", r"\\\1", " ".join(text.split()))
