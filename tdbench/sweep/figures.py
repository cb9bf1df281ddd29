"""The figures of runs that were made elsewhere, read from tables, from folders of runs, and from sweeps."""

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tdbench.config.tree import flatten
from tdbench.errors import ConfigError, FolderError, nearest
from tdbench.store.files import as_text, open_file
from tdbench.store.folders import CONFIG, TRIALS, RunFolder, SweepFolder
from tdbench.store.rows import MORE_IS_BETTER

NONE = "none"
Figures = dict[str, dict[str, float]]  # value -> seed -> the metric


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
    if len(reader.fieldnames or []) == 1 and (mark := re.search("[;\t]", str(reader.fieldnames))):
        raise ConfigError(f"{path} must have commas between its columns, and seems to have {mark[0]!r}")
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
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = list(map(str, paths))
    if len(set(names)) < len(names):
        raise ConfigError(f"the sweeps must be different ones, got {', '.join(names)}")
    found: Figures = {}
    bases = []
    for path, own_name in zip(paths, names, strict=True):
        tree = SweepFolder(path).read_sweep() or {}
        keys = [*tree.get("sweep", {})] or ["arm"]
        bases.append(flatten(tree.get("base", {})))
        with open_file(path / "trials.csv") as file:
            rows = list(csv.DictReader(file.read().decode().splitlines()))
        if rows and metric not in rows[0]:
            known = [one for one in rows[0] if one not in ("trial", "digest", "status", "error")]
            raise ConfigError(f"--metric {metric}: {path} has no such figure{nearest(metric, known)}")
        header = [*rows[0]] if rows else []
        shown = header[header.index("seed") + 1 : header.index("digest")] if "digest" in header else []
        for row in rows:
            if row["status"] == "done" and row.get(metric):
                name = ", ".join(row[key] for key in shown or keys)
                add(found, f"{own_name}: {name}", row["seed"], row[metric], f"{path / 'trials.csv'}")
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
