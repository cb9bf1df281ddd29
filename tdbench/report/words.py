"""What the sections of a report share: how a section is put together, and how figures and environments are written."""

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tdbench.config.trust import code_names
from tdbench.report.drawing import Picture
from tdbench.report.rows import Row
from tdbench.report.sources import SweepSource
from tdbench.report.tables import Table
from tdbench.store.files import as_text, counted

DECIDED = ("helps", "hurts", "equivalent")
MOST_CURVES, MOST_CLASSES = 8, 40
MEASURED = ("data_wait_pct",)  # in environment.json, another in every run


@dataclass(frozen=True)
class Section:
    """A part of a report: a heading, and below it what there is of words, pictures and tables, in this order."""

    title: str
    words: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()  # a list at the end
    code: Sequence[str] = ()


def shown(x: float, form: str = ".2f") -> str:
    """Return a figure with a proper minus sign; a dash where there is none."""
    return "—" if math.isnan(x) else format(x, form).replace("-", "−")


def between(low: float, high: float, form: str = ".2f") -> str:
    """Return an interval; a dash where there is none."""
    return "—" if math.isnan(low) or math.isnan(high) else f"{shown(low, form)} to {shown(high, form)}"


def form_of(sweep: SweepSource) -> str:
    """Return the form of a difference of a sweep's metric."""
    return "+.2f" if "_pct" in sweep.metric else "+.3g"


def n_of(rows: Sequence[Row], of_pairs: SweepSource | None = None) -> str:
    """Return the seeds of some rows in words; given the sweep, those that each shares with its baseline."""
    counts = [int(row["n"] or 0) if of_pairs is None else of_pairs.num_pairs(row) for row in rows]
    fewest, most = min(counts, default=0), max(counts, default=0)
    return f"n = {most} seeds" if fewest == most else f"n = {fewest} to {most} seeds"


def settings_of(tree: Mapping[str, Any]) -> list[str]:
    """Return a tree of settings as lines, each with its dotted key."""
    return [
        f"{key}: {', '.join(map(as_text, value)) if isinstance(value, list) else as_text(value)}"
        for key, value in leaves(tree)
    ]


def leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each leaf of a tree."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def commands_of(environments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the commands that runs were started with, each once."""
    given = [one["command"] for one in environments if isinstance(one.get("command"), list)]
    return list(dict.fromkeys(shlex.join(["tdbench", *map(str, command[1:])]) for command in given))


def trust_for(asked: Mapping[str, Any]) -> str:
    """Return the flag that a command needs for what `sweep.yaml` or `tune.yaml` asks for, where that names code."""
    return " --trust" if asked.get("command") or any(code_names(asked)) else ""


def environment_lines(environments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what runs ran on, a line each; where that was not the same for all, every value with its runs."""
    lines = []
    for name in dict.fromkeys(name for one in environments for name in one if name not in MEASURED):
        values = Counter(
            as_text(one[name])
            for one in environments
            if isinstance(one.get(name), (str, int, float)) and one[name] != ""
        )
        if len(values) == 1:
            lines.append(f"{name}: {next(iter(values))}")
        elif values:
            lines.append(f"{name}: " + "; ".join(f"{value} ({counted(n, 'run')})" for value, n in values.items()))
    return lines
