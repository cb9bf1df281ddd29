"""What a sweep shows, and with what certainty: paired differences, t intervals, Holm's correction, a verdict in words.

Runs of one seed share their initial weights, batches and augmentation, so every value is compared with the baseline
seed by seed. Student's t and its noncentral kin are scipy's; Holm's step-down correction
(Scandinavian Journal of Statistics 6, 1979) is here.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tdbench.store.rows import TEST_ERROR, TEST_ERROR_BN, Decision, SummaryRow

ALPHA = 0.05  # of a whole sweep: the chance of a single `helps` or `hurts` where nothing does
POWER = 0.8
SCATTER_CONFIDENCE = 0.8  # that the true scatter is below the bound which the detectable difference is taken from
MAX_DIFFERENCE = 100.0  # between two errors in per cent
ROUNDING = 1e-9  # per cent points: more than floats lose in a difference, far less than one image of any test set

K = TypeVar("K", bound=Hashable)
Floats = NDArray[np.float64]


def summarise(
    errors: Mapping[K, Mapping[int, float]],
    baselines: Mapping[K, K],
    errors_bn: Mapping[K, Mapping[int, float]] | None = None,
    metric: str = TEST_ERROR,
) -> dict[K, SummaryRow]:
    """Return what the errors of a sweep say of each value, in the order given; rows without the swept values.

    A value `helps` or `hurts` where its Holm-corrected p is at most 0.05. Otherwise the verdict names a true
    difference that would have been seen with at least 80 % power, see `detectable_difference`, or says `(all pairs
    equal)` where every shared seed gave the baseline's error. It is `too few seeds` with fewer than three shared seeds,
    where the seeds show one difference without scatter and are too few for the sign test, and where not even a
    difference of 100 points would have been seen.

    Args:
        errors: Value of the sweep -> seed -> test error of the last epoch, in per cent; unfinished trials left out.
        baselines: Value -> the value that it is compared with; a value that is not here is compared with nothing.
        errors_bn: The same values -> seed -> test error with BatchNorm's statistics re-estimated; None: there is none.
        metric: Which of the two the verdicts are about.

    Raises:
        ValueError: An error is NaN or not from 0 to 100, or a baseline is not among the values.
    """
    values = {value: row for row, value in enumerate(errors)}
    strangers = [baseline for baseline in baselines.values() if baseline not in values]
    if strangers:
        raise ValueError(f"a baseline must be one of the values {list(values)}, got {strangers[0]!r}")
    pairs = [(values[value], values[baseline]) for value, baseline in baselines.items()]
    of_bn = errors_bn or {value: {} for value in errors}
    of_each = {TEST_ERROR: estimates(errors, pairs), TEST_ERROR_BN: estimates(of_bn, pairs)}
    (own, _), (own_bn, delta_bn), (_, delta) = *of_each.values(), of_each[metric]
    p_values = paired_p_values(delta)
    p_holm = holm(p_values)
    num_compared = max(1, int(np.count_nonzero(~np.isnan(p_holm))))
    detectable = detectable_difference(delta.n, delta.std, num_compared)
    columns = columns_of(own, own_bn, delta, delta_bn) | {"p_value": p_values, "p_holm": p_holm}
    figures = zip(*map(_as_list, columns.values()), strict=True)
    rows: dict[K, SummaryRow] = {}
    for (value, row), figure in zip(values.items(), figures, strict=True):
        seen: float | None = None
        if value in baselines:
            seen = _detected(float(detectable[row]))
            n, mean, std = int(delta.n[row]), float(delta.mean[row]), float(delta.std[row])
            decision = _decide(n, mean, std, float(p_holm[row]), seen)
        else:
            decision = Decision.BASELINE if value in baselines.values() else Decision.NO_BASELINE
        rows[value] = SummaryRow(
            values={},
            n=int(own.n[row]),
            verdict=verdict(decision, seen),
            dropped_pct=None,
            train_img_per_s=None,
            detectable=seen,
            metric=metric,
            decision=decision,
            **dict(zip(columns, figure, strict=True)),
        )
    return rows


class Estimate(NamedTuple):
    """What each row of samples says of its mean; NaN where the samples are too few.

    Attributes:
        n: (values,) the samples of each row.
        mean, std, low, high: (values,) with the bounds of the 95 % t interval.
    """

    n: NDArray[np.int64]
    mean: Floats
    std: Floats
    low: Floats
    high: Floats


def estimates(errors: Mapping[Any, Mapping[int, float]], pairs: Sequence[tuple[int, int]]) -> tuple[Estimate, Estimate]:
    """Return what each value's errors say of their mean, and what the differences of `pairs` (row, baseline) say."""
    table = _by_seed(errors)
    differences = np.full_like(table, np.nan)
    for row, baseline in pairs:
        differences[row] = table[row] - table[baseline]
    return estimate(table), estimate(differences)


def columns_of(own: Estimate, own_bn: Estimate, delta: Estimate, delta_bn: Estimate) -> dict[str, Floats]:
    """Return the columns of a summary that are estimates: of the errors, and of the differences from the baseline."""
    return {
        "test_error_pct_mean": own.mean,
        "test_error_pct_std": own.std,
        "ci95_low": own.low,
        "ci95_high": own.high,
        "delta_vs_baseline": delta.mean,
        "delta_ci95_low": delta.low,
        "delta_ci95_high": delta.high,
        "test_error_pct_bn_mean": own_bn.mean,
        "test_error_pct_bn_std": own_bn.std,
        "ci95_bn_low": own_bn.low,
        "ci95_bn_high": own_bn.high,
        "delta_bn_vs_baseline": delta_bn.mean,
        "delta_bn_ci95_low": delta_bn.low,
        "delta_bn_ci95_high": delta_bn.high,
    }


def estimate(samples: Floats) -> Estimate:
    """Return size, mean, standard deviation and 95 % t interval of each row of (values, seeds), NaN = missing."""
    n = np.count_nonzero(~np.isnan(samples), axis=1)
    spread = np.nanmax(samples, axis=1, initial=-math.inf) - np.nanmin(samples, axis=1, initial=math.inf)
    with np.errstate(invalid="ignore", divide="ignore"):  # a mean of nothing, a deviation of one
        mean = np.nansum(samples, axis=1) / n
        std = np.sqrt(np.nansum((samples - mean[:, None]) ** 2, axis=1) / (n - 1))
        std = np.where(spread > ROUNDING, std, np.where(n > 1, 0.0, np.nan))
        half = special.stdtrit(n - 1, 1 - ALPHA / 2) * std / np.sqrt(n)
    half[std == 0] = np.nan
    return Estimate(n, mean, std, mean - half, mean + half)


def paired_p_values(delta: Estimate) -> Floats:
    """Return the two-sided p of each mean difference being 0: the paired t-test; NaN for fewer than two pairs.

    Where all differences of a value are equal, the t-test has no scatter to measure them by: it is 0/0, or claims
    p = 0 from two errors on a coarse scale, such as 360 test images. The exact sign test needs none: n equal signs
    have p = 2^(1-n), which six seeds bring below 0.05, and ties only have p = 1.
    """
    n, mean, std = delta.n, delta.mean, delta.std
    with np.errstate(invalid="ignore", divide="ignore"):
        p_values = 2 * special.stdtr(n - 1, -np.abs(mean) / (std / np.sqrt(n)))
    sign_test = np.where(np.abs(mean) <= ROUNDING, 1.0, 2.0 ** (1 - n))
    return np.where(std == 0, sign_test, p_values)


def holm(p_values: Floats) -> Floats:
    """Return Holm's step-down correction of p-values; NaN stands for a test that was not made, and is not counted."""
    corrected = np.full_like(p_values, np.nan)
    num_tests = np.count_nonzero(~np.isnan(p_values))
    rising = np.argsort(p_values)[:num_tests]  # NaN sorts last
    steps = p_values[rising] * np.arange(num_tests, 0, -1)
    corrected[rising] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected


def detectable_difference(n: NDArray[np.int64], std: Floats, num_compared: int) -> Floats:
    """Return a true difference that n seeds would have shown with at least 80 % power, in per cent points.

    It is the difference for which |t| exceeds the two-sided critical value of ALPHA / num_compared in 80 % of sweeps
    (noncentral t; the chance of the wrong sign, below 1e-5, is neglected). That is the first and hardest step of
    Holm's correction, which a single true effect has to pass. The verdict is decided on that scale, so the figure is
    too: an uncorrected one would promise more than the verdict can keep.

    The true scatter is unknown, and that of few seeds too small as often as not: with it in its place, 62 to 77 % of
    sweeps would see the difference. So an upper bound takes its place, which holds with a confidence of 80 %, and then
    87 to 89 % do (by simulation, in the tests).

    Args:
        n: (values,) shared seeds; NaN is returned for fewer than three, which bound nothing.
        std: (values,) standard deviation of the differences.
        num_compared: Values compared with the baseline.
    """
    sizes, size_of = np.unique(n, return_inverse=True)  # the inverse is slow, and sizes are few
    critical_t = -special.stdtrit(sizes - 1, ALPHA / num_compared / 2)
    shift = special.nctdtrinc(sizes - 1, 1 - POWER, critical_t)
    with np.errstate(invalid="ignore", divide="ignore"):
        smallest_square = special.chdtri(sizes - 1, SCATTER_CONFIDENCE)  # of the seeds' scatter, in that confidence
        shift = np.where(sizes > 2, shift * np.sqrt((sizes - 1) / smallest_square), np.nan)
        return shift[size_of] * std / np.sqrt(n)


def _detected(detectable: float) -> float | None:
    """Return the detectable difference; None where there is none: no pairs, no scatter, or more than there can be."""
    return detectable if 0 < detectable <= MAX_DIFFERENCE else None


def _decide(n: int, mean: float, std: float, p_holm: float, detectable: float | None) -> Decision:
    if p_holm <= ALPHA:
        return Decision.HELPS if mean < 0 else Decision.HURTS
    all_pairs_equal = std == 0 and abs(mean) <= ROUNDING and n > 2  # of two seeds nothing is said
    return Decision.UNDETECTED if all_pairs_equal or detectable is not None else Decision.TOO_FEW


def verdict(decision: Decision, detectable: float | None) -> str:
    """Return a decision in words, with what could have been seen."""
    if decision is not Decision.UNDETECTED:
        return decision.value
    if detectable is None:
        return f"{decision.value} (all pairs equal)"
    return f"{decision.value} (could have seen ≥ {math.ceil(100 * detectable) / 100:.2f} points)"


def _by_seed(errors: Mapping[K, Mapping[int, float]]) -> Floats:
    """Return the errors as (values, seeds), seeds rising, NaN where a seed is missing."""
    for value, by_seed in errors.items():
        for seed, error in by_seed.items():
            if not 0 <= error <= 100:
                raise ValueError(f"the test error of {value!r} with seed {seed} must be from 0 to 100, got {error}")
    seeds = sorted({seed for by_seed in errors.values() for seed in by_seed})
    rows = [[by_seed.get(seed, math.nan) for seed in seeds] for by_seed in errors.values()]
    return np.array(rows, dtype=np.float64).reshape(len(errors), len(seeds))


def _as_list(column: Floats) -> list[float | None]:
    """Return a column as Python's numbers, None for NaN."""
    return [None if math.isnan(x) else x for x in column.tolist()]
