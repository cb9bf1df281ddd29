"""`compare`: the verdicts of a sweep for runs that were made elsewhere, from tables and from tdbench's own folders."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tdbench.errors import ConfigError, nearest
from tdbench.store.files import counted
from tdbench.store.folders import SWEEP, SweepFolder
from tdbench.store.rows import MORE_IS_BETTER, TEST_ERROR
from tdbench.sweep.figures import NONE, Figures, merge, of_runs, of_sweeps, of_table

COLUMNS = (
    *("n", "mean", "std", "ci95_low", "ci95_high", "delta_vs_baseline", "delta_ci95_low", "delta_ci95_high"),
    *("p_value", "p_holm", "verdict", "detectable", "num_better", "num_pairs"),
)


@dataclass(frozen=True)
class Comparison:
    """What runs say of each value.

    Attributes:
        metric: What is compared.
        rows: The cells of `COLUMNS` and `value`, a row per value, the baseline first.
        differences: What differs between the configurations of sweeps that are compared, and what is to be known of the
            runs, in lines.
        is_paired: Runs of one seed were compared with each other.
        more_is_better: Of the metric.
    """

    metric: str
    rows: list[dict[str, Any]]
    differences: list[str] = field(default_factory=list)
    is_paired: bool = True
    more_is_better: bool = False

    def _repr_html_(self) -> str:
        from pandas import DataFrame

        return DataFrame(self.rows).to_html(index=False)


def compare(
    *sources: str | Path,
    value: str | None = None,
    seed: str = "seed",
    metric: str | None = None,
    higher_is_better: bool | None = None,
    baseline: str | None = None,
    unpaired: bool = False,
) -> Comparison:
    """Compare runs that are there already, value by value with a baseline, paired by their seeds.

    Args:
        *sources: CSV files; folders of run folders; or two sweep folders or more, of which the first is the baseline.
        value: The column, or in folders the key of the configuration, that tells what is compared.
        seed: The column that tells which runs belong together.
        metric: The column, or field of `result.json`; None: that of the sweeps, else `test_error_pct`.
        higher_is_better: Of the metric; None: as tdbench knows its own fields or a sweep says, else less is.
        baseline: The value that the others are compared with; None: `none`.
        unpaired: Compare by Welch's test, with any seeds.

    Raises:
        TdbenchError: A source cannot be read, lacks a column, or holds what it cannot be.
    """
    if not sources:
        raise ConfigError("compare needs a CSV file, a folder of runs, or sweep folders")
    paths = [Path(source) for source in sources]
    differences: list[str] = []
    declared = [SweepFolder(path).read_sweep() or {} for path in paths if (path / SWEEP).exists()]
    if metric is None:
        metric = next((str(tree["metric"]) for tree in declared if "metric" in tree), TEST_ERROR)
    if higher_is_better is None:
        higher_is_better = next((tree["higher_is_better"] for tree in declared if "higher_is_better" in tree), None)
    if all((path / SWEEP).exists() for path in paths) and value is None:
        if len(paths) < 2:
            raise ConfigError(f"{paths[0]} is a sweep, which has its verdicts: name another one to compare it with")
        found, differences = of_sweeps(paths, metric)
        first = next(iter(found), "").partition(": ")[0]
        pairs = {name: f"{first}: {name.partition(': ')[2]}" for name in found}
        pairs = {name: other for name, other in pairs.items() if name != other and other in found}
    else:
        found = {}
        for path in paths:
            read = of_table(path, value, seed, metric) if path.is_file() else of_runs(path, value, metric)
            merge(found, read, path)
        pairs = against(found, baseline)
    more = MORE_IS_BETTER.get(metric, False) if higher_is_better is None else higher_is_better
    check_seeds(found, pairs, unpaired)
    differences += left_out(found, pairs, unpaired) + looked_at(paths)
    rows = by_welch(found, pairs, more, metric) if unpaired else by_pairs(found, pairs, more, metric)
    return Comparison(metric, rows, differences, not unpaired, more)


def left_out(found: Figures, pairs: Mapping[str, str], unpaired: bool) -> list[str]:
    """Return in words which runs a paired comparison leaves out, since the other one has no run of their seed."""
    told = []
    for value, baseline in {} if unpaired else pairs.items():
        alone = sorted(found[value].keys() ^ found[baseline].keys())
        if alone:
            seeds = counted(len(alone), "seed")
            told.append(f"{value}: {seeds} left out, of which it or {baseline} has no run: {', '.join(alone[:8])}")
    return told


def looked_at(paths: Sequence[Path]) -> list[str]:
    """Return a line for each source that is of a sequential sweep, whose own table allows for its looks."""
    told = []
    for path in paths:
        folder = path.parent if path.is_file() else path
        tree = SweepFolder(folder).read_sweep() if (folder / SWEEP).exists() else None
        if tree is not None and (tree.get("first_look") or ".." in str(tree.get("seeds", ""))):
            told.append(
                f"{path}: its seeds were chosen by looking, which p here does not allow for; {folder}/summary.csv does"
            )
    return told


def against(found: Figures, baseline: str | None) -> dict[str, str]:
    """Return each value with what it is compared with.

    Raises:
        ConfigError: The baseline is not among the values.
    """
    name = NONE if baseline is None else baseline
    if not found:
        raise ConfigError("no run has a figure to compare")
    if baseline is None and NONE not in found:
        raise ConfigError(f"--baseline must say which value the others are compared with, of {', '.join(found)}")
    if name not in found:
        raise ConfigError(
            f"--baseline must be one of the values {', '.join(found)}, got {name!r}{nearest(name, found)}"
        )
    return {value: name for value in found if value != name}


def check_seeds(found: Figures, pairs: Mapping[str, str], unpaired: bool) -> None:
    """Check that there is something to compare.

    Raises:
        ConfigError: There are no two values, or a value shares fewer than two seeds with its baseline.
    """
    if not pairs:
        raise ConfigError(f"there is nothing to compare: the values are {', '.join(found) or 'none'}")
    for value, baseline in pairs.items():
        shared = found[value].keys() & found[baseline].keys()
        if not unpaired and len(shared) < 2:
            raise ConfigError(
                f"{value} and {baseline} share {len(shared)} seed(s), and a paired test needs two at least; --unpaired "
                "tests runs of different seeds, by Welch's test"
            )
        if unpaired and min(len(found[value]), len(found[baseline])) < 2:
            raise ConfigError(f"{value} and {baseline} must have two runs each at least")


def by_pairs(found: Figures, pairs: Mapping[str, str], more: bool, metric: str) -> list[dict[str, Any]]:
    """Return the rows, compared seed by seed, as a sweep of a fixed design."""
    from tdbench.sweep.judging import Evidence
    from tdbench.sweep.verdicts import summarise

    numbers = {seed: number for number, seed in enumerate(sorted({seed for of in found.values() for seed in of}))}
    figures = {value: {numbers[seed]: x for seed, x in of.items()} for value, of in found.items()}
    summary = summarise(Evidence(figures, pairs, more_is_better=more, in_points="_pct" in metric))
    names = {"mean": "test_error_pct_mean", "std": "test_error_pct_std"}
    return [
        {"value": value, **{name: getattr(summary[value], names.get(name, name)) for name in COLUMNS}}
        for value in in_order(found, pairs)
    ]


def by_welch(found: Figures, pairs: Mapping[str, str], more: bool, metric: str) -> list[dict[str, Any]]:
    """Return the rows, compared by Welch's test, whatever the seeds."""
    import numpy as np

    from tdbench.sweep.inference import ALPHA, estimate, holm, welch

    samples = {value: np.array([*of.values()]) for value, of in found.items()}
    tests = {value: welch(samples[value], samples[baseline]) for value, baseline in pairs.items()}
    corrected = dict(zip(tests, holm(np.array([p for *_, p in tests.values()])).tolist(), strict=True))
    rows = []
    for value in in_order(found, pairs):
        own = estimate(samples[value][None])
        row: dict[str, Any] = {"value": value, **dict.fromkeys(COLUMNS), "n": int(own.n[0]), "verdict": "baseline"}
        figures = {"mean": own.mean[0], "std": own.std[0], "ci95_low": own.low[0], "ci95_high": own.high[0]}
        if value in pairs:
            difference, low, high, p = tests[value]
            figures |= {"delta_vs_baseline": difference, "delta_ci95_low": low, "delta_ci95_high": high}
            figures |= {"p_value": p, "p_holm": corrected[value]}
            claimed = "helps" if (difference < 0) != more else "hurts"
            decided = min(len(samples[value]), len(samples[pairs[value]])) > 2 and corrected[value] <= ALPHA
            row["verdict"] = f"{claimed if decided else 'no detectable difference'} (unpaired)"
        row |= {name: None if math.isnan(x) else float(x) for name, x in figures.items()}
        rows.append(row)
    return rows


def in_order(found: Figures, pairs: Mapping[str, str]) -> list[str]:
    """Return the values, each baseline before those that are compared with it; others are left out."""
    return [value for value in found if value in pairs.values()] + [value for value in found if value in pairs]
