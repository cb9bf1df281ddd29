"""The sequential design: each value gets seeds until it is decided, and the decision is valid at every look.

Declared before the start: the first look at n1 seeds, the last at N, a look at every n between. A paired p at n weighs
n / N; the smallest p over its weight so far is compared with what that minimum would be if nothing made a difference,
which depends on n1 and N alone, since t has no scale. The resulting p never rises from look to look, so that it is
valid whenever one stops, and whatever the other values did; Holm's correction needs no more.

Sources: sequential p-values into Holm's procedure: Liu & Anderson (2008), Maurer & Bretz (2013); group sequential Holm:
Tamhane et al. (Statistics in Medicine 40:5333, 2021); small samples: Rom & McTague (Journal of Biopharmaceutical
Statistics 30:752, 2020).
"""

import io
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tdbench.errors import FolderError
from tdbench.store.files import cache_folder, open_file, write_atomically
from tdbench.store.rows import Decision
from tdbench.sweep.inference import ALPHA, Estimate, Floats, estimate, holm, paired_p_values

NUM_PATHS = 1_000_000
NORMALS_AT_ONCE = 1_000_000
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Design:
    """When a sweep looks at its values, declared before it begins.

    Attributes:
        first: n1, the seeds of the first look.
        last: N, those of the last, which is the end.
        smallest: Δ in per cent points: a value whose interval lies within ±Δ is equivalent; None: none is.
        more_is_better: Of the metric; of errors less is.
    """

    first: int
    last: int
    smallest: float | None = None
    more_is_better: bool = False


@dataclass(frozen=True)
class Standing:
    """Where each compared value stands, an entry of each array per value.

    Attributes:
        estimate: Of the paired differences of the seeds that count.
        num_seeds: Seeds that count: those up to the decision, or so far.
        p: Sequential p of the mean difference being 0; 1 before the first look.
        p_holm: Corrected over all values that are compared.
        low, high: The interval of the difference that is valid at all looks together, for this value alone.
        decisions: What was decided; None: nothing yet.
        wanted: Seeds that the undecided values are to have by the next look.
    """

    estimate: Estimate
    num_seeds: NDArray[np.int64]
    p: Floats
    p_holm: Floats
    low: Floats
    high: Floats
    decisions: list[Decision | None]
    wanted: int


def judge(differences: Floats, is_over: Flags, design: Design) -> Standing:
    """Return what the looks so far say, from the differences alone: neither chance nor the order of trials has a say.

    The values are looked at together, seed by seed. A look waits for all values that are undecided then.

    Args:
        differences: (values, N) value - baseline of each seed, in the order of the seeds; NaN: that pair has no figure.
        is_over: (values, N) whether both trials of the pair have ended, with a figure or without.
        design: When to look.
    """
    num_values = len(differences)
    smallest_p, direction = np.full(num_values, np.inf), np.zeros(num_values)
    p = np.ones(num_values)
    num_seeds = np.zeros(num_values, dtype=np.int64)
    decisions: list[Decision | None] = [None] * num_values
    undecided = np.ones(num_values, dtype=bool)
    wanted = design.first
    for look in range(design.first, design.last + 1):
        wanted = look
        if not undecided.any() or not is_over[undecided, :look].all():
            break
        num_seeds[undecided] = look
        seen = estimate(differences[undecided, :look])
        with np.errstate(invalid="ignore", divide="ignore"):
            weighted = np.where(seen.n >= design.first, paired_p_values(seen) * design.last / seen.n, np.inf)
        at_least = weighted < smallest_p[undecided]  # p belongs to that look, and so does what it says
        direction[undecided] = np.where(at_least, seen.mean, direction[undecided])
        smallest_p[undecided] = np.fmin(smallest_p[undecided], weighted)
        p[undecided] = sequential_p(smallest_p[undecided], design)
        low, high = interval(seen, design)
        corrected = holm(p)
        for row, at in enumerate(np.flatnonzero(undecided)):
            decisions[at] = decide(corrected[at], direction[at], low[row], high[row], design)
            if seen.n[row] == 0:  # its trials have no such figure
                decisions[at] = Decision.TOO_FEW
        undecided &= np.array([decision is None for decision in decisions], dtype=bool)
    if undecided.any() and is_over[undecided].all():
        for at in np.flatnonzero(undecided):
            decisions[at] = Decision.UNDECIDED
    counted = np.where(np.arange(differences.shape[1]) < num_seeds[:, None], differences, np.nan)
    seen = estimate(counted)
    return Standing(seen, num_seeds, p, holm(p), *interval(seen, design), decisions, wanted)


def decide(p_holm: float, mean: float, low: float, high: float, design: Design) -> Decision | None:
    """Return what a look decides of a value; None: nothing."""
    if p_holm <= ALPHA:
        return Decision.HELPS if (mean < 0) != design.more_is_better else Decision.HURTS
    if design.smallest is not None and -design.smallest < low and high < design.smallest:
        return Decision.EQUIVALENT
    return None


def interval(seen: Estimate, design: Design) -> tuple[Floats, Floats]:
    """Return the interval of each mean that holds at all looks together in 95 % of sweeps; NaN without scatter."""
    with np.errstate(invalid="ignore", divide="ignore"):
        half = special.stdtrit(seen.n - 1, 1 - level_at(seen.n, design) / 2) * seen.std / np.sqrt(seen.n)
    half = np.where((seen.std > 0) & (seen.n >= design.first), half, np.nan)
    return seen.mean - half, seen.mean + half


def level_at(n: Any, design: Design) -> Any:
    """Return the level that an interval at n seeds has for all looks together to have ALPHA."""
    return critical(design) * np.minimum(n, design.last) / design.last


def sequential_p(smallest_p: Floats, design: Design) -> Floats:
    """Return the p of a path whose smallest weighted p so far is this: exact for one look, simulated for several."""
    if design.first == design.last:
        return np.minimum(smallest_p, 1.0)
    below = np.searchsorted(null_minima(design.first, design.last), smallest_p, side="right")
    return (1 + below) / (NUM_PATHS + 1)


def critical(design: Design) -> float:
    """Return c, the weighted p at which a single value is decided: the sequential p there is ALPHA."""
    if design.first == design.last:
        return ALPHA
    return float(null_minima(design.first, design.last)[int(ALPHA * (NUM_PATHS + 1)) - 2])


@cache
def null_minima(first: int, last: int) -> Floats:
    """Return the smallest weighted p of each of NUM_PATHS sweeps in which nothing makes a difference, rising.

    They take some seconds, and are kept in the user's cache, where that can be written.
    """
    path = cache_folder() / f"sequential-{first}-{last}-{NUM_PATHS}.npy"
    with suppress(OSError, ValueError, EOFError), open_file(path) as file:
        kept = np.load(file)
        if kept.shape == (NUM_PATHS,) and kept.dtype == np.float64 and (np.diff(kept) >= 0).all():
            return np.asarray(kept)
    minima = simulated_minima(first, last, NUM_PATHS)
    written = io.BytesIO()
    np.save(written, minima)
    with suppress(OSError, FolderError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, written.getbuffer())
    return minima


def simulated_minima(first: int, last: int, num_paths: int) -> Floats:
    """Return the smallest weighted p over the looks of paths of standard normal differences, rising."""
    generator = np.random.default_rng([first, last])
    parts = []
    at_once = NORMALS_AT_ONCE // last
    for begin in range(0, num_paths, at_once):
        normals = generator.standard_normal((last, min(at_once, num_paths - begin)))
        parts.append(smallest_weighted_p(normals, first))
    return np.sort(np.concatenate(parts))


def smallest_weighted_p(paths: Floats, first: int) -> Floats:
    """Return the smallest of p · N / n over the looks from `first` to N, of differences (N, paths)."""
    last = len(paths)
    sums, squares = np.cumsum(paths, axis=0), np.cumsum(paths**2, axis=0)
    smallest = np.full(paths.shape[1], np.inf)
    for n in range(first, last + 1):
        variance = (squares[n - 1] - sums[n - 1] ** 2 / n) / (n - 1)
        t = np.abs(sums[n - 1]) / np.sqrt(n * variance)
        smallest = np.minimum(smallest, 2 * special.stdtr(n - 1, -t) * last / n)
    return smallest
