"""`compare`: the verdicts of a sweep for runs that were made elsewhere, from tables and from tdbench's own folders."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tdbench.config.tree import flatten
from tdbench.errors import ConfigError, FolderError, nearest
from tdbench.store.files import as_text, open_file
from tdbench.store.folders import CONFIG, SWEEP, TRIALS, RunFolder, SweepFolder
from tdbench.store.rows import MORE_IS_BETTER, TEST_ERROR, RunResult, columns

NONE = "none"
Figures = dict[str, dict[str, float]]  # value -> seed -> the metric

COLUMNS = (
    *("n", "mean", "std", "ci95_low", "ci95_high", "delta_vs_baseline", "delta_ci95_low", "delta_ci95_high"),
    *("p_value", "p_holm", "verdict", "detectable", "num_better"),
)


@dataclass(frozen=True)
class Comparison:
    """What runs say of each value.

    Attributes:
        metric: What is compared.
        rows: The cells of `COLUMNS` and `value`, a row per value, the baseline first.
        differences: What differs between the configurations of sweeps that are compared, in lines.
        is_paired: Runs of one seed were compared with each other.
    """

    metric: str
    rows: list[dict[str, Any]]
    differences: list[str] = field(default_factory=list)
    is_paired: bool = True

    def _repr_html_(self) -> str:
        from pandas import DataFrame

        return DataFrame(self.rows).to_html(index=False)


def compare(
    *sources: str | Path,
    value: str | None = None,
    seed: str = "seed",
    metric: str = TEST_ERROR,
    higher_is_better: bool | None = None,
    baseline: str | None = None,
    unpaired: bool = False,
) -> Comparison:
    """Compare runs that are there already, value by value with a baseline, paired by their seeds.

    Args:
        *sources: CSV files; folders of run folders; or two sweep folders or more, of which the first is the baseline.
        value: The column, or in folders the key of the configuration, that tells what is compared.
        seed: The column that tells which runs belong together.
        metric: The column, or field of `result.json`.
        higher_is_better: Of the metric; None: as tdbench knows its own fields, else less is.
        baseline: The value that the others are compared with; None: `none`.
        unpaired: Compare by Welch's test, with any seeds.

    Raises:
        TdbenchError: A source cannot be read, lacks a column, or holds what it cannot be.
    """
    if not sources:
        raise ConfigError("compare needs a CSV file, a folder of runs, or sweep folders")
    paths = [Path(source) for source in sources]
    differences: list[str] = []
    if all((path / SWEEP).exists() for path in paths) and value is None:
        if len(paths) < 2:
            raise ConfigError(f"{paths[0]} is a sweep, which has its verdicts: name another one to compare it with")
        found, differences = of_sweeps(paths, metric)
        pairs = {name: f"{paths[0].name}: {name.partition(': ')[2]}" for name in found}
        pairs = {name: other for name, other in pairs.items() if name != other and other in found}
    else:
        found = {}
        for path in paths:
            read = of_table(path, value, seed, metric) if path.is_file() else of_runs(path, value, metric)
            merge(found, read, path)
        pairs = against(found, baseline)
    more = MORE_IS_BETTER.get(metric, False) if higher_is_better is None else higher_is_better
    check_seeds(found, pairs, unpaired)
    rows = by_welch(found, pairs, more, metric) if unpaired else by_pairs(found, pairs, more, metric)
    return Comparison(metric, rows, differences, not unpaired)


def of_table(path: Path, value: str | None, seed: str, metric: str) -> Figures:
    """Return the figures in a CSV file with a header.

    Raises:
        ConfigError: A column is missing, a figure is no number, or a value has a seed twice.
    """
    if value is None:
        raise ConfigError(f"--value must name the column of {path} that tells what is compared")
    with open_file(path) as file:
        lines = file.read().decode("utf-8-sig", errors="replace").splitlines()
    reader = csv.DictReader(lines)
    for name, flag in ((value, "--value"), (seed, "--seed"), (metric, "--metric")):
        if name not in (known := reader.fieldnames or []):
            raise ConfigError(
                f"{path} has no column {name!r} for {flag}{nearest(name, known)} (it has {', '.join(known)})"
            )
    found: Figures = {}
    for row in reader:
        if row[metric] in ("", None):  # of a run that did not finish
            continue
        add(found, str(row[value]), str(row[seed]), row[metric], f"line {reader.line_num} of {path}")
    return found


def of_runs(folder: Path, value: str | None, metric: str) -> Figures:
    """Return the figures of the runs in a folder of run folders, or in the trials of a sweep's.

    Raises:
        TdbenchError: There are none, or one lacks the key or the field.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder} is neither a CSV file nor a folder")
    if value is None:
        raise ConfigError(f"--value must name the key of the runs in {folder} that tells what is compared")
    check_field(metric)
    trials = folder / TRIALS
    found: Figures = {}
    for path in sorted(one.parent for one in (trials if trials.is_dir() else folder).glob(f"*/{CONFIG}")):
        run = RunFolder(path)
        result, keys = run.read_result(), flatten(run.read_config() or {})
        if result is None or not result.is_done or getattr(result, metric) is None:
            continue
        names = [key for key in keys if key == value or key.endswith(f".{value}")]
        if value == "regularizer":
            names = ["regularizer.name"]
        if len(names) != 1 and keys.get("regularizer.name") == NONE:
            names, keys = [value], {value: NONE}
        if len(names) != 1:
            raise ConfigError(f"--value {value}: the run {path} has no such key{nearest(value, keys)}")
        add(found, as_text(keys[names[0]]), str(result.seed), getattr(result, metric), str(path))
    if not found:
        raise FolderError(f"{folder} holds no finished run of tdbench with a {metric}")
    return found


def of_sweeps(paths: Sequence[Path], metric: str) -> tuple[Figures, list[str]]:
    """Return the figures of several sweeps, each value named after its folder, and how their configurations differ.

    Raises:
        TdbenchError: A table cannot be read, or two folders have one name.
    """
    check_field(metric)
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        raise ConfigError(f"the sweeps' folders must have names of their own, got {', '.join(map(str, paths))}")
    found: Figures = {}
    bases = []
    for path in paths:
        tree = SweepFolder(path).read_sweep() or {}
        keys = [*tree.get("sweep", {})] or ["arm"]
        bases.append(flatten(tree.get("base", {})))
        with open_file(path / "trials.csv") as file:
            rows = list(csv.DictReader(file.read().decode().splitlines()))
        shown = [one for one in (rows[0] if rows else {}) if one not in columns(RunResult) and one != "trial"]
        for row in rows:
            if row["status"] == "done" and row.get(metric):
                name = ", ".join(row[key] for key in shown or keys)
                add(found, f"{path.name}: {name}", row["seed"], row[metric], f"{path / 'trials.csv'}")
    first = bases[0]
    told = []
    for key in sorted({key for base in bases for key in base}):
        if any(base.get(key) != first.get(key) for base in bases):
            values = [f"{base.get(key, 'default')} in {name}" for base, name in zip(bases, names, strict=True)]
            told.append(f"{key}: {', '.join(values)}")
    return found, told


def check_field(metric: str) -> None:
    """Raise ConfigError unless results have a field of this name that is a number."""
    if metric not in MORE_IS_BETTER:
        raise ConfigError(
            f"--metric must be one of {', '.join(MORE_IS_BETTER)}, got {metric!r}{nearest(metric, MORE_IS_BETTER)}"
        )


def add(found: Figures, value: str, seed: str, figure: Any, where: str) -> None:
    """Add a figure.

    Raises:
        ConfigError: It is no finite number, or the value has that seed already.
    """
    try:
        number = float(figure)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{where}: the metric must be a number, got {figure!r}")
    of_value = found.setdefault(value, {})
    if seed in of_value:
        raise ConfigError(f"{where}: {value} with seed {seed} stands there twice")
    of_value[seed] = number


def merge(found: Figures, more: Figures, path: Path) -> None:
    """Add the figures of another source."""
    for value, of_value in more.items():
        for seed, figure in of_value.items():
            add(found, value, seed, figure, str(path))


def against(found: Figures, baseline: str | None) -> dict[str, str]:
    """Return each value with what it is compared with.

    Raises:
        ConfigError: The baseline is not among the values.
    """
    name = NONE if baseline is None else baseline
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
