"""What a picture of a sweep shows, and where: which key runs along the axis, which give colours, what is in view."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from numbers import Real
from typing import Any

from tdbench.store.files import as_text
from tdbench.store.rows import TEST_ERROR, TEST_ERROR_BN, Decision, SummaryRow, TrialRow, Value

MOST_ROWS = 60  # of names; more make a picture that nobody reads


@dataclass(frozen=True)
class Mark:
    """One value of the sweep; NaN where there is no figure."""

    name: str
    place: Any  # the value of the key along the axis
    series: str  # the values of the other keys
    mean: float
    std: float
    low: float
    high: float
    seeds: list[float]
    decision: Decision
    beside: float  # the mean of the other test error: with BatchNorm's statistics re-estimated, or as it was

    @property
    def is_baseline(self) -> bool:
        """Whether the others are compared with it."""
        return self.decision is Decision.BASELINE

    @property
    def has_result(self) -> bool:
        """Whether a seed finished."""
        return not math.isnan(self.mean)


@dataclass(frozen=True)
class Arrangement:
    """A sweep laid out.

    Attributes:
        axis: The key along the axis; all keys where every combination has a row of its own.
        others: The keys that give the colours.
        is_numeric: The values along the axis are numbers, but for the baseline's.
        marks: What is shown, in the order of the sweep.
        metric: What the marks are, a field of a result.
        lowest: What no mark is below.
        order: The rows of names, where they are those of another picture; None: the lowest mean comes first.
        num_left_out: Values that are not shown, for want of rows; they have the highest errors, or none.
    """

    axis: list[str]
    others: list[str]
    is_numeric: bool
    marks: list[Mark]
    metric: str = TEST_ERROR
    num_left_out: int = 0
    lowest: float = 0.0
    order: dict[str, int] | None = None

    @cached_property
    def baseline(self) -> Mark | None:
        """What the others are compared with, if it has a result."""
        return next((mark for mark in self.marks if mark.is_baseline and mark.has_result), None)

    @cached_property
    def placed(self) -> list[Mark]:
        """The marks that have a place on the axis: all but a baseline that is no number among numbers."""
        return [mark for mark in self.marks if not self.is_numeric or is_number(mark.place)]

    @cached_property
    def series(self) -> dict[str, list[Mark]]:
        """The placed marks of each colour; a baseline outside the grid has none."""
        in_grid = {mark.series for mark in self.marks if not mark.is_baseline}
        series: dict[str, list[Mark]] = defaultdict(list)
        for mark in self.placed:
            if mark.series in in_grid:
                series[mark.series].append(mark)
        return series

    @cached_property
    def rows(self) -> dict[str, int]:
        """The rows of an axis of names, the one with the lowest error first."""
        if self.order is not None:
            return self.order
        ranked = sorted(self.marks, key=lambda mark: mark.mean if mark.has_result else math.inf)
        return {place: row for row, place in enumerate(dict.fromkeys(as_text(mark.place) for mark in ranked))}

    def position(self, mark: Mark) -> float:
        """Return where a placed mark stands along the axis."""
        return float(mark.place) if self.is_numeric else self.rows[as_text(mark.place)]

    def error_limits(self) -> tuple[float, float]:
        """Return the errors in view: all means and seeds, and the intervals unless they would dwarf those."""
        points = [x for mark in self.marks for x in (mark.mean, mark.beside, *mark.seeds) if not math.isnan(x)]
        ends = [x for mark in self.marks for x in (mark.low, mark.high) if not math.isnan(x)]
        if not points:
            return 0.0, 100.0
        spread = max(points) - min(points) or 0.5
        low = max(min(points + ends), min(points) - spread, self.lowest)
        high = min(max(points + ends), max(points) + spread)
        pad = 0.05 * (high - low) or 0.5
        return low - pad, high + pad


def arrange(
    rows: Sequence[SummaryRow], keys: Sequence[str], trials: Sequence[TrialRow], most_series: int
) -> Arrangement:
    """Lay a sweep out: numbers along the axis before names, many values before few.

    Args:
        rows: One per value.
        keys: The swept keys.
        trials: One per trial.
        most_series: How many colours there are; with more series, each combination gets a row of its own.
    """
    compared = [row.values for row in rows if row.decision is not Decision.BASELINE]
    numeric = [key for key in keys if compared and all(is_number(values[key]) for values in compared)]
    along = max(numeric or keys, key=lambda key: len({as_text(values[key]) for values in compared}))
    axis, others = [along], [key for key in keys if key != along]
    if len({name_of(values, others) for values in compared}) > most_series:
        axis, others = list(keys), []
    metric, shown, beside = what_is_shown(rows)
    seeds = defaultdict(list)
    for trial in trials:
        if trial.result.is_done and (error := trial.result.figure(metric)) is not None:
            seeds[name_of(trial.values, keys)].append(error)
    marks = [
        Mark(
            name=name_of(row.values, keys),
            place=row.values[along] if len(axis) == 1 else name_of(row.values, keys),
            series=name_of(row.values, others),
            **dict(zip(("mean", "std", "low", "high"), (_figure(getattr(row, name)) for name in shown), strict=True)),
            seeds=seeds[name_of(row.values, keys)],
            decision=row.decision,
            beside=_figure(getattr(row, beside)) if beside else math.nan,
        )
        for row in rows
    ]
    lowest = 0.0 if metric in (TEST_ERROR, TEST_ERROR_BN) else -math.inf
    whole = Arrangement(axis, others, axis[0] in numeric and len(axis) == 1, marks, metric, lowest=lowest)
    if whole.is_numeric or len(whole.rows) <= MOST_ROWS:
        return whole
    kept = [mark for mark in marks if mark.is_baseline or whole.position(mark) < MOST_ROWS]
    return replace(whole, marks=kept, num_left_out=len(marks) - len(kept))


def what_is_shown(rows: Sequence[SummaryRow]) -> tuple[str, tuple[str, ...], str | None]:
    """Return the field of a result that a picture shows, the columns with its figures, and the one beside it."""
    plain = ("test_error_pct_mean", "test_error_pct_std", "ci95_low", "ci95_high")
    re_estimated = ("test_error_pct_bn_mean", "test_error_pct_bn_std", "ci95_bn_low", "ci95_bn_high")
    if rows and all(row.test_error_pct_mean is None for row in rows):  # a script of the user's has its own metric
        return rows[0].metric, ("metric_mean", "metric_std", "metric_ci95_low", "metric_ci95_high"), None
    if any(row.metric == TEST_ERROR_BN for row in rows):
        return TEST_ERROR_BN, re_estimated, plain[0]
    return TEST_ERROR, plain, re_estimated[0]


def differences(
    sweep: Arrangement, rows: Sequence[SummaryRow], keys: Sequence[str], trials: Sequence[TrialRow]
) -> Arrangement | None:
    """Return the paired differences from the baseline in the places of a sweep's errors; None where there are none.

    A single seed's difference is shown where all values have one baseline.
    """
    by_name = {name_of(row.values, keys): row for row in rows}
    errors: dict[str, dict[int, float]] = defaultdict(dict)
    for trial in trials:
        if trial.result.is_done and (error := trial.result.figure(sweep.metric)) is not None:
            errors[name_of(trial.values, keys)][trial.seed] = error
    baselines = [name for name, row in by_name.items() if row.decision is Decision.BASELINE]
    theirs = errors[baselines[0]] if len(baselines) == 1 else {}
    marks = []
    for mark in sweep.marks:
        row = by_name[mark.name]
        if mark.is_baseline or row.delta_vs_baseline is None or row.metric != sweep.metric:
            continue
        ours = list(errors[mark.name].items())[: row.n]  # those that count
        marks.append(
            replace(
                mark,
                mean=row.delta_vs_baseline,
                low=_figure(row.delta_ci95_low),
                high=_figure(row.delta_ci95_high),
                seeds=[error - theirs[seed] for seed, error in ours if seed in theirs],
                beside=_figure(row.delta_bn_vs_baseline if sweep.metric == TEST_ERROR else None),
            )
        )
    if not marks:
        return None
    return replace(sweep, marks=marks, lowest=-math.inf, order=None if sweep.is_numeric else sweep.rows)


def is_geometric(places: Sequence[float]) -> bool:
    """Return whether rising values grow by about the same factor each, as 0.01, 0.03, 0.1, and 8-fold or more."""
    if len(places) < 3 or places[0] <= 0 or places[-1] < 8 * places[0]:
        return False
    factors = [after / before for before, after in pairwise(places)]
    return max(factors) <= 1.3 * min(factors)


def name_of(values: Mapping[str, Value], keys: Sequence[str]) -> str:
    """Return the values of these keys as one name; a baseline that is `none` for all of them is `none`."""
    labels = [as_text(values[key]) for key in keys]
    return labels[0] if len(set(labels)) == 1 else " · ".join(labels)


def is_number(value: Any) -> bool:
    """Return whether a value of the sweep can stand on a numeric axis."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _figure(x: float | None) -> float:
    return math.nan if x is None else float(x)
