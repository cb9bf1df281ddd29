"""The summary of a sweep for people: Markdown that reads as plain text too, and says what its figures mean."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from tdbench.results.store import label

Row = Mapping[str, Any]

MISSING = "—"

ABOUT_ERRORS = f"""\
Errors are those of the last epoch, not of the best one, which would be picked on the test set and flatter every value.
± is the standard deviation over the n seeds, the 95 % interval Student's t interval of the mean. "dropped %" is the
share of units that the layer's mask really set to zero, images/s the training throughput. {MISSING} stands for what
cannot be said, mostly for want of seeds."""

ABOUT_DIFFERENCES = """\
A difference is value − baseline in per cent points, averaged over the seeds that both have; below 0 is better. Runs of
one seed share initial weights, batches and augmentation, so what a seed does to both cancels. p is the two-sided paired
t-test's, after Holm's correction for the {num_compared} compared with the baseline. **helps** and **hurts** mean
p ≤ 0.05: of 100 sweeps in which nothing makes a difference, at most 5 claim one anywhere. The intervals are not
corrected, so one without 0 in it can stand beside **no detectable difference**. That verdict does not say equal: the
points named are the smallest true difference that these seeds, with this scatter, would have shown in 80 of 100 sweeps.
**too few seeds** decides nothing."""


def summary_markdown(
    rows: Sequence[Row],
    keys: Sequence[str],
    *,
    subject: str,
    trials: Sequence[Row] = (),
    published: Mapping[Any, float] | None = None,
    published_source: str = "",
) -> str:
    """Return the text of `summary.md`.

    Args:
        rows: One per value, with the columns of `summary.csv`; None or NaN is a figure that is missing.
        keys: The swept keys, which are columns of `rows` and of `trials`.
        subject: What all trials share, for the title: `targetdrop, resnet8 on digits, 20 epochs`.
        trials: One per trial, with the columns of `trials.csv`; those that are not done are listed with their reason.
        published: Test errors in per cent to show beside ours, by the value of the swept key, or by the tuple of the
            values of several keys.
        published_source: Where the published errors were read.
    """
    shown = [_cells(row, keys) for row in rows]
    if published is not None:
        for row, cells in zip(rows, shown, strict=True):
            value = tuple(row[key] for key in keys)
            cells["published error %"] = _number(published.get(value[0] if len(keys) == 1 else value))
    paragraphs = [f"# Sweep of {' × '.join(keys)}: {subject}", _heading(rows, keys), _table(shown), ABOUT_ERRORS]
    if any(row["verdict"] == "baseline" for row in rows):
        num_compared = _counted(sum(not _is_missing(row["p_holm"]) for row in rows), "value")
        paragraphs.append(ABOUT_DIFFERENCES.format(num_compared=num_compared))
    if published is not None:
        paragraphs.append(f"Published errors: {published_source}.")
    return "\n\n".join([*paragraphs, *_unfinished(trials, keys)]) + "\n"


def _heading(rows: Sequence[Row], keys: Sequence[str]) -> str:
    """Return what the table holds, with n and the baseline."""
    fewest, most = min((row["n"] for row in rows), default=0), max((row["n"] for row in rows), default=0)
    n = f"n = {_counted(most, 'seed')}" if fewest == most else f"n = {fewest} to {most} seeds"
    compared = [
        f"compared seed by seed with the baseline {_value(row, keys)}" for row in rows if row["verdict"] == "baseline"
    ]
    return ", ".join(["Test error after the last epoch in per cent", f"{n} per value", *compared]) + "."


def _cells(row: Row, keys: Sequence[str]) -> dict[str, str]:
    """Return a row of `summary.csv` as a reader wants it."""
    return {
        **{key: _plain(label(row[key])) for key in keys},
        "n": str(row["n"]),
        "error % (mean ± std)": " ± ".join(_numbers(row, "test_error_pct_mean", "test_error_pct_std")) or MISSING,
        "95 % interval": " to ".join(_numbers(row, "ci95_low", "ci95_high")) or MISSING,
        "difference": _number(row["delta_vs_baseline"], "+.2f"),
        "its 95 % interval": " to ".join(_numbers(row, "delta_ci95_low", "delta_ci95_high", form="+.2f")) or MISSING,
        "p (Holm)": _p(row["p_holm"]),
        "verdict": row["verdict"],
        "dropped %": _number(row["dropped_pct"]),
        "images/s": _number(row["train_img_per_s"], ",.0f"),
    }


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return a Markdown table without the columns that have nothing to show."""
    if not rows:
        return "No trial was planned."
    columns = [name for name in rows[0] if name == "verdict" or any(row[name] != MISSING for row in rows)]
    words = {"verdict", *list(rows[0])[: list(rows[0]).index("n")]}
    return tabulate(
        [[row[name] for name in columns] for row in rows],
        headers=[_plain(name) for name in columns],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left" if name in words else "right" for name in columns],
    )


def _unfinished(trials: Sequence[Row], keys: Sequence[str]) -> list[str]:
    """Return the trials that gave no figure, with their reasons."""
    unfinished = [trial for trial in trials if trial["status"] != "done"]
    if not unfinished:
        return []
    lines = [
        f"- {_value(trial, keys)}, seed {trial['seed']}: {_reason(trial)} (trial {trial['trial']})"
        for trial in unfinished
    ]
    return [f"## Without a result: {len(unfinished)} of {_counted(len(trials), 'trial')}", "\n".join(lines)]


def _reason(trial: Row) -> str:
    error = trial.get("error")
    return _plain(trial["status"] if _is_missing(error) or not error else f"{trial['status']}: {error}")


def _value(row: Row, keys: Sequence[str]) -> str:
    return ", ".join(f"{_plain(key)} {_plain(label(row[key]))}" for key in keys)


def _numbers(row: Row, *columns: str, form: str = ".2f") -> list[str]:
    return [_number(row[column], form) for column in columns if not _is_missing(row[column])]


def _number(x: float | None, form: str = ".2f") -> str:
    """Return a figure with a proper minus sign, and none on a rounded 0."""
    if x is None or _is_missing(x):
        return MISSING
    text = format(x, form)
    return (text.lstrip("+-") if float(text.replace(",", "")) == 0 else text).replace("-", "−")


def _p(x: float | None) -> str:
    return "<0.001" if x is not None and x < 0.001 else _number(x, ".3f")


def _is_missing(x: Any) -> bool:
    return x is None or (isinstance(x, float) and math.isnan(x))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _plain(text: str) -> str:
    """Return text on one line that Markdown shows as it is."""
    return re.sub(r"([\\|*`<\[\]])", r"\\\1", " ".join(text.split()))
