"""The summary of a sweep: the figures of each value, beside what the sweep's design says of it."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tdbench.store.rows import SECONDARY, TEST_ERROR, TEST_ERROR_BN, Decision, SummaryRow
from tdbench.sweep.inference import ALPHA, ROUNDING, Floats, estimate, interval_for_new_images, skewness
from tdbench.sweep.judging import Evidence, Judgement, K, differences_of, fixed, sequential, tables_of
from tdbench.sweep.sequential import level_at


def summarise(found: Evidence[K]) -> dict[K, SummaryRow]:
    """Return the rows of a summary, in the order of the values, without the swept values.

    In a fixed design a value `helps` or `hurts` where its Holm-corrected p is at most 0.05. Otherwise the verdict names
    a true difference that would have been seen with at least 80 % power, see `detectable_difference`, or says `(all
    pairs equal)` where every shared seed gave the baseline's error. It is `too few seeds` with fewer than three shared
    seeds, where the seeds show one difference without scatter and are too few for the sign test, and where not even a
    difference of 100 points would have been seen.

    In a sequential design p and interval are those that hold at all looks, and a value that is not decided is
    `not decided yet`, or `undecided` after the last look. In both, one whose interval lies within ±`smallest` is
    `equivalent`.

    Raises:
        ValueError: An error is NaN or not from 0 to 100, or a baseline is not among the values.
    """
    tables, pairs = tables_of(found)
    differences = differences_of(tables[found.metric], pairs)
    said = fixed(differences, found) if found.design is None else sequential(differences, pairs, found)
    for table in tables.values():  # what came after a decision does not count
        table[np.arange(table.shape[1]) >= said.num_seeds[:, None]] = np.nan
    columns = columns_of(tables, pairs, found.metric, said)
    figures = zip(*(_as_list(column) for column in columns.values()), strict=True)
    rows: dict[K, SummaryRow] = {}
    counted = tables[found.metric if np.isnan(tables[TEST_ERROR]).all() else TEST_ERROR]
    differences = differences_of(tables[found.metric], pairs)
    better = ((differences if found.more_is_better else -differences) > ROUNDING).sum(axis=1)
    of_images = images_intervals(found, tables[TEST_ERROR])
    for row, (value, figure) in enumerate(zip(found.errors, figures, strict=True)):
        decision = said.decisions[row]
        is_compared = decision is not None
        if decision is None:
            decision = Decision.BASELINE if value in found.baselines.values() else Decision.NO_BASELINE
        rows[value] = SummaryRow(
            values={},
            n=int(np.count_nonzero(~np.isnan(counted[row]))),
            verdict=said.words[row] + on_these_images(decision, of_images.get(value))
            if is_compared
            else decision.value,
            dropped_pct=None,
            train_img_per_s=None,
            num_better=int(better[row]) if is_compared else None,
            num_pairs=int(np.count_nonzero(~np.isnan(differences[row]))),
            delta_ci95_low_images=of_images[value].low if value in of_images else None,
            delta_ci95_high_images=of_images[value].high if value in of_images else None,
            metric=found.metric,
            design="fixed" if found.design is None else f"{found.design.first}..{found.design.last}",
            looks=" ".join(map(str, found.looks)),
            decision=decision,
            **dict(zip(columns, figure, strict=True)),
        )
    return rows


class ForNewImages(NamedTuple):
    """The interval of a difference for new seeds and new images."""

    low: float
    high: float
    num_images: int


def images_intervals(found: Evidence[K], counted: Floats) -> dict[K, ForNewImages]:
    """Return the interval for new images of each value whose counted seeds have outcomes of the same images."""
    if found.metric != TEST_ERROR or not found.outcomes:
        return {}
    seeds = found.seeds or sorted({seed for errors in found.errors.values() for seed in errors})
    at, intervals = {value: row for row, value in enumerate(found.errors)}, {}
    for value, baseline in found.baselines.items():
        both = ~np.isnan(counted[at[value]]) & ~np.isnan(counted[at[baseline]])
        shared = [seed for seed, is_counted in zip(seeds, both, strict=True) if is_counted]
        ours, theirs = ([found.outcomes.get(one, {}).get(seed) for seed in shared] for one in (value, baseline))
        images = {None if one is None else len(one) for one in (*ours, *theirs)}
        if len(images) != 1 or None in images:
            continue
        alpha = ALPHA if found.design is None else level_at(len(shared), found.design)
        low, high = interval_for_new_images(100 * (np.array(ours, dtype=np.float64) - np.array(theirs)), alpha)
        if not math.isnan(low):
            intervals[value] = ForNewImages(low, high, int(images.pop() or 0))
    return intervals


def on_these_images(decision: Decision, interval: ForNewImages | None) -> str:
    """Return what to add to a verdict that new images might not bear out."""
    if decision not in (Decision.HELPS, Decision.HURTS) or interval is None or not interval.low <= 0 <= interval.high:
        return ""
    return f" on these {interval.num_images:,} images"


def columns_of(
    tables: Mapping[str, Floats], pairs: Sequence[tuple[int, int]], metric: str, said: Judgement
) -> dict[str, Floats]:
    """Return the columns of a summary that are figures: of the errors, and of the differences from the baseline."""
    own, own_bn, of_metric = (estimate(tables[name]) for name in (TEST_ERROR, TEST_ERROR_BN, metric))
    delta, delta_bn = (estimate(differences_of(tables[name], pairs)) for name in (metric, TEST_ERROR_BN))
    secondary: dict[str, Floats] = {}
    for name in SECONDARY:
        of_name = estimate(differences_of(tables[name], pairs))
        low, high = f"delta_{name}_ci95_low", f"delta_{name}_ci95_high"
        secondary |= {f"delta_{name}": of_name.mean, low: of_name.low, high: of_name.high}
    return secondary | {
        "skewness": skewness(differences_of(tables[metric], pairs)),
        "test_error_pct_mean": own.mean,
        "test_error_pct_std": own.std,
        "ci95_low": own.low,
        "ci95_high": own.high,
        "delta_vs_baseline": delta.mean,
        "delta_ci95_low": said.low,
        "delta_ci95_high": said.high,
        "p_value": said.p_value,
        "p_holm": said.p_holm,
        "detectable": said.detectable,
        "test_error_pct_bn_mean": own_bn.mean,
        "test_error_pct_bn_std": own_bn.std,
        "ci95_bn_low": own_bn.low,
        "ci95_bn_high": own_bn.high,
        "delta_bn_vs_baseline": delta_bn.mean,
        "delta_bn_ci95_low": delta_bn.low,
        "delta_bn_ci95_high": delta_bn.high,
        "metric_mean": of_metric.mean,
        "metric_std": of_metric.std,
        "metric_ci95_low": of_metric.low,
        "metric_ci95_high": of_metric.high,
    }


def _as_list(column: Floats) -> list[float | None]:
    """Return a column as Python's numbers, None for NaN."""
    return [None if math.isnan(x) else x for x in column.tolist()]
