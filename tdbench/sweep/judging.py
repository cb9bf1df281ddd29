"""What the designs of a sweep say of each value, in decisions and in words.

A fixed design runs all its seeds and is looked at once; `sequential` describes the other.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tdbench.store.rows import SECONDARY, TEST_ERROR, TEST_ERROR_BN, Decision
from tdbench.sweep.inference import (
    ALPHA,
    MAX_DIFFERENCE,
    ROUNDING,
    Estimate,
    Floats,
    by_seed,
    detectable_difference,
    estimate,
    holm,
    paired_p_values,
)
from tdbench.sweep.sequential import Design, Standing, judge

K = TypeVar("K", bound=Hashable)
FEWEST_SEEDS = 3  # of which anything is said


@dataclass(frozen=True)
class Evidence(Generic[K]):
    """What a sweep has found, and how it was to be looked at.

    Attributes:
        errors: Value of the sweep -> seed -> test error of the last epoch, in per cent; unfinished trials left out.
        baselines: Value -> the value that it is compared with; a value that is not here is compared with nothing.
        errors_bn: The same values -> seed -> test error with BatchNorm's statistics re-estimated, where there is one.
        metric: The field of a result that the verdicts are about.
        more_is_better, in_points: Of the metric: more of it is better; it is in per cent, and a difference in points.
        figures: Of a metric that is neither: value -> seed -> that field.
        secondary: Field of a result -> value -> seed -> that field, of what is compared beside the metric.
        outcomes: Value -> seed -> (images,) which test images were wrong, where that is known.
        design: The looks of a sequential design; None: the seeds were fixed.
        ended: Of a sequential design: value -> the seeds whose trial has ended, with a figure or without.
        seeds: Of a sequential design: all seeds, in their order.
        smallest: The smallest difference that matters, in per cent points; None: every difference does.
        looks: Of a fixed design: numbers of seeds at which the sweep was looked at before, when it had others.
    """

    errors: Mapping[K, Mapping[int, float]]
    baselines: Mapping[K, K]
    errors_bn: Mapping[K, Mapping[int, float]] = field(default_factory=dict)
    metric: str = TEST_ERROR
    design: Design | None = None
    ended: Mapping[K, frozenset[int]] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    smallest: float | None = None
    looks: Sequence[int] = ()
    more_is_better: bool = False
    in_points: bool = True
    figures: Mapping[K, Mapping[int, float]] = field(default_factory=dict)
    outcomes: Mapping[K, Mapping[int, NDArray[np.bool_]]] = field(default_factory=dict)
    secondary: Mapping[str, Mapping[K, Mapping[int, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """What is said of each value, an entry per value; NaN, None or nothing of those that are not compared.

    Attributes:
        p_value, p_holm: Of the mean difference being 0, for itself and corrected.
        low, high: The interval of the difference.
        detectable: A true difference that would have been seen.
        decisions, words: The decision, and the verdict in words.
        num_seeds: Seeds of each value that count.
    """

    p_value: Floats
    p_holm: Floats
    low: Floats
    high: Floats
    detectable: Floats
    decisions: list[Decision | None]
    words: list[str]
    num_seeds: NDArray[np.int64]


def tables_of(found: Evidence[K]) -> tuple[dict[str, Floats], list[tuple[int, int]]]:
    """Return (values, seeds) each of the test errors, and the rows of each value and its baseline.

    Raises:
        ValueError: An error is NaN or not from 0 to 100, or a baseline is not among the values.
    """
    values = {value: row for row, value in enumerate(found.errors)}
    strangers = [baseline for baseline in found.baselines.values() if baseline not in values]
    if strangers:
        raise ValueError(f"a baseline must be one of the values {list(values)}, got {strangers[0]!r}")
    seeds = found.seeds or sorted({seed for errors in found.errors.values() for seed in errors})
    errors_bn = {value: found.errors_bn.get(value, {}) for value in values}
    in_pct = (0.0, 100.0) if found.in_points or found.metric != TEST_ERROR else (-math.inf, math.inf)
    tables = {TEST_ERROR: by_seed(found.errors, seeds, in_pct), TEST_ERROR_BN: by_seed(errors_bn, seeds, in_pct)}
    if found.metric not in tables:
        tables[found.metric] = by_seed({value: found.figures.get(value, {}) for value in values}, seeds)
    for name in SECONDARY:
        of_values = found.secondary.get(name, {})
        if name not in tables:
            tables[name] = by_seed({value: of_values.get(value, {}) for value in values}, seeds)
    return tables, [(values[value], values[baseline]) for value, baseline in found.baselines.items()]


def differences_of(table: Floats, pairs: Sequence[tuple[int, int]]) -> Floats:
    """Return (values, seeds) the differences of `pairs` (row, baseline) in a table; NaN for rows that are in none."""
    differences = np.full_like(table, np.nan)
    for row, baseline in pairs:
        differences[row] = table[row] - table[baseline]
    return differences


# A fixed design


def fixed(differences: Floats, found: Evidence[K]) -> Judgement:
    """Return what one look at all seeds says."""
    delta = estimate(differences)
    p_value = paired_p_values(delta)
    p_holm = holm(p_value)
    num_compared = max(1, int(np.count_nonzero(~np.isnan(p_holm))))
    detectable = detectable_difference(delta.n, delta.std, num_compared)
    most = MAX_DIFFERENCE if found.in_points else math.inf
    detectable[~((detectable > 0) & (detectable <= most))] = np.nan  # no scatter, or more than there can be
    decisions: list[Decision | None] = []
    words = []
    for row, value in enumerate(found.errors):
        if value not in found.baselines:
            decisions.append(None)
            words.append("")
            continue
        decision = _decide(delta, row, float(p_holm[row]), float(detectable[row]), found)
        decisions.append(decision)
        words.append(fixed_verdict(decision, float(detectable[row]), found))
    num_seeds = np.full(len(differences), differences.shape[1])
    return Judgement(p_value, p_holm, delta.low, delta.high, detectable, decisions, words, num_seeds)


def _decide(delta: Estimate, row: int, p_holm: float, detectable: float, found: Evidence[K]) -> Decision:
    n, mean, std, smallest = int(delta.n[row]), float(delta.mean[row]), float(delta.std[row]), found.smallest
    if n < FEWEST_SEEDS:
        return Decision.TOO_FEW
    if p_holm <= ALPHA:
        return Decision.HELPS if (mean < 0) != found.more_is_better else Decision.HURTS
    if smallest is not None and -smallest < delta.low[row] and delta.high[row] < smallest:
        return Decision.EQUIVALENT
    all_pairs_equal = std == 0 and abs(mean) <= ROUNDING
    return Decision.UNDETECTED if all_pairs_equal or not math.isnan(detectable) else Decision.TOO_FEW


def fixed_verdict(decision: Decision, detectable: float, found: Evidence[K]) -> str:
    """Return a decision in words, with what could have been seen, and the looks that no p is corrected for."""
    words = decision.value
    if decision is Decision.EQUIVALENT:
        words = f"{words} within ±{found.smallest:g}"
    elif decision is Decision.UNDETECTED:
        seen = "all pairs equal"
        if not math.isnan(detectable):
            seen = f"could have seen ≥ {detectable:.3g}"
            if found.in_points:
                seen = f"could have seen ≥ {math.ceil(100 * detectable) / 100:.2f} points"
        words = f"{words} ({seen})"
    if found.looks and decision is not Decision.TOO_FEW:
        counts = " and ".join(map(str, [*found.looks, len(found.seeds)] if found.seeds else found.looks))
        words = f"{words} (looked at n = {counts}: not corrected for that)"
    return words


# A sequential design


def sequential(differences: Floats, pairs: Sequence[tuple[int, int]], found: Evidence[K]) -> Judgement:
    """Return what the looks so far say, and which seeds of each value count: those to its decision."""
    assert found.design is not None
    num_values, last = differences.shape
    rows = [row for row, _ in pairs]
    standing = standing_of(differences, pairs, found)
    nothing = np.full(num_values, np.nan)
    p_value, p_holm, low, high = nothing.copy(), nothing.copy(), nothing.copy(), nothing.copy()
    p_value[rows], p_holm[rows], low[rows], high[rows] = standing.p, standing.p_holm, standing.low, standing.high
    decisions: list[Decision | None] = [None] * num_values
    words, num_seeds = [""] * num_values, np.full(num_values, last)
    for at, row in enumerate(rows):
        decision = standing.decisions[at] or Decision.PENDING
        decisions[row], words[row] = decision, sequential_verdict(decision, standing, at, found)
        if standing.num_seeds[at]:  # of a value that was not looked at yet, all that there are
            num_seeds[row] = standing.num_seeds[at]
    return Judgement(p_value, p_holm, low, high, nothing, decisions, words, num_seeds)


def seeds_wanted(found: Evidence[K]) -> dict[K, int]:
    """Return how many seeds, in their order, each value is to have by now: to its decision, or to the next look."""
    assert found.design is not None
    tables, pairs = tables_of(found)
    standing = standing_of(differences_of(tables[found.metric], pairs), pairs, found)
    wanted = dict.fromkeys(found.errors, 0)
    for at, (value, baseline) in enumerate(found.baselines.items()):
        wanted[value] = standing.wanted if standing.decisions[at] is None else int(standing.num_seeds[at])
        wanted[baseline] = max(wanted[baseline], wanted[value])
    return wanted


def standing_of(differences: Floats, pairs: Sequence[tuple[int, int]], found: Evidence[K]) -> Standing:
    """Return where the values stand that are compared, in the order of `pairs`."""
    assert found.design is not None
    ended = np.array([[seed in found.ended[value] for seed in found.seeds] for value in found.errors], dtype=bool)
    both = np.array([ended[row] & ended[baseline] for row, baseline in pairs], dtype=bool)
    return judge(differences[[row for row, _ in pairs]], both.reshape(len(pairs), len(found.seeds)), found.design)


def sequential_verdict(decision: Decision, standing: Standing, at: int, found: Evidence[K]) -> str:
    """Return a decision in words, with what is known of what is not decided."""
    design, form = found.design, "+.2f" if found.in_points else "+.3g"
    assert design is not None
    n, low, high = int(standing.estimate.n[at]), float(standing.low[at]), float(standing.high[at])
    if decision is Decision.EQUIVALENT:
        return f"{decision.value} within ±{design.smallest:g}"
    if decision is Decision.PENDING and n == 0:
        return f"{decision.value} (its first look waits for runs)"
    if decision is Decision.PENDING:
        return f"{decision.value} ({n} of at most {design.last} seeds)"
    if decision is not Decision.UNDECIDED:
        return decision.value
    if math.isnan(low):
        return f"{decision.value} at {n} seeds" + (" (all pairs equal)" if standing.estimate.mean[at] == 0 else "")
    between = f"{low:{form}} and {high:{form}}".replace("-", "−")
    return f"{decision.value} at {n} seeds (the difference is between {between})"
