"""The statistics of a sweep: means and paired differences with t intervals, p-values and Holm's correction of them.

Runs of one seed share their initial weights, batches and augmentation, so every value is compared with the baseline
seed by seed. Student's t and its noncentral kin are scipy's; Holm's step-down correction
(Scandinavian Journal of Statistics 6, 1979) is here.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import special

ALPHA = 0.05  # of a whole sweep: the chance of a single `helps` or `hurts` where nothing does
POWER = 0.8
SCATTER_CONFIDENCE = 0.8  # that the true scatter is below the bound which the detectable difference is taken from
MAX_DIFFERENCE = 100.0  # between two errors in per cent
ROUNDING = 1e-9  # per cent points: more than floats lose in a difference, far less than one image of any test set

K = TypeVar("K", bound=Hashable)
Floats = NDArray[np.float64]


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


def interval_for_new_images(outcomes: Floats, alpha: float = ALPHA) -> tuple[float, float]:
    """Return the interval of a mean difference for new seeds and new images, from (seeds, images) differences.

    The two-way table without replication, seeds × images, with the variance of its mean from both, and Satterthwaite's
    degrees of freedom (Miller 2024, arXiv 2411.00640, for paired differences per item). NaN for fewer than two of
    either, and without scatter.
    """
    n, m = outcomes.shape
    if min(n, m) < 2:
        return math.nan, math.nan
    mean, by_seed, by_image = outcomes.mean(), outcomes.mean(axis=1), outcomes.mean(axis=0)
    of_seeds = m * float(((by_seed - mean) ** 2).sum()) / (n - 1)
    of_images = n * float(((by_image - mean) ** 2).sum()) / (m - 1)
    rest = float(((outcomes - by_seed[:, None] - by_image + mean) ** 2).sum()) / ((n - 1) * (m - 1))
    spread = (of_seeds**2 / (n - 1)) + (of_images**2 / (m - 1)) + rest**2 / ((n - 1) * (m - 1))
    if spread == 0:
        return math.nan, math.nan
    variance = max(of_seeds + of_images - rest, of_seeds, of_images) / (n * m)
    df = (n * m * variance) ** 2 / spread
    half = float(special.stdtrit(df, 1 - alpha / 2)) * math.sqrt(variance)
    return float(mean) - half, float(mean) + half


def welch(one: Floats, other: Floats) -> tuple[float, float, float, float]:
    """Return the difference of two independent samples' means, its 95 % interval, and the two-sided p of Welch's test.

    NaN for the last three without scatter.
    """
    parts = [float(sample.var(ddof=1)) / len(sample) for sample in (one, other)]
    difference, variance = float(one.mean() - other.mean()), sum(parts)
    if variance == 0:
        return difference, math.nan, math.nan, math.nan
    df = variance**2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, (one, other), strict=True))
    half = float(special.stdtrit(df, 1 - ALPHA / 2)) * math.sqrt(variance)
    p = 2 * float(special.stdtr(df, -abs(difference) / math.sqrt(variance)))
    return difference, difference - half, difference + half, p


def by_seed(
    figures: Mapping[K, Mapping[int, float]], seeds: Sequence[int], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Floats:
    """Return figures as (values, seeds), NaN where a seed is missing.

    Raises:
        ValueError: A figure is NaN, or out of its bounds.
    """
    low, high = bounds
    for value, of_value in figures.items():
        for seed, figure in of_value.items():
            if not low <= figure <= high:
                raise ValueError(f"{value!r} with seed {seed} must be from {low:g} to {high:g}, got {figure}")
    rows = [[of_value.get(seed, math.nan) for seed in seeds] for of_value in figures.values()]
    return np.array(rows, dtype=np.float64).reshape(len(figures), len(seeds))


def skewness(samples: Floats) -> Floats:
    """Return Fisher's g₁ of each row over its figures; NaN where there are fewer than three, or no scatter."""
    counts = np.count_nonzero(~np.isnan(samples), axis=1)
    centred = np.where(np.isnan(samples), 0.0, samples - (np.nansum(samples, axis=1) / np.maximum(1, counts))[:, None])
    second, third = ((centred**power).sum(axis=1) / np.maximum(1, counts) for power in (2, 3))
    told = (counts >= 3) & (second > ROUNDING**2)
    return np.where(told, third / np.where(told, second, 1.0) ** 1.5, np.nan)
